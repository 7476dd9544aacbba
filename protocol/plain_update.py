"""The one payload that comes thousands of times a second, checked as it is read.

Reads nearly every update as bots write it, and none that schemas/balance_update.json does not accept; a property test
holds it to that. What it does not read is for `codec` and the schema. The bounds and the patterns are the schemas' own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import msgspec

from protocol import registry
from protocol.codec import Encoded, loads

_PID = registry.schema("balance_update")["properties"]["pid"]
_AMOUNT, _ASSET_NAME = registry.schema("amount"), registry.schema("asset_name")["pattern"].strip("^$")
_TIMESTAMP, _UUID = (re.compile(registry.schema(name)["pattern"], re.ASCII) for name in ("timestamp", "uuid"))
_DIGITS = Decimal(_AMOUNT["maximum"]).adjusted()  # a plain amount has no more before its point, and fewer after it
assert Decimal(_AMOUNT["not"]["exclusiveMaximum"]).adjusted() == -_DIGITS
_NUMBER = rf"(?:0|[1-9][0-9]{{0,{_DIGITS - 1}}})(?:\.[0-9]{{1,{_DIGITS - 1}}})?"
_PAIR = rf'"{_ASSET_NAME}": ?{_NUMBER}'
_LEDGER = re.compile(rf"\{{{_PAIR}(?:, ?{_PAIR})*\}}".encode())
_NAME = re.compile(rb'"([^"]*)"')


class PlainUpdate(dict[str, Any]):
    """An update that fits its schema. Its ledgers are Encoded, with no spaces, the assets in the order in which the
    server writes them: the shorter name first, of equally long ones by the alphabet."""


class _Update(msgspec.Struct, forbid_unknown_fields=True):
    onchain: Encoded
    onsite: Encoded
    pid: int | None = None
    ts: str | None = None
    id: str | None = None


def _in_order(names: Iterable[bytes]) -> list[bytes]:
    return sorted(sorted(names), key=len)


class _Ledger:
    """What is plain in one of the two ledgers."""

    def __init__(self, name: str) -> None:
        schema = registry.schema(name)
        self._required = _in_order(asset.encode() for asset in schema["required"])
        self._assets_max = schema["maxProperties"]
        pairs = ",".join(f'"{asset.decode()}":{_NUMBER}' for asset in self._required)
        self._usual = re.compile(rf"\{{{pairs}\}}".encode())  # nearly all: what is required, as it is to be written

    def read(self, ledger: Encoded) -> Encoded | None:
        """Give a ledger without its spaces, or None when it is not plain."""
        if self._usual.fullmatch(ledger):
            return ledger.copy()  # or it would keep the whole message
        text = bytes(ledger)
        if not _LEDGER.fullmatch(text):
            return None
        names = _NAME.findall(text)
        if names != self._required and not (
            set(names).issuperset(self._required) and len(names) <= self._assets_max and names == _in_order(set(names))
        ):
            return None
        return Encoded(text.replace(b" ", b""))


_decoder = msgspec.json.Decoder(_Update)
_onchain, _onsite = _Ledger("onchain"), _Ledger("onsite")


def loads_update(data: str | bytes) -> Any:
    """Decode an update as `loads` does, but a plain one as a PlainUpdate. Raises MalformedJson."""
    plain = read_plain_update(data)
    return loads(data) if plain is None else plain


def read_plain_update(data: str | bytes) -> PlainUpdate | None:
    """Read an update that is plain; None when it is not, or is none."""
    try:
        # As text: bytes that are no UTF-8 msgspec would skip over, where a later field of the same name hides them.
        update = _decoder.decode(data if isinstance(data, str) else data.decode())
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    pid, ts, id_ = update.pid, update.ts, update.id
    onchain, onsite = _onchain.read(update.onchain), _onsite.read(update.onsite)
    if (
        onchain is None
        or onsite is None
        or (pid is not None and not _PID["minimum"] <= pid <= _PID["maximum"])
        or (ts is not None and not _TIMESTAMP.fullmatch(ts))
        or (id_ is not None and not _UUID.fullmatch(id_))
    ):
        return None
    return PlainUpdate(onchain=onchain, onsite=onsite, pid=pid, ts=ts, id=id_)
