"""A rejection costs about as much as a save of the same size, for any kind and number of errors."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

import protocol
from balance.ids import uuid7
from balance.service import now
from balance.snapshot import Snapshot

BYTES_MAX = 16_384
REQUIRED = '"rlb":1,"usdt":1'
ONSITE = '"onsite":{"rlb":1,"usd":1}'


def ledger(*assets: str) -> str:
    """Write an update with these assets beside the required ones."""
    return f'{{"onchain":{{{",".join((REQUIRED, *assets))}}},{ONSITE}}}'


def filled(part: str, write: Callable[..., str] = ledger) -> str:
    """Write an update of numbered parts that is as large as an update can be."""
    each = len(f"{part.format(1000)},".encode())  # the numbers grow, so at most this many parts fit
    parts = [part.format(n) for n in range(1000, 1000 + BYTES_MAX // each)]
    while len((text := write(*parts)).encode()) > BYTES_MAX:
        parts.pop()
    return text


def fields(*parts: str) -> str:
    """Write an update with these fields beside its own."""
    return f'{{{",".join(parts)},"onchain":{{{REQUIRED}}},{ONSITE}}}'


def items(*parts: str) -> str:
    """Write an update whose ledger is a list."""
    return f'{{"onchain":[{",".join(parts)}],{ONSITE}}}'


SAVE = ledger(*[f'"a{n}":0.{"1" * 240}' for n in range(62)])  # the largest number of the longest amounts
COSTLY = {
    "bad names": filled('"a {}":1'),
    "330 bad names": ledger(*[f'"a {n}":1' for n in range(330)]),
    "62 bad names": ledger(*[f'"a {n}{"x" * 200}":1' for n in range(62)]),
    "amounts as text": filled('"a{}":"1"'),
    "62 amounts as text": ledger(*[f'"a{n}":"{"1" * 200}"' for n in range(62)]),
    "amounts below zero": filled('"a{}":-1'),
    "62 amounts below zero": ledger(*[f'"a{n}":-{"1" * 200}' for n in range(62)]),
    "the last amount below zero": ledger(*[f'"a{n}":0.{"1" * 200}' for n in range(62)], '"z":-1'),
    "null amounts": filled('"a{}":null'),
    "objects as amounts": filled('"a{}":{{}}'),
    "tiny amounts": filled('"a{}":1e-99'),
    "62 tiny amounts": ledger(*[f'"a{n}":1e-99999999' for n in range(62)]),
    "huge exponents": filled('"a{}":1e9999999999999999999'),
    "62 long integers": ledger(*[f'"a{n}":{"9" * 240}' for n in range(62)]),
    "four integers of 4,000 digits": ledger(*[f'"a{n}":{"9" * 4000}' for n in range(4)]),
    "an integer of 16,000 digits": ledger(f'"a":{"9" * 16_000}'),
    "a fraction of 16,000 digits that is negative": ledger(f'"a":-0.{"9" * 16_000}'),
    "too many assets": filled('"a{}":1'),
    "one asset again and again": filled('"a":-1'),
    "unknown fields": filled('"u{}":1', fields),
    "unknown fields of other scripts": filled('"中{}":1', fields),
    "a pid of 4,000 digits": fields(f'"pid":{"9" * 4000}'),
    "a pid with an exponent": fields('"pid":1e-99999999'),
    "a long ts": fields(f'"ts":"2025-11-07T00:45:08.{"1" * 16_000}"'),
    "a ts of line feeds": fields('"ts":"2025-11-07T00:45:08.1Z' + "\\n" * 8_000 + '"'),
    "a long id": fields(f'"id":"{"0" * 16_000}"'),
    "a long name": ledger(f'"{"a" * 16_000}":1'),
    "a list of numbers": filled("1", items),
    "a list of fractions": filled("1.5", items),
    "a list of objects": filled("{{}}", items),
    "a list of lists": filled("[[]]", items),
    "200 levels of lists": items("[" * 190 + "]" * 190),
    "8,000 levels of lists": items("[" * 8_000 + "]" * 8_000),
    "190 levels of objects": items('{"a":' * 190 + "1" + "}" * 190),
    "escaped names": filled('"\\u0061{}":-1'),
    "half surrogates": filled('"\\ud800{}":1'),
    "not JSON": '{"onchain":' + "x" * 16_000,
    "a number": "9" * 16_000,
    "a text": f'"{"x" * 16_000}"',
}


def accept(text: str) -> None:
    update = protocol.decode_update(text)
    protocol.check("balance_update", update)
    protocol.encode(Snapshot.from_update(update, now(), uuid7()).to_wire())


def reject(text: str) -> None:
    with pytest.raises(protocol.ServiceError) as caught:
        protocol.check("balance_update", protocol.decode_update(text))
    assert len(str(caught.value)) < 200


def cost(function: Callable[[str], None], text: str) -> float:
    """Return the least of a few measurements of CPU time, in seconds."""
    took = []
    for _ in range(7):
        begin = time.process_time()
        function(text)
        took.append(time.process_time() - begin)
    return min(took)


def test_the_costliest_rejection_costs_at_most_four_large_saves() -> None:
    assert all(len(text.encode()) <= BYTES_MAX for text in (*COSTLY.values(), SAVE))
    save = cost(accept, SAVE)
    costs = {name: cost(reject, text) for name, text in COSTLY.items()}
    worst = max(costs, key=costs.__getitem__)
    assert costs[worst] < 4 * save, f"{worst}: {costs[worst] * 1e3:.1f} ms, a save {save * 1e3:.1f} ms"
