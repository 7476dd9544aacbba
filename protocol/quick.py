"""A quick yes to the one payload that comes thousands of times a second.

Says yes to nearly every update that schemas/balance_update.json accepts and never to one that it does not; a property
test holds it to that. What it does not say yes to is for the schema to judge. The bounds and the patterns are the
schemas' own.
"""

from __future__ import annotations

import re
from decimal import Decimal

from protocol import registry

_UPDATE = registry.schema("balance_update")
_FIELDS = frozenset(_UPDATE["properties"])
_PID = _UPDATE["properties"]["pid"]
_ONCHAIN, _ONSITE = registry.schema("onchain"), registry.schema("onsite")
_AMOUNT = registry.schema("amount")
_LEAST, _MOST = Decimal(_AMOUNT["not"]["exclusiveMaximum"]), Decimal(_AMOUNT["maximum"])
_ASSET_NAME, _TIMESTAMP, _UUID = (
    re.compile(registry.schema(name)["pattern"], re.ASCII) for name in ("asset_name", "timestamp", "uuid")
)


def is_plain_update(update: object) -> bool:
    """Tell whether `update`, as `loads` gives it, is certain to fit its schema."""
    if type(update) is not dict or "onchain" not in update or "onsite" not in update:
        return False
    if len(update) > 2:
        id_, ts, pid = update.get("id"), update.get("ts"), update.get("pid")
        if not (
            update.keys() <= _FIELDS
            and (id_ is None or (type(id_) is str and _UUID.fullmatch(id_)))
            and (ts is None or (type(ts) is str and _TIMESTAMP.fullmatch(ts)))
            and (pid is None or (type(pid) is int and _PID["minimum"] <= pid <= _PID["maximum"]))
        ):
            return False
    return _is_plain_ledger(update["onchain"], _ONCHAIN) and _is_plain_ledger(update["onsite"], _ONSITE)


def _is_plain_ledger(ledger: object, schema: registry.Schema) -> bool:
    if type(ledger) is not dict or len(ledger) > schema["maxProperties"]:
        return False
    for asset in schema["required"]:
        if asset not in ledger:
            return False
    for asset, amount in ledger.items():
        if type(amount) is not int and (type(amount) is not Decimal or amount.is_nan()):
            return False
        if amount != 0 and not _LEAST <= amount <= _MOST:
            return False
        if asset not in schema["properties"] and not _ASSET_NAME.fullmatch(asset):
            return False
    return True
