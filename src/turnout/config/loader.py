"""Where settings come from: flag > ``TURNOUT_*`` > file > profile > default. Every value remembers who set it."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import msgspec.inspect

from turnout.config.document import Document, KeyPath, parse_document, parse_scalar, read_document, spell
from turnout.config.paths import Paths
from turnout.config.schema import RESERVED, Settings
from turnout.core.errors import SetupError
from turnout.core.words import AUTO, ROLES

NAMED_ENTRIES = {"models", "aliases", "chains", "providers", "profiles"}
"""Sections whose entries replace each other whole: half a model from a profile helps nobody."""
EXTENDS = "extends"
"""What a profile may say beside settings: which other profile it changes."""
PLAIN_VARIABLES = {"TURNOUT_CONFIG", "TURNOUT_URL", "TURNOUT_KEY"}
"""Variables that are not settings: which file, which daemon, which key."""


class LoadedConfig:
    """Settings together with the origin of each value.

    Args:
        settings: The checked result.
        merged: The same as plain values, as far as anybody set them.
        origins: ``file:line``, ``TURNOUT_...``, ``--flag`` or ``profile NAME`` by path.
        file: The file that was read, if any.
        warnings: What is legal but probably not meant.
    """

    def __init__(
        self,
        settings: Settings,
        merged: dict[str, Any],
        origins: dict[KeyPath, str],
        file: Path | None,
        warnings: list[str],
    ) -> None:
        self.settings = settings
        self.merged = merged
        self.origins = origins
        self.file = file
        self.warnings = warnings

    def where(self, path: KeyPath) -> str:
        """Return the origin of a value, or of the nearest parent that has one; ``default`` if nobody set it."""
        while path:
            if path in self.origins:
                return self.origins[path]
            path = path[:-1]
        return "default"

    def problem(self, path: KeyPath, message: str, hint: str = "") -> SetupError:
        """Return the error for a value that is wrong, with its origin and full path."""
        return SetupError(f"{self.where(path)}: {spell(path)}: {message}", hint=hint)


def load_config(
    paths: Paths,
    *,
    file: Path | None = None,
    flags: Mapping[KeyPath, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> LoadedConfig:
    """Read, merge and check the configuration.

    Args:
        paths: The installation's directories.
        file: A file named by the user; else ``TURNOUT_CONFIG``, else the one in the configuration directory.
        flags: Values from the command line, by path.
        environment: Environment variables; the process's own if left out.

    Raises:
        SetupError: With file, line and full path of what is wrong.
    """
    environment = os.environ if environment is None else environment
    document, path = _find_document(paths, file, environment)
    warnings: list[str] = []
    from_environment = _read_environment(environment, warnings)
    from_variable, variable = from_environment.pop(("profile",), (None, ""))
    profile_name = str((flags or {}).get(("profile",)) or from_variable or document.values.get("profile") or "auto")
    merged: dict[str, Any] = {}
    origins: dict[KeyPath, str] = {}
    for name, profile in _find_profiles(profile_name, document):
        _merge(merged, profile.values, (), partial(_where_in_profile, name, profile), origins)
    _merge(merged, document.values, (), document.where, origins)
    if from_variable:
        origins[("profile",)] = variable
    for key_path, (value, variable) in from_environment.items():
        _set(merged, key_path, value)
        origins[key_path] = variable
    for key_path, value in (flags or {}).items():
        _set(merged, key_path, value)
        origins[key_path] = "--" + str(key_path[-1])
    merged["profile"] = profile_name
    loaded = LoadedConfig(Settings(), merged, origins, path, warnings)
    loaded.settings = _check(merged, loaded)
    _cross_check(loaded)
    return loaded


def built_in_profiles() -> list[str]:
    """Return the names of the profiles that ship with turnout."""
    folder = resources.files("turnout.config") / "profiles"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def _find_document(paths: Paths, file: Path | None, environment: Mapping[str, str]) -> tuple[Document, Path | None]:
    if file is None and environment.get("TURNOUT_CONFIG"):
        file = Path(environment["TURNOUT_CONFIG"])
    if file is None and paths.config_file.exists():
        file = paths.config_file
    if file is None:
        return Document({}, {}, "no file"), None
    return read_document(file), file


def _find_profiles(name: str, document: Document) -> list[tuple[str, Document]]:
    """Return a profile with all that it extends, the deepest first."""
    found: list[tuple[str, Document]] = []
    seen = {(name, False)}
    where, is_built_in = f"{document.where(('profile',))}: profile", False
    while name:
        profile = _find_profile(name, document, where, is_built_in=is_built_in)
        found.insert(0, (name, profile))
        parent = profile.values.pop(EXTENDS, "")
        where = f"{profile.where((EXTENDS,))}: {spell(('profiles', name, EXTENDS))}"
        if not isinstance(parent, str):
            raise SetupError(f"{where}: expected the name of a profile")
        is_built_in = parent == name and not is_built_in  # `dev: {extends: dev}` changes the built-in one
        if (parent, is_built_in) in seen:
            raise SetupError(f"{where}: profile {parent!r} would extend itself", hint="one of them has to stand alone")
        seen.add((parent, is_built_in))
        name = parent
    return found


def _where_in_profile(name: str, profile: Document, path: KeyPath) -> str:
    return f"profile {name} ({profile.where(path)})"


def _find_profile(name: str, document: Document, where: str, *, is_built_in: bool) -> Document:
    own = document.values.get("profiles")
    if isinstance(own, dict) and name in own and not is_built_in:
        values = own[name]
        if not isinstance(values, dict):
            raise SetupError(f"{document.where(('profiles', name))}: profiles.{name}: expected keys and values")
        lines = {p[2:]: line for p, line in document.lines.items() if p[:2] == ("profiles", name)}
        return Document(dict(values), lines, document.name)
    if name in built_in_profiles():
        text = (resources.files("turnout.config") / "profiles" / f"{name}.yaml").read_text(encoding="utf-8")
        return parse_document(text, "built in")
    known = built_in_profiles() + (sorted(own) if isinstance(own, dict) else [])
    raise SetupError(f"{where}: there is no profile {name!r}", hint=f"one of: {', '.join(dict.fromkeys(known))}")


def _read_environment(environment: Mapping[str, str], warnings: list[str]) -> dict[KeyPath, tuple[Any, str]]:
    result: dict[KeyPath, tuple[Any, str]] = {}
    for variable, text in sorted(environment.items()):
        if not variable.startswith("TURNOUT_") or variable in PLAIN_VARIABLES:
            continue
        key_path = tuple(variable.removeprefix("TURNOUT_").lower().split("__"))
        if key_path[0] not in Settings.__struct_fields__:
            warnings.append(f"{variable}: there is no setting {spell(key_path)!r}; the variable is ignored")
            continue
        try:
            result[key_path] = (parse_scalar(text), variable)
        except SetupError:
            raise SetupError(f"{variable}: {text!r} is not valid YAML", hint="put the value in quotes") from None
    return result


def _merge(
    into: dict[str, Any], values: dict[str, Any], path: KeyPath, where: Any, origins: dict[KeyPath, str]
) -> None:
    for key, value in values.items():
        here = (*path, key)
        if isinstance(value, dict) and not (len(here) == 2 and here[0] in NAMED_ENTRIES):
            nested = into.get(key)
            into[key] = nested if isinstance(nested, dict) else {}
            _merge(into[key], value, here, where, origins)
        else:
            for old in [known for known in origins if known[: len(here)] == here]:
                del origins[old]  # what it was before is gone whole
            if value is None and key in into and len(here) == 2 and here[0] in NAMED_ENTRIES:
                del into[key]  # somebody's entry that is not wanted here
                continue
            into[key] = value
            _note_nested(value, here, where, origins)
        origins[here] = where(here)


def _note_nested(value: Any, path: KeyPath, where: Any, origins: dict[KeyPath, str]) -> None:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, nested in items:
        origins[(*path, key)] = where((*path, key))
        _note_nested(nested, (*path, key), where, origins)


def _set(into: dict[str, Any], path: KeyPath, value: Any) -> None:
    for part in path[:-1]:
        nested = into.get(str(part))
        if not isinstance(nested, dict):
            nested = into[str(part)] = {}
        into = nested
    into[str(path[-1])] = value


def _check(merged: dict[str, Any], loaded: LoadedConfig) -> Settings:
    try:
        return msgspec.convert(merged, Settings, strict=True)
    except msgspec.ValidationError as error:
        raise explain(error, (), Settings, loaded) from None


def explain(error: msgspec.ValidationError, base: KeyPath, schema: type, loaded: LoadedConfig) -> SetupError:
    """Turn msgspec's message into one with origin, full path and near matches.

    Args:
        error: As raised by ``msgspec.convert``.
        base: Path of the converted value within the file.
        schema: The struct that was expected there, for near matches.
        loaded: Knows the origins.
    """
    message, _, dollar = str(error).partition(" - at `$")
    message = message.replace("`", "'")
    path = base + _path_of(dollar, error, schema, _value_at(loaded.merged, base))
    hint = ""
    if match := re.search(r"unknown field '(.+?)'", message):
        near = difflib.get_close_matches(match[1], _settings_at(schema, path[len(base) :]), n=3)
        path = (*path, match[1])
        message = "there is no such setting"
        hint = f"did you mean {', '.join(near)}?" if near else "`turnout config schema` lists all settings"
    return loaded.problem(path or ("turnout.yaml",), message[:1].lower() + message[1:], hint)


def _path_of(dollar: str, error: msgspec.ValidationError, schema: type, value: Any) -> KeyPath:
    """Return the path in a message of msgspec's, which says `[...]` where the key of a dict would be."""
    path: KeyPath = ()
    for index, name in re.findall(r"\[(\.\.\.|\d+)\]|([^.\[\]`]+)", dollar):
        part: str | int = name
        if index == "...":
            found = _value_at(value, path)
            keys = list(found) if isinstance(found, dict) else []
            part = next((key for key in keys if _fails_alike(_with_only(value, path, key), schema, error)), "...")
        elif index:
            part = int(index)
        path = (*path, part)
    return path


def _fails_alike(value: Any, schema: type, error: msgspec.ValidationError) -> bool:
    try:
        msgspec.convert(value, schema, strict=True)
    except msgspec.ValidationError as other:
        return str(other) == str(error)
    return False


def _value_at(value: Any, path: KeyPath) -> Any:
    for part in path:
        value = value[part]
    return value


def _with_only(value: Any, path: KeyPath, key: str) -> Any:
    """Return a copy in which the dict at a path has one key left."""
    if not path:
        return {key: value[key]}
    inner = _with_only(value[path[0]], path[1:], key)
    if isinstance(value, list):
        return [inner if index == path[0] else item for index, item in enumerate(value)]
    return {**value, path[0]: inner}


def _settings_at(schema: type, path: KeyPath) -> list[str]:
    """Return the names of the settings that the schema knows at a path."""
    kinds: list[Any] = [msgspec.inspect.type_info(schema)]
    for part in path:
        kinds = [inner for kind in kinds for inner in _inside(kind, part)]
    return [field.encode_name for kind in kinds for field in getattr(_plain(kind), "fields", ())]


def _inside(kind: Any, part: str | int) -> list[Any]:
    kind = _plain(kind)
    if isinstance(kind, msgspec.inspect.UnionType):
        return [inner for one in kind.types for inner in _inside(one, part)]
    if isinstance(kind, msgspec.inspect.StructType):
        return [field.type for field in kind.fields if field.encode_name == part]
    inner = getattr(kind, "item_type", None) or getattr(kind, "value_type", None)
    return [inner] if inner is not None else []


def _plain(kind: Any) -> Any:
    return kind.type if isinstance(kind, msgspec.inspect.Metadata) else kind


def _cross_check(loaded: LoadedConfig) -> None:
    settings = loaded.settings
    for role in settings.chains:
        if role not in ROLES:
            near = difflib.get_close_matches(role, ROLES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"roles are: {', '.join(ROLES)}"
            raise loaded.problem(("chains", role), "there is no such role", hint)
    for name in settings.models:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise loaded.problem(("models", name), "a key is letters, digits, '.', '_' and '-'")
    for pattern, meaning in settings.aliases.items():
        if pattern == AUTO:
            raise loaded.problem(("aliases", pattern), "'auto' cannot be an alias", "set chains.orchestrator instead")
        if meaning in settings.aliases:
            raise loaded.problem(("aliases", pattern), f"{meaning!r} is an alias too", "name a target or a role")
    _check_devices(loaded)
    loaded.warnings.extend(
        f"{loaded.where((key,))}: {key}: this version reads it but does not act on it yet"
        for key in RESERVED
        if key in loaded.merged
    )


def _check_devices(loaded: LoadedConfig) -> None:
    entries = loaded.settings.devices
    seen: set[str] = set()
    for index, entry in enumerate(() if entries == "auto" else entries):
        path: KeyPath = ("devices", index)
        if entry.id in seen:
            raise loaded.problem((*path, "id"), f"{entry.id!r} is there twice")
        seen.add(entry.id)
        if entry.vram_gib is None and entry.kind in ("simulated", "configured"):
            raise loaded.problem(path, f"a {entry.kind} device needs a size", "add vram_gib: 24, for example")
        if entry.vram_gib is not None and entry.headroom_gib is not None and entry.headroom_gib >= entry.vram_gib:
            raise loaded.problem((*path, "headroom_gib"), f"nothing is left of {entry.vram_gib:g} GiB")
