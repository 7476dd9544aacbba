"""The examples of the specification (docs/spec.md): its request, its response, and its amounts."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

from tests.support.repository import ROOT

NOW_S_MAX = 10.0

# POST /api/balance/snapshot, "Request Body" and "Response"
REQUEST, RESPONSE = re.findall(
    r"^```json\n(.*?)\n```$", (ROOT / "docs" / "spec.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
)

LEDGERS = (
    '"onchain":{"rlb":100074.99978,"usdt":7656.36},'
    '"onsite":{"rlb":101132.407627,"usd":7646.96}'
)  # fmt: skip
UPDATE = json.loads(REQUEST)  # for the fields; digits are compared as text
AMOUNTS = {ledger: UPDATE[ledger] for ledger in ("onchain", "onsite")}
FOUR_AMOUNTS = [("onchain", "rlb"), ("onchain", "usdt"), ("onsite", "rlb"), ("onsite", "usd")]


def check_timestamp(text: str) -> None:
    """Check that this is the present time, in ISO 8601 and UTC."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(\d{3})?Z", text)
    assert abs(datetime.now(UTC) - datetime.fromisoformat(text)) < timedelta(seconds=NOW_S_MAX)
