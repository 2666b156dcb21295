"""The JSON Schema of ``turnout.yaml``: the schema of ``Settings``, with a form for the models of each engine."""

from __future__ import annotations

from typing import Any

import msgspec

from turnout.config.schema import Settings
from turnout.tiers.registry import engine_entry_points, find_engine

DIALECT = "https://json-schema.org/draft/2020-12/schema"
REFERENCE = "#/$defs/{name}"


def config_schema() -> dict[str, Any]:
    """Return the schema.

    Each installed engine brings its own form of an entry under ``models``, told from the others by ``engine``.
    """
    engines = {name: find_engine(name).Settings for name in sorted(engine_entry_points())}
    _, parts = msgspec.json.schema_components([Settings, *engines.values()], ref_template=REFERENCE)
    parts = {str(name): _with_string_keys(part) for name, part in parts.items()}
    for name, settings in engines.items():
        form = parts[settings.__name__]
        form["title"] = f"{name} model"
        form["properties"]["engine"] = {**form["properties"]["engine"], "const": name}
        form["required"] = sorted({*form.get("required", ()), "engine"})
    top = parts.pop("Settings")
    models = top["properties"]["models"]
    models["additionalProperties"] = {
        "anyOf": [
            *({"$ref": REFERENCE.format(name=settings.__name__)} for settings in engines.values()),
            {"type": "null", "title": "takes away what the profile has"},
        ]
    }
    return {"$schema": DIALECT, **top, "title": "turnout.yaml", "$defs": parts}


def _with_string_keys(part: Any) -> Any:
    if isinstance(part, dict):
        return {str(key): _with_string_keys(value) for key, value in part.items()}
    return [_with_string_keys(item) for item in part] if isinstance(part, list) else part
