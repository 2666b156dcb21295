"""YAML as people mean it: keys are strings, duplicates are errors, and every value knows its file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from turnout.core.errors import SetupError

KeyPath = tuple[str | int, ...]
MERGE_TAG = "tag:yaml.org,2002:merge"


def spell(path: KeyPath) -> str:
    """Return a path the way an error names it: ``models.tiny.roles[0]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text


class Document:
    """One parsed file.

    Args:
        values: Plain dicts, lists and scalars.
        lines: Line number (from 1) of each value by its path.
        name: The file's name for messages.
    """

    def __init__(self, values: dict[str, Any], lines: dict[KeyPath, int], name: str) -> None:
        self.values = values
        self.lines = lines
        self.name = name

    def where(self, path: KeyPath) -> str:
        """Return ``file:line`` of a path, or of the nearest parent that the file has."""
        while path and path not in self.lines:
            path = path[:-1]
        line = self.lines.get(path)
        return f"{self.name}:{line}" if line else self.name


def read_document(path: Path) -> Document:
    """Read and parse a YAML file.

    Raises:
        SetupError: The file cannot be read, is not YAML, repeats a key, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SetupError(f"configuration file {str(path)!r} does not exist", hint="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"cannot read {str(path)!r}: {error}", hint="it must be a readable UTF-8 file") from error
    return parse_document(text, str(path))


def parse_document(text: str, name: str) -> Document:
    """Parse YAML text; ``name`` is what errors call it.

    Raises:
        SetupError: Not YAML, a key twice, or not a mapping at the top.
    """
    lines: dict[KeyPath, int] = {}
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            values = {} if node is None else _build(loader, node, (), lines, name)
        finally:
            loader.dispose()
    except RecursionError:
        raise SetupError(f"{name}: nested too deeply, or an anchor that holds itself") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise SetupError(f"{where}: not valid YAML: {error.problem}", hint="check indentation and quotes") from None
    except yaml.YAMLError as error:
        raise SetupError(f"{name}: not valid YAML: {error}", hint="it must be UTF-8 text") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise SetupError(f"{name}: expected keys and values at the top, found {type(values).__name__}")
    return Document(values, lines, name)


def parse_scalar(text: str) -> Any:
    """Return the value that YAML sees in a short text (for environment variables): ``8150`` is an integer."""
    return parse_document(f"value: {text}" if text.strip() else "value: ''", "environment").values["value"]


def _build(loader: yaml.SafeLoader, node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], name: str) -> Any:
    lines[path] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key, (value, line) in _entries(node, path, name).items():
            result[key] = _build(loader, value, (*path, key), lines, name)
            lines[(*path, key)] = line
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*path, index), lines, name) for index, item in enumerate(node.value)]
    try:
        return loader.construct_object(node, deep=True)
    except ValueError as error:  # 2024-99-99 looks like a date, 0x_ like a number
        raise SetupError(
            f"{name}:{lines[path]}: {spell(path)}: {node.value!r} cannot be read: {error}", hint="put it in quotes"
        ) from None


def _entries(node: yaml.MappingNode, path: KeyPath, name: str) -> dict[str, tuple[yaml.Node, int]]:
    """Return value and line of each key; what `<<` brings in gives way to the mapping's own keys."""
    own: dict[str, tuple[yaml.Node, int]] = {}
    merged: dict[str, tuple[yaml.Node, int]] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise SetupError(f"{name}:{line}: a key must be a plain word")
        if key.tag == MERGE_TAG:
            for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(source, yaml.MappingNode):
                    raise SetupError(f"{name}:{line}: {spell((*path, '<<'))}: only mappings can be merged")
                merged = _entries(source, path, name) | merged  # of two sources the first counts
        elif key.value in own:
            raise SetupError(f"{name}:{line}: {spell((*path, key.value))} is given twice", hint="keep one of them")
        else:
            own[key.value] = (value, line)
    return merged | own
