"""JSON Schema of the YAML, for editors."""

from __future__ import annotations

from typing import Any

from sidecar.config.model import DEFAULTS, Config

_REFERENCE = {"type": "string", "pattern": r"\$\{"}
"""Any value may be given as `${NAME}`, also where a number belongs."""
_KEPT_OUTSIDE = ("title", "description", "default")


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12): durations and sizes as patterns, `x-…` keys free, nothing required that has a default."""
    schema = Config.model_json_schema()
    schema.pop("required", None)
    schema["$defs"]["Slot"].pop("required", None)
    for key, value in DEFAULTS.items():
        schema["properties"][key]["default"] = value
    schema["patternProperties"] = {"^x-": {"description": "Free, for YAML anchors."}}
    schema["title"] = "directus-sync-sidecar"
    for model in (schema, *schema["$defs"].values()):
        for name, field in model["properties"].items():
            model["properties"][name] = _with_references(field)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _with_references(field: dict[str, Any]) -> dict[str, Any]:
    field.pop("title", None)
    if field.get("type") == "array":
        return {**field, "items": _with_references(field["items"])}
    if "anyOf" in field:
        return {**field, "anyOf": [*field["anyOf"], _REFERENCE]}
    if field.get("type") in {"integer", "boolean"} or "pattern" in field or "enum" in field:
        outside = {key: field[key] for key in _KEPT_OUTSIDE if key in field}
        inside = {key: value for key, value in field.items() if key not in outside}
        return {**outside, "anyOf": [inside, _REFERENCE]}
    return field
