"""Compare two sets of schemas: which changes break who sends, which break who receives, which nobody.

    for change in diff(read_set("tests/released/v1"), read_set("protocol/schemas")):
        print(change)    # breaks senders: balance_update: onchain.rlb: maximum was 1e30, is 1e29

One relation does it all: `Relation.escapes(a, b)`, why a payload that fits `a` may not fit `b`. What clients send
breaks senders where the old schema escapes the new; what the server sends breaks receivers where the new escapes
the old; what escapes the other way round is harmless.

Promised: if some payload fits a schema before and not after (clients send it), or after and not before (the server
sends it), a breaking change of that schema is reported. Not promised is the reverse: where no proof is at hand, as
for one pattern against another, a change is called breaking, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urljoin

import jsonschema_rs

from protocol import codec
from protocol.check import to_path
from protocol.compat.subschema import GUESS, Reason, Relation, Schema, Steps
from protocol.errors import MalformedJson
from protocol.events import CONNECT, CONNECT_ERROR, EVENTS
from protocol.operations import OPERATIONS

Effect = Literal["breaks senders", "breaks receivers", "harmless"]


class UnreadableSetError(ValueError):
    """There is no such set of schemas: one line, with the file and the reason."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one schema; as text it is one line."""

    effect: Effect
    schema: str
    """The schema of a whole payload; a change of a part is one wherever that is used."""
    path: str
    """The field as `check` writes it, with * for every other field or every item; payload for the whole."""
    words: str
    """The keyword, what it was and what it is."""

    @property
    def breaks(self) -> bool:
        return self.effect != "harmless"

    def __str__(self) -> str:
        return f"{self.effect}: {self.schema}: {self.path}: {self.words}"


def read_set(path: str | Path) -> dict[str, Schema]:
    """Read schemas by name: every *.json of a folder, or the `definitions` of a bundle.

    Raises UnreadableSetError if there are none, or one is no schema or refers to what is not in the set.
    """
    path = Path(path)
    if path.is_dir():
        schemas = {file.stem: _read(file) for file in sorted(path.glob("*.json"))}
    else:
        bundle = _read(path)
        schemas = _to_files(bundle.get("definitions", {})) if isinstance(bundle, dict) else {}
    if not schemas:
        raise UnreadableSetError(f"{path}: holds no schemas")
    try:
        _Inlined(schemas)
    except ValueError as error:
        raise UnreadableSetError(f"{path}: {error}") from error
    return schemas


def diff(old: Mapping[str, Schema], new: Mapping[str, Schema]) -> list[Change]:
    """Return what changed between two sets as `read_set` gives them, sorted by schema, what breaks first.

    Raises ValueError if a schema refers to what is not in its set, or to itself.
    """
    before, after = _Inlined(old), _Inlined(new)
    found: list[tuple[str, Effect, Reason]] = []
    for name in sorted(before.roots() | (after.roots() - set(old))):
        if name not in new:
            found += ((name, effect, ((), "was a schema, is absent")) for effect in _breaks(name))
        elif name not in old:
            found.append((name, "harmless", ((), "was absent, is a schema")))
        else:
            found += ((name, *each) for each in _compare(name, before.schema(name), after.schema(name)))
    return [Change(effect, name, to_path(path), words) for name, effect, (path, words) in found]


_EVENTS = (*EVENTS.values(), CONNECT, CONNECT_ERROR)
_SENT = {event.schema for event in _EVENTS if event.direction == "client_to_server"}.union(
    *((operation.body, *operation.parameters.values()) for operation in OPERATIONS.values())
)
_RECEIVED = {event.schema for event in _EVENTS if event.direction == "server_to_client"}.union(
    {"error_reply"}, *((reply.schema for reply in operation.replies.values()) for operation in OPERATIONS.values())
)


def _breaks(name: str) -> list[Effect]:
    """Say who a change of a schema can break: both, where no table says who sends it."""
    sent, received = name in _SENT, name in _RECEIVED
    can: dict[Effect, bool] = {"breaks senders": sent or not received, "breaks receivers": received or not sent}
    return [effect for effect in can if can[effect]]


def _compare(name: str, old: Schema, new: Schema) -> list[tuple[Effect, Reason]]:
    escaping: dict[Effect, list[Reason]] = {
        "breaks senders": Relation(flipped=False).escapes(old, new),
        "breaks receivers": Relation(flipped=True).escapes(new, old),
    }
    found = [(effect, reason) for effect in _breaks(name) for reason in escaping.pop(effect)]
    known = {reason for _, reason in found}
    rest = [reason for reasons in escaping.values() for reason in reasons if reason not in known]
    return found + [("harmless", (path, words.removesuffix(GUESS))) for path, words in rest]


def _read(file: Path) -> Schema:
    try:
        schema: Schema = codec.loads(file.read_bytes())
        jsonschema_rs.meta.validate(schema)
    except (OSError, MalformedJson) as error:
        reason = error.strerror if isinstance(error, OSError) else error.reason
        raise UnreadableSetError(f"{file}: {reason}") from error
    except ValueError as error:
        raise UnreadableSetError(f"{file}: is no schema: {str(error).splitlines()[0]}") from error
    return schema


def _to_files(value: Any) -> Any:
    """Replace each reference into a bundle by the reference to a file that stands there in a folder of schemas."""
    if isinstance(value, dict):
        within = str(value.get("$ref")).startswith(_IN_BUNDLE)
        inner = {key: _to_files(item) for key, item in value.items()}
        return inner | {"$ref": f"{value['$ref'].removeprefix(_IN_BUNDLE)}.json"} if within else inner
    return [_to_files(item) for item in value] if isinstance(value, list) else value


_IN_BUNDLE = "#/definitions/"
# What refuses nothing. `default` is not among them: who leaves the field out gets another one without a word.
_ANNOTATIONS = {"$id", "$schema", "$comment", "title", "description", "examples", "definitions"}
_BY_NAME = {"properties", "patternProperties", "dependencies"}
_VALUES = {"const", "enum", "default"}


class _Inlined:
    """A set in which a schema stands wherever there was a `$ref` to it, without annotations."""

    def __init__(self, schemas: Mapping[str, Schema]) -> None:
        self._schemas = schemas
        self._names = {_id(name, schema): name for name, schema in schemas.items()}
        self._done: dict[str, Schema] = {}
        self._parts: set[str] = set()
        for name in schemas:
            self.schema(name)

    def roots(self) -> set[str]:
        """Return the names of whole payloads: of what no other schema refers to, and of what the tables name."""
        return {name for name in self._schemas if name not in self._parts or name in _SENT | _RECEIVED}

    def schema(self, name: str, above: Steps = ()) -> Schema:
        if name in above:
            raise ValueError(f"{name} refers to itself")
        if name not in self._done:
            self._done[name] = self._inline(self._schemas[name], _id(name, self._schemas[name]), (*above, name))
        return self._done[name]

    def _inline(self, value: Any, base: str, above: Steps) -> Any:
        if isinstance(value, list):
            return [self._inline(item, base, above) for item in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            name = self._names.get(urljoin(base, value["$ref"]))
            if name is None:
                raise ValueError(f"{above[-1]} refers to {value['$ref']}, which is not in the set")
            self._parts.add(name)
            part = self.schema(name, above)
            return {"allOf": [part], "default": value["default"]} if "default" in value else part
        inlined = {}
        for keyword, item in value.items():
            if keyword in _BY_NAME:
                inlined[keyword] = {name: self._inline(inner, base, above) for name, inner in item.items()}
            elif keyword not in _ANNOTATIONS:
                inlined[keyword] = item if keyword in _VALUES else self._inline(item, base, above)
        return inlined


def _id(name: str, schema: Schema) -> str:
    return str(schema.get("$id", f"{name}.json")) if isinstance(schema, dict) else f"{name}.json"
