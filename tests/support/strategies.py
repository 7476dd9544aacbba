"""Payloads near the limits of the schemas: strategies of Hypothesis, and mutations of a valid payload."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

import protocol

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
