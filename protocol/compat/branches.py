"""A schema as a list of branches, the form in which `subschema` compares two schemas.

`branches` expands `type`, `anyOf` and `allOf`: a value is valid against the schema exactly if it is valid against one
of its branches. A branch has one type and some groups of keywords, and a value must satisfy all of them.

    {"type": ["string", "null"], "maxLength": 9, "allOf": [{"minLength": 1}]}

    Branch("string", ({"maxLength": 9}, {"minLength": 1}))
    Branch("null", ({"maxLength": 9}, {"minLength": 1}))      # neither keyword restricts null

A group holds the keywords of one schema object. Groups are not merged, because `additionalProperties` is about the
fields that `properties` of the same object does not name. `not`, `oneOf` and `if` stay in their group as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jsonschema

from protocol import codec

Schema = dict[str, Any] | bool
Group = Mapping[str, Any]
"""The keywords of one schema object, without `type`, `allOf` and `anyOf`."""

TYPES = ("boolean", "string", "number", "array", "object", "null")
"""Of JSON; every integer is a number."""


class Branch(NamedTuple):
    """One alternative of a schema: the type of the value, and groups of keywords that it must all satisfy."""

    type: str
    groups: tuple[Group, ...]


def branches(schema: Schema) -> list[Branch]:
    """Expand a schema without `$ref`; no branch is left where nothing can be valid."""
    if isinstance(schema, bool):
        return [Branch(name, ()) for name in TYPES] if schema else []
    types = schema.get("type", TYPES)
    own = {keyword: value for keyword, value in schema.items() if keyword not in ("type", "allOf", "anyOf")}
    found = [Branch(name, (own,) if own else ()) for name in ([types] if isinstance(types, str) else types)]
    for part in schema.get("allOf", ()):
        found = _intersect(found, branches(part))
    if "anyOf" in schema:
        found = _intersect(found, [branch for part in schema["anyOf"] for branch in branches(part)])
    return found


def _intersect(some: list[Branch], others: list[Branch]) -> list[Branch]:
    """Combine each branch of one list with each of another whose type allows it."""
    pairs = [(one, other, common_type(one.type, other.type)) for one in some for other in others]
    return [Branch(type_, one.groups + other.groups) for one, other, type_ in pairs if type_]


def common_type(a: str, b: str) -> str | None:
    """Return the type of the values that are of both types, or None if no value is."""
    return a if a == b else "integer" if {a, b} == {"integer", "number"} else None


def is_valid(value: Any, schema: Schema) -> bool:
    """Validate a value; a pattern that Python cannot compile accepts nothing."""
    try:
        return bool(jsonschema.Draft7Validator(schema).is_valid(value))
    except re.error:
        return False


def finite_values(branch: Branch) -> list[Any] | None:
    """Return every value that may be valid against a branch, or None if its keywords do not list them."""
    type_ = "number" if branch.type == "integer" else branch.type  # jsonschema does not accept a Decimal as an integer
    lists = [[group["const"]] if "const" in group else group.get("enum") for group in branch.groups]
    lists.append({"null": [None], "boolean": [False, True]}.get(type_))
    values = next((values for values in lists if values is not None), None)
    return None if values is None else [value for value in values if is_valid(value, {"type": type_})]


def all_of(schemas: Iterable[Schema]) -> Schema:
    """Return the schema of the values that are valid against each of the schemas."""
    parts = [schema for schema in schemas if schema is not True]
    if len(parts) < 2:
        return parts[0] if parts else True
    return False not in parts and {"allOf": parts}


def named_fields(groups: Iterable[Group]) -> dict[str, None]:
    """Return the fields that `properties` names, in order, each once."""
    return dict.fromkeys(field for group in groups for field in group.get("properties", ()))


def field_schema(group: Group, field: str) -> Any:
    """Return the schema of the value of a field."""
    return group.get("properties", {}).get(field, other_fields(group))


def other_fields(group: Group) -> Any:
    """Return the schema of fields that `properties` does not name; True if patterns give some of them another."""
    return "patternProperties" in group or group.get("additionalProperties", True)


def field_names(groups: Iterable[Group]) -> Schema:
    """Return the schema of the names of the fields."""
    closed: list[Schema] = [{"enum": list(named_fields((group,)))} for group in groups if other_fields(group) is False]
    return all_of([{"type": "string"}, *closed, *(group.get("propertyNames", True) for group in groups)])


def presence(groups: Iterable[Group], field: str) -> str:
    """Return whether a field is required, optional or absent: absent if no group describes it, or one forbids it."""
    if any(field in group.get("required", ()) for group in groups):
        return "required"
    schemas = [field_schema(group, field) for group in groups]
    described = field in named_fields(groups) or any(isinstance(schema, dict) for schema in schemas)
    return "optional" if described and False not in schemas else "absent"


def format_types(found: Iterable[Branch]) -> str:
    """Write the types of some branches: `integer or null`."""
    names = dict.fromkeys(branch.type for branch in found)
    return "any" if set(names) >= set(TYPES) else " or ".join(names) or "nothing"


def format_keyword(groups: Iterable[Group], keyword: str) -> str:
    """Write the value of a keyword; the values if groups differ, and absent if no group has it."""
    return " and ".join(sorted({format_json(group[keyword]) for group in groups if keyword in group})) or "absent"


def format_json(value: Any) -> str:
    """Write JSON on one line, with the fields of objects sorted."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{codec.dumps(key)}: {format_json(item)}" for key, item in sorted(value.items())) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(format_json, value)) + "]"
    text = codec.dumps(value)
    return text if isinstance(value, str) else text.lower().replace("e+", "e")
