"""REST as SEED.md has it: its own requests and answers, to the letter."""

from __future__ import annotations

import pytest

from tests.running import Database, Service

SEED_UPDATE = (
    b'{"ts": "2025-11-07T00:45:08.603Z", "pid": 1132978,'
    b' "onchain": {"rlb": 100074.99978, "usdt": 7656.36}, "onsite": {"rlb": 101132.407627, "usd": 7646.96}}'
)


@pytest.mark.gen_test
async def test_saving_the_seeds_snapshot_gives_the_seeds_answer(service: Service, database: Database) -> None:
    answer = await service.post(SEED_UPDATE)
    assert answer.status == 201
