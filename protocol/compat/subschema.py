"""How two schemas are related: why what fits one may not fit the other. `diff` is made of it.

Works on whole schemas, without `$ref` and annotations. It errs on one side only: where no proof is at hand, as for one
pattern against another, it gives a reason, and says so.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jsonschema

from protocol import codec

Schema = dict[str, Any] | bool
Group = Mapping[str, Any]
Steps = tuple[str, ...]
"""The way to a field, step by step; * for every other field and for every item."""
Reason = tuple[Steps, str]
"""Where, and in words: the keyword, what it was and what it is."""

GUESS = " (can not be proved to fit)"
"""What words end in where there is no proof."""


class _Way(NamedTuple):
    """One way to fit a schema: to be of this type, and to fit each of these groups of keywords."""

    type: str
    groups: tuple[Group, ...]


# Each limit, and by which keywords with which values it is kept.
_LIMITS: dict[str, dict[str, Callable[[Any, Any], bool]]] = {
    "minimum": {"minimum": operator.ge, "exclusiveMinimum": operator.ge},
    "maximum": {"maximum": operator.le, "exclusiveMaximum": operator.le},
    "exclusiveMinimum": {"minimum": operator.gt, "exclusiveMinimum": operator.ge},
    "exclusiveMaximum": {"maximum": operator.lt, "exclusiveMaximum": operator.le},
    **{keyword: {keyword: operator.ge} for keyword in ("minLength", "minItems", "minProperties")},
    **{keyword: {keyword: operator.le} for keyword in ("maxLength", "maxItems", "maxProperties")},
}
_FIELDS = ("required", "properties", "additionalProperties", "propertyNames")
# The one type of whose values a keyword says anything.
_TYPE = {
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), "number"),
    **dict.fromkeys(("minLength", "maxLength", "pattern", "format"), "string"),
    **dict.fromkeys(("minItems", "maxItems", "items"), "array"),
    **dict.fromkeys(("minProperties", "maxProperties", *_FIELDS), "object"),
}
_TYPES = ("boolean", "string", "number", "array", "object", "null")  # every integer is a number
_KNOWN = {"const", "enum", "not", *_TYPE}


@dataclass(frozen=True)
class Relation:
    """Why what fits a schema `a` may not fit a schema `b`. The words go from the old to the new in either case."""

    flipped: bool
    """Whether `a` is the new one."""

    def escapes(self, a: Schema, b: Schema, path: Steps = ()) -> list[Reason]:
        """Return the reasons, each once; none only if whatever fits `a` fits `b`."""
        found: list[Reason] = []
        a_ways, b_ways = _ways(a), _ways(b)
        for way in () if _text(a) == _text(b) else a_ways:
            fits = (values := _listed(way)) is not None and all(_fits(value, b) for value in values)
            same_type = [other for other in b_ways if _common(way.type, other.type) == way.type]
            if not same_type and not fits:
                found.append(self._reason(path, "type", _types(a_ways), _types(b_ways)))
            tries = [[*self._differ(way, to, path), *(() if fits else self._refuse(way, to, path))] for to in same_type]
            found = found + min(tries, key=len, default=[])
        return list(dict.fromkeys(found))

    def _reason(self, path: Steps, keyword: str, a: str, b: str, *, proved: bool = True) -> Reason:
        was, now = (b, a) if self.flipped else (a, b)
        return (path, f"{keyword} was {was}, is {now}{'' if proved or 'absent' in (a, b) else GUESS}".lstrip())

    def _presence(self, a: _Way, b: _Way, field: str, path: Steps) -> Reason:
        return self._reason((*path, field), "", _presence(a.groups, field), _presence(b.groups, field))

    def _differ(self, a: _Way, b: _Way, path: Steps) -> Iterator[Reason]:
        """Tell of what matters even if it refuses nothing: fields that are gone, defaults, unknown keywords."""
        old, new = (b, a) if self.flipped else (a, b)
        for field in _named(old.groups):
            if _presence(old.groups, field) != "absent" == _presence(new.groups, field):
                yield self._presence(a, b, field, path)
        for keyword in sorted({keyword for group in a.groups + b.groups for keyword in group} - _KNOWN):
            was, now = _shown(a.groups, keyword), _shown(b.groups, keyword)
            if was != now and not (keyword == "default" and self.flipped):
                yield self._reason(path, keyword, was, now, proved=keyword == "default")

    def _refuse(self, a: _Way, b: _Way, path: Steps) -> Iterator[Reason]:
        """Tell which keywords of `b` may refuse what fits `a`, both being of one type."""
        for group in b.groups:
            for keyword, limit in group.items():
                if keyword in ("const", "enum"):
                    yield from self._refuse_values(a, keyword, limit, path)
                elif keyword == "not":
                    if all(self.escapes(limit, mine["not"]) for mine in a.groups if "not" in mine):
                        yield self._reason(path, "not", _shown(a.groups, "not"), _text(limit), proved=False)
                elif keyword in _FIELDS or not _common(a.type, _TYPE.get(keyword, "")):
                    continue
                elif keyword == "items" and not any(isinstance(each.get("items"), list) for each in (group, *a.groups)):
                    yield from self.escapes(_all(mine.get("items", True) for mine in a.groups), limit, (*path, "*"))
                elif not any(_keeps(mine, keyword, limit) for mine in a.groups):
                    yield self._reason(
                        path, keyword, _shown(a.groups, keyword), _text(limit), proved=keyword in _LIMITS
                    )
            if a.type == "object":
                yield from self._refuse_fields(a, b, group, path)

    def _refuse_values(self, a: _Way, keyword: str, limit: Any, path: Steps) -> Iterator[Reason]:
        values, shown = _listed(a), _shown(a.groups, keyword)
        refused = [_text(value) for value in values or () if not _fits(value, {keyword: limit})]
        if refused and keyword == "enum" and shown != "absent":
            yield from ((path, f"enum {'gained' if self.flipped else 'lost'} {value}") for value in refused)
        elif refused or values is None:
            yield self._reason(path, keyword, shown, _text(limit))

    def _refuse_fields(self, a: _Way, b: _Way, group: Group, path: Steps) -> Iterator[Reason]:
        for field in group.get("required", ()):
            if not any(field in mine.get("required", ()) for mine in a.groups):
                yield self._presence(a, b, field, path)
        for field in _named((*a.groups, group)):
            found = self.escapes(_all(_field(mine, field) for mine in a.groups), _field(group, field), (*path, field))
            if found and (_presence(a.groups, field) == "absent") != (_presence(b.groups, field) == "absent"):
                found = [self._presence(a, b, field, path)]
            yield from found
        others, limit = _all(map(_others, a.groups)), group.get("additionalProperties", True)
        if limit is not False:
            yield from self.escapes(others, limit, (*path, "*"))
        elif others is not False:
            shown = _shown(a.groups, "additionalProperties") if others is True else "a schema"
            yield self._reason(path, "additionalProperties", shown, "false", proved=shown != "false")
        for inner, words in self.escapes(_names(a.groups), group.get("propertyNames", True), (*path, "*")):
            yield (inner, f"propertyNames {words}")


def _ways(schema: Schema) -> list[_Way]:
    if isinstance(schema, bool):
        return [_Way(name, ()) for name in _TYPES] if schema else []
    types = schema.get("type", _TYPES)
    own = {keyword: value for keyword, value in schema.items() if keyword not in ("type", "allOf", "anyOf")}
    ways = [_Way(name, (own,) if own else ()) for name in ([types] if isinstance(types, str) else types)]
    choices = [_ways(part) for part in schema.get("allOf", ())]
    choices += [[way for branch in schema["anyOf"] for way in _ways(branch)]] if "anyOf" in schema else []
    for choice in choices:
        pairs = [(way, other, _common(way.type, other.type)) for way in ways for other in choice]
        ways = [_Way(name, way.groups + other.groups) for way, other, name in pairs if name]
    return ways


def _common(a: str, b: str) -> str | None:
    return a if a == b else "integer" if {a, b} == {"integer", "number"} else None


def _types(ways: list[_Way]) -> str:
    names = dict.fromkeys(way.type for way in ways)
    return "any" if set(names) >= set(_TYPES) else " or ".join(names) or "nothing"


def _keeps(group: Group, keyword: str, limit: Any) -> bool:
    """Say whether whatever fits `group` keeps the limit that one keyword sets."""
    by = _LIMITS.get(keyword, {keyword: lambda mine, limit: _text(mine) == _text(limit)})
    return any(name in group and keeps(group[name], limit) for name, keeps in by.items())


def _listed(way: _Way) -> list[Any] | None:
    """Return all values that may fit, or None where they are too many."""
    kind = "number" if way.type == "integer" else way.type  # jsonschema takes no Decimal for an integer
    lists = [[group["const"]] if "const" in group else group.get("enum") for group in way.groups]
    lists.append({"null": [None], "boolean": [False, True]}.get(kind))
    values = next((values for values in lists if values is not None), None)
    return None if values is None else [value for value in values if _fits(value, {"type": kind})]


def _fits(value: Any, schema: Schema) -> bool:
    try:
        return bool(jsonschema.Draft7Validator(schema).is_valid(value))
    except re.error:
        return False


def _all(schemas: Iterable[Schema]) -> Schema:
    parts = [schema for schema in schemas if schema is not True]
    if len(parts) < 2:
        return parts[0] if parts else True
    return False not in parts and {"allOf": parts}


def _named(groups: Iterable[Group]) -> dict[str, None]:
    return dict.fromkeys(field for group in groups for field in group.get("properties", ()))


def _field(group: Group, field: str) -> Any:
    return group.get("properties", {}).get(field, _others(group))


def _others(group: Group) -> Any:
    """Return what fields not named here must fit: anything, if patterns make exceptions of some."""
    return "patternProperties" in group or group.get("additionalProperties", True)


def _names(groups: Iterable[Group]) -> Schema:
    """Return what the names of the fields must fit."""
    known: list[Schema] = [{"enum": list(_named((group,)))} for group in groups if _others(group) is False]
    return _all([{"type": "string"}, *known, *(group.get("propertyNames", True) for group in groups)])


def _presence(groups: Iterable[Group], field: str) -> str:
    if any(field in group.get("required", ()) for group in groups):
        return "required"
    schemas = [_field(group, field) for group in groups]
    described = field in _named(groups) or any(isinstance(schema, dict) for schema in schemas)
    return "optional" if described and False not in schemas else "absent"


def _shown(groups: Iterable[Group], keyword: str) -> str:
    return " and ".join(sorted({_text(group[keyword]) for group in groups if keyword in group})) or "absent"


def _text(value: Any) -> str:
    """Write JSON on one line, the same whatever the order of the fields."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{codec.dumps(key)}: {_text(item)}" for key, item in sorted(value.items())) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    text = codec.dumps(value)
    return text if isinstance(value, str) else text.lower().replace("e+", "e")
