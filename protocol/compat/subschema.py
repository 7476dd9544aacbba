"""Decides whether one schema is a subschema of another: whether every value valid against `a` is valid against `b`.

`Comparison.counterexamples(a, b)` returns the reasons why a value that is valid against `a` may be invalid against `b`.
An empty list is a proof that `a` is a subschema of `b`. Both schemas have no `$ref` and no annotations but `default`.

The algorithm:

1. Both schemas are expanded into branches (see `branches`): alternatives of one type, without `anyOf` and `allOf`.
2. Each branch of `a` must be a subschema of at least one branch of `b` of the same type (`number` also covers
   `integer`). It is compared with each such branch, and the comparison with the fewest reasons is the one reported.
   If `b` has no branch of that type, the type is the reason.
3. If a branch of `a` lists its values (`const`, `enum`, null, boolean), each value is validated against `b`, and the
   result is exact.
4. Otherwise each keyword of the branch of `b` must be implied by the branch of `a`:
   - a bound, by a bound that is as tight (`minimum: 1` implies `exclusiveMinimum: 0`);
   - `items`, `properties`, `additionalProperties` and `propertyNames`, by recursion into their schemas;
   - `required`, by `required`;
   - `not: B`, by a `not: A` where B is a subschema of A, which is the same question with the roles exchanged, or by
     the types or the fields that the branch does not allow and B requires;
   - any other keyword, by the same keyword with an equal value.
5. Some changes are reported although no value becomes invalid: a field that is no longer described, another
   `default`, and any keyword that this module does not know.

Example. `a` is what version 1 accepted, `b` what version 2 accepts:

    a = {"type": ["integer", "null"], "minimum": 0}
    b = {"type": ["number", "null"], "minimum": 1}

    branch of a                        branches of b of that type         result
    Branch("integer", minimum 0)       Branch("number", minimum 1)        0 does not imply 1: a reason
    Branch("null", minimum 0)          Branch("null", minimum 1)          null is valid against b: no reason

    counterexamples(a, b) == [Reason((), "minimum was 0, is 1")]

What is approximated, always to the same side: a reason may be given where there is no counterexample, and no
counterexample is ever missed.

- Keywords are compared one by one. Two keywords of `a` that imply one of `b` only together are not recognised.
- A branch of `a` that is covered by two branches of `b` only together is not recognised.
- A branch of `a` that no value can satisfy is compared as any other.
- Two patterns, formats or divisors, and two `not`, are not compared by meaning. A reason that rests on this has
  `proved` False. So has one about `oneOf`, `if`, `patternProperties` or an unknown keyword.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from protocol.compat.branches import (
    Branch,
    Group,
    Schema,
    all_of,
    branches,
    common_type,
    field_names,
    field_schema,
    finite_values,
    format_json,
    format_keyword,
    format_types,
    is_valid,
    named_fields,
    other_fields,
    presence,
)

Steps = tuple[str, ...]
"""The path to a field, step by step; * for every other field and for every item."""


class Reason(NamedTuple):
    """Why a value that is valid against one schema may be invalid against another."""

    path: Steps
    detail: str
    """The keyword, its value in the old schema and its value in the new one."""
    proved: bool = True
    """False if the two values of the keyword could not be compared by meaning."""


# Each bound, and the keywords that imply it, with the comparison of their value to the bound.
_IMPLIED_BY: dict[str, dict[str, Callable[[Any, Any], bool]]] = {
    "minimum": {"minimum": operator.ge, "exclusiveMinimum": operator.ge},
    "maximum": {"maximum": operator.le, "exclusiveMaximum": operator.le},
    "exclusiveMinimum": {"minimum": operator.gt, "exclusiveMinimum": operator.ge},
    "exclusiveMaximum": {"maximum": operator.lt, "exclusiveMaximum": operator.le},
    **{keyword: {keyword: operator.ge} for keyword in ("minLength", "minItems", "minProperties")},
    **{keyword: {keyword: operator.le} for keyword in ("maxLength", "maxItems", "maxProperties")},
}
_ABOUT_FIELDS = ("required", "properties", "additionalProperties", "propertyNames")
# The one type whose values a keyword restricts.
_APPLIES_TO = {
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), "number"),
    **dict.fromkeys(("minLength", "maxLength", "pattern", "format"), "string"),
    **dict.fromkeys(("minItems", "maxItems", "items"), "array"),
    **dict.fromkeys(("minProperties", "maxProperties", *_ABOUT_FIELDS), "object"),
}
_KNOWN = {"const", "enum", "not", *_APPLIES_TO}


@dataclass(frozen=True)
class Comparison:
    """The question whether `a` is a subschema of `b`, where one of the two is the old schema of a change."""

    a_is_new: bool
    """The details go from the old schema to the new one in either case."""

    def counterexamples(self, a: Schema, b: Schema, path: Steps = ()) -> list[Reason]:
        """Return the reasons why a value valid against `a` may be invalid against `b`, each once."""
        if format_json(a) == format_json(b):
            return []
        a_branches, b_branches = branches(a), branches(b)
        found: list[Reason] = []
        for branch in a_branches:
            values = finite_values(branch)
            are_valid = values is not None and all(is_valid(value, b) for value in values)
            candidates = [other for other in b_branches if common_type(branch.type, other.type) == branch.type]
            comparisons = [self._compare(branch, other, path, are_valid) for other in candidates]
            if comparisons:
                fewest = min(comparisons, key=len)
                found += fewest
            elif not are_valid:
                found.append(self._reason(path, "type", format_types(a_branches), format_types(b_branches)))
        return list(dict.fromkeys(found))

    def _compare(self, a: Branch, b: Branch, path: Steps, are_valid: bool) -> list[Reason]:
        """Compare two branches; `are_valid` if the values of `a` are listed and all valid."""
        return [*self._changes(a, b, path), *(() if are_valid else self._not_implied(a, b, path))]

    def _reason(self, path: Steps, keyword: str, a: str, b: str, *, proved: bool = True) -> Reason:
        """Build a reason; that one side has a keyword and the other has not needs no proof."""
        old, new = (b, a) if self.a_is_new else (a, b)
        return Reason(path, f"{keyword} was {old}, is {new}".lstrip(), proved or "absent" in (a, b))

    def _presence(self, a: Branch, b: Branch, field: str, path: Steps) -> Reason:
        return self._reason((*path, field), "", presence(a.groups, field), presence(b.groups, field))

    def _changes(self, a: Branch, b: Branch, path: Steps) -> Iterator[Reason]:
        """Yield the changes that matter although they may make no value invalid (step 5)."""
        old, new = (b, a) if self.a_is_new else (a, b)
        for field in named_fields(old.groups):
            if presence(old.groups, field) != "absent" == presence(new.groups, field):
                yield self._presence(a, b, field, path)
        for keyword in sorted({keyword for group in a.groups + b.groups for keyword in group} - _KNOWN):
            in_a, in_b = format_keyword(a.groups, keyword), format_keyword(b.groups, keyword)
            # A default changes the meaning of a payload without the field. The server sends none that relies on it.
            if in_a != in_b and not (keyword == "default" and self.a_is_new):
                yield self._reason(path, keyword, in_a, in_b, proved=keyword == "default")

    def _not_implied(self, a: Branch, b: Branch, path: Steps) -> Iterator[Reason]:
        """Yield a reason for each keyword of `b` that `a`, which is of the same type, does not imply."""
        for group in b.groups:
            for keyword, limit in group.items():
                if keyword in ("const", "enum"):
                    yield from self._not_listed(a, keyword, limit, path)
                elif keyword == "not":
                    are_implied = (not self.counterexamples(limit, mine["not"]) for mine in a.groups if "not" in mine)
                    if not _excludes(a, limit) and not any(are_implied):
                        in_a = format_keyword(a.groups, "not")
                        yield self._reason(path, "not", in_a, format_json(limit), proved=False)
                elif keyword not in _ABOUT_FIELDS and common_type(a.type, _APPLIES_TO.get(keyword, "")):
                    yield from self._not_bounded(a, group, keyword, path)
            if a.type == "object":
                yield from self._not_required(a, b, group, path)
                yield from self._in_named_fields(a, b, group, path)
                yield from self._in_other_fields(a, group, path)
                yield from self._in_field_names(a, group, path)

    def _not_listed(self, a: Branch, keyword: str, limit: Any, path: Steps) -> Iterator[Reason]:
        """Compare the values of `a` with a `const` or an `enum` of `b`; an enum reports each value by itself."""
        values, in_a = finite_values(a), format_keyword(a.groups, keyword)
        invalid = [format_json(value) for value in values or () if not is_valid(value, {keyword: limit})]
        if invalid and keyword == "enum" and in_a != "absent":
            verb = "gained" if self.a_is_new else "lost"
            yield from (Reason(path, f"enum {verb} {value}") for value in invalid)
        elif invalid or values is None:
            yield self._reason(path, keyword, in_a, format_json(limit))

    def _not_bounded(self, a: Branch, group: Group, keyword: str, path: Steps) -> Iterator[Reason]:
        """Compare a bound or the items of `b`; a list of schemas as `items` is compared as a plain value."""
        limit = group[keyword]
        if keyword == "items" and not any(isinstance(each.get("items"), list) for each in (group, *a.groups)):
            yield from self.counterexamples(all_of(mine.get("items", True) for mine in a.groups), limit, (*path, "*"))
        elif not any(_implies(mine, keyword, limit) for mine in a.groups):
            in_a = format_keyword(a.groups, keyword)
            yield self._reason(path, keyword, in_a, format_json(limit), proved=keyword in _IMPLIED_BY)

    def _not_required(self, a: Branch, b: Branch, group: Group, path: Steps) -> Iterator[Reason]:
        for field in group.get("required", ()):
            if not any(field in mine.get("required", ()) for mine in a.groups):
                yield self._presence(a, b, field, path)

    def _in_named_fields(self, a: Branch, b: Branch, group: Group, path: Steps) -> Iterator[Reason]:
        """Compare each field that either side names; one that only one side has is one reason, not one a keyword."""
        for field in named_fields((*a.groups, group)):
            in_a = all_of(field_schema(mine, field) for mine in a.groups)
            found = self.counterexamples(in_a, field_schema(group, field), (*path, field))
            if found and (presence(a.groups, field) == "absent") != (presence(b.groups, field) == "absent"):
                found = [self._presence(a, b, field, path)]
            yield from found

    def _in_other_fields(self, a: Branch, group: Group, path: Steps) -> Iterator[Reason]:
        in_a, in_b = all_of(map(other_fields, a.groups)), group.get("additionalProperties", True)
        if in_b is not False:
            yield from self.counterexamples(in_a, in_b, (*path, "*"))
        elif in_a is not False:
            shown = format_keyword(a.groups, "additionalProperties") if in_a is True else "a schema"
            yield self._reason(path, "additionalProperties", shown, "false", proved=shown != "false")

    def _in_field_names(self, a: Branch, group: Group, path: Steps) -> Iterator[Reason]:
        for reason in self.counterexamples(field_names(a.groups), group.get("propertyNames", True), (*path, "*")):
            yield reason._replace(detail=f"propertyNames {reason.detail}")


def _excludes(a: Branch, schema: Schema) -> bool:
    """Return whether no value of a branch is valid against a schema, by types and required fields alone."""
    return all(
        common_type(a.type, b.type) is None
        or any(
            field_schema(mine, field) is False
            for group in b.groups
            for field in group.get("required", ())
            for mine in a.groups
        )
        for b in branches(schema)
    )


def _implies(group: Group, keyword: str, limit: Any) -> bool:
    """Return whether every value that satisfies `group` keeps the limit that one keyword sets."""
    by = _IMPLIED_BY.get(keyword, {keyword: lambda mine, limit: format_json(mine) == format_json(limit)})
    return any(name in group and is_tighter(group[name], limit) for name, is_tighter in by.items())
