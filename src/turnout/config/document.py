"""YAML as people mean it: keys are strings, duplicates are errors, and every value knows its file and line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from turnout.core.errors import SetupError

KeyPath = tuple[str | int, ...]


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
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        values = {} if node is None else _build(loader, node, (), lines, name)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise SetupError(f"{where}: not valid YAML: {error.problem}", hint="check indentation and quotes") from None
    except yaml.YAMLError as error:
        raise SetupError(f"{name}: not valid YAML: {error}", hint="it must be UTF-8 text") from None
    finally:
        loader.dispose()
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
        for key, value, line in _entries(loader, node, name):
            if key in result:
                raise SetupError(f"{name}:{line}: {spell((*path, key))} is given twice", hint="keep one of them")
            result[key] = _build(loader, value, (*path, key), lines, name)
            lines[(*path, key)] = line
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*path, index), lines, name) for index, item in enumerate(node.value)]
    return loader.construct_object(node, deep=True)


def _entries(loader: yaml.SafeLoader, node: yaml.MappingNode, name: str) -> Iterator[tuple[str, yaml.Node, int]]:
    if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
        loader.flatten_mapping(node)
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise SetupError(f"{name}:{line}: a key must be a plain word")
        yield key.value, value, line
