"""Random payloads for property tests: JSON values near the limits of the schemas, valid updates, and mutated ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

import protocol

FAST = "fast"
"""The profile of Hypothesis for a check before each commit: a fifth of the examples."""

UPDATE: dict[str, Any] = {
    "ts": "2025-11-07T00:45:08.603Z",
    "pid": 1132978,
    "onchain": {"rlb": Decimal("100074.99978"), "usdt": Decimal("7656.36")},
    "onsite": {"rlb": Decimal("101132.407627"), "usd": Decimal("7646.96")},
}
NUMBERS = [
    *("1e30", "1.0000000000000000000000000000000000001e30", "999999999999999999999999999999.9", "1e31", "1e-30"),
    *("0.99999999999999999999999999999999999999e-30", "1e-31", "-0.0", "1e400", "-1e400", "1e-9999", "0e-9999"),
    *("1.0", "1e3", "1.5"),
]
NAMES = [
    *("rlb", "usdt", "usd", "ts", "pid", "id", "onchain", "onsite"),
    *("btc", "BTC", "BTC/USDT:USDT", "$wif", "btc\n"),
]

numbers = st.one_of(
    st.integers(-2, 2),
    st.integers(-(10**31), 10**31),
    st.integers(2**53 - 2, 2**53 + 2),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.sampled_from(NUMBERS).map(Decimal),
)
texts = st.one_of(
    st.text(max_size=40),
    st.sampled_from(NAMES),
    st.from_regex(protocol.schema("timestamp")["pattern"]),
    st.from_regex(protocol.schema("uuid")["pattern"]),
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)


def examples(count: int) -> int:
    """Return how many examples a property test tries: `count`, or a fifth of it in the profile FAST."""
    return count // 5 if settings.get_current_profile_name() == FAST else count


@st.composite
def mutated_updates(draw: st.DrawFn) -> dict[str, Any]:
    """Make a valid update and replace, add or remove up to three of its fields."""
    update = {**UPDATE, "onchain": dict(UPDATE["onchain"]), "onsite": dict(UPDATE["onsite"])}
    for _ in range(draw(st.integers(0, 3))):
        holder = draw(st.sampled_from([update, *(v for v in update.values() if isinstance(v, dict))]))
        field = draw(st.sampled_from([*holder, "id", "btc"]) | texts)
        if draw(st.booleans()):
            holder[field] = draw(values)
        else:
            holder.pop(field, None)
    return update


@st.composite
def amounts(draw: st.DrawFn) -> str:
    """Draw the JSON text of an amount, in any spelling."""
    digits = draw(st.integers(1, 45))
    number = Decimal(draw(st.integers(0, 10**digits - 1))).scaleb(-draw(st.integers(0, 60)))
    if number and not Decimal("1e-30") <= number <= Decimal("1e30"):
        number = number.scaleb(-number.adjusted())
    spelling = draw(st.sampled_from(["f", "e", "E", "negative zero"]))
    if spelling == "negative zero":
        return f"{number:f}" if number else f"-{number:f}"
    return f"{number:{spelling}}"


@st.composite
def ledgers(draw: st.DrawFn, *required: str) -> dict[str, str]:
    """Draw a ledger with the required assets and others, as JSON texts of the amounts."""
    names = st.from_regex(protocol.schema("asset_name")["pattern"].strip("^$"), fullmatch=True)
    further = draw(st.lists(names, max_size=6, unique=True))
    return {asset: draw(amounts()) for asset in draw(st.permutations(list(dict.fromkeys([*required, *further]))))}


@dataclass(frozen=True)
class ValidUpdate:
    """A valid update as text, and what must be read back; it is sent under another id each time."""

    text: str
    has_id: bool
    ts: datetime | None
    pid: int | None
    onchain: dict[str, Decimal]
    onsite: dict[str, Decimal]


@st.composite
def valid_updates(draw: st.DrawFn) -> ValidUpdate:
    """Draw a valid update (protocol/schemas/balance_update.json)."""
    ledger = {"onchain": draw(ledgers("rlb", "usdt")), "onsite": draw(ledgers("rlb", "usd"))}
    fields = {
        name: "{" + ",".join(f'"{asset}":{amount}' for asset, amount in one.items()) + "}"
        for name, one in ledger.items()
    }
    if has_id := draw(st.booleans()):
        fields["id"] = draw(st.sampled_from(['"<id>"', '"<ID>"']))
    pid = draw(st.none() | st.integers(0, 2**53 - 1))
    if pid is not None:
        fields["pid"] = draw(st.sampled_from([f"{pid}", f"{pid}.0", f"{pid}e0"]))
    ts, text = draw(st.just((None, "")) | times())
    if ts is not None:
        fields["ts"] = json.dumps(text)
    for name in ("id", "pid", "ts"):
        if name not in fields and draw(st.booleans()):
            fields[name] = "null"
    space = draw(st.sampled_from(["", " ", "\n\t"]))
    body = ",".join(f'{space}"{name}"{space}:{fields[name]}' for name in draw(st.permutations(list(fields))))
    exact = {name: {asset: Decimal(amount) for asset, amount in one.items()} for name, one in ledger.items()}
    return ValidUpdate(f"{{{body}}}", has_id, ts, pid, exact["onchain"], exact["onsite"])


@st.composite
def times(draw: st.DrawFn) -> tuple[datetime, str]:
    """Draw a time and an RFC 3339 text of it."""
    local = draw(st.datetimes(datetime(1000, 1, 1), datetime(2999, 12, 31, 23, 59, 59))).replace(microsecond=0)
    fraction = draw(st.text("0123456789", max_size=9))
    minutes = draw(st.integers(-1439, 1439))
    zone = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
    if minutes == 0:
        zone = draw(st.sampled_from(["Z", "z", "+00:00", "-00:00"]))
    text = f"{local:%Y-%m-%d}{draw(st.sampled_from('Tt'))}{local:%H:%M:%S}{'.' if fraction else ''}{fraction}{zone}"
    time = local.replace(tzinfo=timezone(timedelta(minutes=minutes))).astimezone(UTC)
    return time + timedelta(microseconds=int(fraction[:6].ljust(6, "0"))), text


def mutations(value: Any, replacements: Sequence[Any], field: str) -> Iterator[Any]:
    """Yield copies of a value with one part replaced, one part removed, or `field` added to one object."""
    yield from replacements
    if isinstance(value, dict):
        yield {**value, field: 1}
        for key, item in value.items():
            yield {other: value[other] for other in value if other != key}
            yield from ({**value, key: inner} for inner in mutations(item, replacements, field))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            before, behind = value[:index], value[index + 1 :]
            yield before + behind
            yield from ([*before, inner, *behind] for inner in mutations(item, replacements, field))
