"""Compares two sets of schemas: which changes break senders, which break receivers, and which are harmless.

    for change in diff(read_set("tests/released/v1"), read_set("protocol/schemas")):
        print(change)    # breaks senders: balance_update: onchain.rlb: maximum was 1e30, is 1e29

What clients send breaks senders where the old schema is not a subschema of the new one: a client may send what is no
longer accepted. What the server sends breaks receivers where the new schema is not a subschema of the old one: a client
may receive what it does not expect. A difference in the opposite direction is harmless. `subschema` decides.

Promised: if some payload is valid before the change and not after it (clients send it), or after it and not before it
(the server sends it), a breaking change of that schema is reported. Not promised is the reverse: a change that cannot
be proved compatible, such as another pattern, is reported as breaking, with a detail that ends in NOT_PROVED.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from protocol.check import to_path
from protocol.compat.branches import Schema
from protocol.compat.schema_set import InlinedSet
from protocol.compat.subschema import Comparison, Reason
from protocol.events import CONNECT, CONNECT_ERROR, EVENTS
from protocol.operations import OPERATIONS

Effect = Literal["breaks senders", "breaks receivers", "harmless"]

NOT_PROVED = " (not proved compatible)"
"""The end of the detail of a breaking change that is breaking only as far as can be proved."""

_EVENTS = (*EVENTS.values(), CONNECT, CONNECT_ERROR)
_SENT = {event.schema for event in _EVENTS if event.direction == "client_to_server"}.union(
    *((operation.body, *operation.parameters.values()) for operation in OPERATIONS.values())
)
_RECEIVED = {event.schema for event in _EVENTS if event.direction == "server_to_client"}.union(
    {"error_reply"},
    *((one.schema, *one.events.values()) for operation in OPERATIONS.values() for one in operation.responses.values()),
)


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one schema; as text it is one line."""

    effect: Effect
    schema: str
    """The schema of a whole payload; a change of a part is one change in each payload that uses the part."""
    path: str
    """The field as `check` writes it, with * for every other field or every item; `payload` for the whole."""
    detail: str
    """The keyword, what it was and what it is."""

    @property
    def breaks(self) -> bool:
        """Whether senders or receivers must change with it."""
        return self.effect != "harmless"

    def __str__(self) -> str:
        return f"{self.effect}: {self.schema}: {self.path}: {self.detail}"


def diff(old: Mapping[str, Schema], new: Mapping[str, Schema]) -> list[Change]:
    """Return the changes between two sets as `read_set` returns them, sorted by schema, the breaking ones first.

    Raises ValueError if a schema refers to itself or to a schema that is not in its set.
    """
    before, after = InlinedSet(old), InlinedSet(new)
    found: list[Change] = []
    for name in sorted(_payloads(before, old) | (_payloads(after, new) - set(old))):
        if name not in new:
            found += (_change(name, effect, Reason((), "was a schema, is absent")) for effect in _breaks(name))
        elif name not in old:
            found.append(_change(name, "harmless", Reason((), "was absent, is a schema")))
        else:
            found += _compare(name, before.schema(name), after.schema(name))
    return found


def _payloads(inlined: InlinedSet, schemas: Mapping[str, Schema]) -> set[str]:
    """Return the schemas of whole payloads: those that no other refers to, and those that the tables name."""
    return {name for name in schemas if name not in inlined.referenced or name in _SENT | _RECEIVED}


def _breaks(name: str) -> list[Effect]:
    """Return which effects a change of a schema can have: both if no table names the side that sends it."""
    is_sent, is_received = name in _SENT, name in _RECEIVED
    senders: list[Effect] = ["breaks senders"] if is_sent or not is_received else []
    receivers: list[Effect] = ["breaks receivers"] if is_received or not is_sent else []
    return senders + receivers


def _compare(name: str, old: Schema, new: Schema) -> list[Change]:
    """Compare a schema in both directions; report a reason of the harmless direction only if it breaks nothing."""
    reasons: dict[Effect, list[Reason]] = {
        "breaks senders": Comparison(a_is_new=False).counterexamples(old, new),
        "breaks receivers": Comparison(a_is_new=True).counterexamples(new, old),
    }
    breaking = [(effect, reason) for effect in _breaks(name) for reason in reasons.pop(effect)]
    known = {reason for _, reason in breaking}
    harmless = [reason for others in reasons.values() for reason in others if reason not in known]
    return [
        *(_change(name, effect, reason) for effect, reason in breaking),
        *(_change(name, "harmless", reason) for reason in harmless),
    ]


def _change(name: str, effect: Effect, reason: Reason) -> Change:
    doubt = NOT_PROVED if effect != "harmless" and not reason.proved else ""
    return Change(effect, name, to_path(reason.path), reason.detail + doubt)
