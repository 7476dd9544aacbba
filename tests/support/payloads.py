"""Updates that tests send: fixed ones, the cases of tests/cases, and random ones; and rows for the database."""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import protocol
from balance.snapshot import Snapshot

UPDATE: dict[str, Any] = {
    "ts": "2025-11-07T00:45:08.603Z",
    "pid": 1132978,
    "onchain": {"rlb": 100074, "usdt": 7656},
    "onsite": {"rlb": 101132, "usd": 7646},
}
# An amount of 40 digits, which no double has.
DIGITS_40 = "1234567890123456789.012345678901234567891"
# A line of an import.
LINE = (
    b'{"id":"019a5bb2-4a1b-7c3e-9f10-2b6d8e4f7a51","ts":"2025-11-07T00:45:08.603Z",'
    b'"onchain":{"rlb":1,"usdt":2},"onsite":{"rlb":3,"usd":4}}'
)
# An update of 9 kB: 60 further assets in each ledger, of 60 digits each.
LARGE = {f"asset{n}": Decimal("0." + "1" * 59) for n in range(60)}
LARGE_UPDATE = {**UPDATE, "onchain": {**UPDATE["onchain"], **LARGE}, "onsite": {**UPDATE["onsite"], **LARGE}}
# 1,000 rows of 12 kB each, written without the service.
LARGE_ROWS = """
INSERT INTO balance_snapshot (seq, id, ts, onchain, onsite, received_at)
SELECT seq, gen_random_uuid(), now(), jsonb_build_object('rlb', 1, 'usdt', 1) || more, '{"rlb": 1, "usd": 1}', now()
FROM generate_series(1, 1000) AS seq,
     (SELECT jsonb_object_agg('a' || n, ('0.' || repeat('1', 190))::numeric) AS more
      FROM generate_series(1, 60) AS n) AS assets
"""
CASES = [
    {**case, "description": f"{group['description']}: {case['description']}"}
    for group in protocol.loads(Path(__file__).parent.parent.joinpath("cases", "balance_update.json").read_bytes())
    for case in group["tests"]
]
# Ids and times that a server makes, which differ between two services.
MADE_BY_THE_SERVER = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}|20[2-9][0-9]-[0-9T:.-]{15,}Z"
)
# What `snapshot` holds: further letters, few and many digits.
ONCHAIN = protocol.Encoded('{"rlb":100074.99978,"usdt":1e-30,"ÄÖ":0.1234567890123456789012345678901234567890}')
ONSITE = protocol.Encoded('{"rlb":101132.407627,"usd":7646.96}')
RECEIVED_AT = datetime(2025, 2, 1, 23, 45, 8, 603001, UTC)


def body_of(case: dict[str, Any]) -> bytes:
    """Return the bytes of the update of a case."""
    if "base64" in case:
        return base64.b64decode(case["base64"])
    return (case["json"] if "json" in case else protocol.dumps(case["data"])).encode()


def updates(random: Random) -> Iterator[dict[str, Any]]:
    """Make updates without end, each with an id of its own and amounts of up to forty digits."""
    while True:
        yield {
            "id": str(uuid.UUID(int=random.getrandbits(128), version=4)),
            "ts": f"2025-11-07T00:45:{random.randrange(60):02}.{random.randrange(10**6):06}Z",
            "pid": random.randrange(2**53),
            "onchain": {"rlb": _amount(random), "usdt": _amount(random)},
            "onsite": {"rlb": _amount(random), "usd": _amount(random), "eth": _amount(random)},
        }


def _amount(random: Random) -> Decimal:
    return Decimal(random.randrange(10**40)).scaleb(-random.randrange(10, 31)) if random.randrange(9) else Decimal(0)


def snapshot() -> Snapshot:
    """Make a snapshot with an id of its own, as the service hands one to the store."""
    return Snapshot(str(uuid.uuid4()), RECEIVED_AT, 7, ONCHAIN, ONSITE, RECEIVED_AT)
