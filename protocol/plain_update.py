"""Decode and validate an update in one step: the payload that arrives thousands of times a second.

`read_plain_update` accepts nearly every update as bots write it, and only updates that schemas/balance_update.json
accepts; property tests hold it to that. Any other text is left to `codec` and `check`. An update is plain if its
ledgers list their assets in the server's own order and its amounts have no exponent and at most 30 digits before the
point and 29 after it. The bounds and the patterns are read from the schemas.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import msgspec

from protocol import registry
from protocol.check import check
from protocol.codec import Encoded, loads

_PID = registry.schema("balance_update")["properties"]["pid"]
_AMOUNT, _ASSET_NAME = registry.schema("amount"), registry.schema("asset_name")["pattern"].strip("^$")
_TIMESTAMP, _UUID = (re.compile(registry.schema(name)["pattern"], re.ASCII) for name in ("timestamp", "uuid"))
_DIGITS = Decimal(_AMOUNT["maximum"]).adjusted()  # of a plain amount at most as many before the point, and fewer after
assert Decimal(_AMOUNT["not"]["exclusiveMaximum"]).adjusted() == -_DIGITS
_NUMBER = rf"(?:0|[1-9][0-9]{{0,{_DIGITS - 1}}})(?:\.[0-9]{{1,{_DIGITS - 1}}})?"
_PAIR = rf'"{_ASSET_NAME}": ?{_NUMBER}'
_LEDGER = re.compile(rf"\{{{_PAIR}(?:, ?{_PAIR})*\}}".encode())
_NAME = re.compile(rb'"([^"]*)"')


class ValidatedUpdate(dict[str, Any]):
    """An update that is valid against its schema; only `decode_update` makes one.

    Each ledger is Encoded JSON without spaces, its assets in the order in which the server writes them: shorter names
    first, and names of equal length by the alphabet.
    """


class _Update(msgspec.Struct, forbid_unknown_fields=True):
    onchain: Encoded
    onsite: Encoded
    pid: int | None = None
    ts: str | None = None
    id: str | None = None


def _in_server_order(names: Iterable[bytes]) -> list[bytes]:
    return sorted(sorted(names), key=len)


class _Ledger:
    """Reads one of the two ledgers of an update."""

    def __init__(self, name: str) -> None:
        schema = registry.schema(name)
        self._required = _in_server_order(asset.encode() for asset in schema["required"])
        self._assets_max = schema["maxProperties"]
        pairs = ",".join(f'"{asset.decode()}":{_NUMBER}' for asset in self._required)
        self._usual = re.compile(rf"\{{{pairs}\}}".encode())  # nearly all: the required assets only, without spaces

    def read(self, ledger: Encoded) -> Encoded | None:
        """Return a ledger without its spaces, or None if it is not plain."""
        if self._usual.fullmatch(ledger):
            return ledger.copy()  # a view would keep the whole message in memory
        text = bytes(ledger)
        if not _LEDGER.fullmatch(text):
            return None
        names = _NAME.findall(text)
        if names != self._required and not (
            set(names).issuperset(self._required)
            and len(names) <= self._assets_max
            and names == _in_server_order(set(names))
        ):
            return None
        return Encoded(text.replace(b" ", b""))


class _ImportLine(_Update):
    seq: int | None = None


_decoder, _line_decoder = msgspec.json.Decoder(_Update), msgspec.json.Decoder(_ImportLine)
_onchain, _onsite = _Ledger("onchain"), _Ledger("onsite")


def decode_update(data: str | bytes) -> Any:
    """Decode an update: a plain one as a ValidatedUpdate, any other JSON as `loads` does. Raises MalformedJson."""
    plain = read_plain_update(data)
    return loads(data) if plain is None else plain


def read_plain_update(data: str | bytes) -> ValidatedUpdate | None:
    """Decode an update if it is plain; return None for any other text."""
    return _read_plain(_decoder, data)


def decode_import_line(data: bytes) -> Any:
    """Decode a line of an import (schemas/import_line.json) as `decode_update` does, without its `seq`.

    Raises MalformedJson and InvalidPayload.
    """
    plain = _read_plain(_line_decoder, data)
    if plain is not None and plain["id"] is not None and plain["ts"] is not None:
        return plain
    line = loads(data)
    check("import_line", line)
    line.pop("seq", None)
    return line


def _read_plain(decoder: msgspec.json.Decoder[Any], data: str | bytes) -> ValidatedUpdate | None:
    try:
        # Decoded as text: in bytes, msgspec skips invalid UTF-8 in a field that a later one of the same name replaces.
        update: _Update = decoder.decode(data if isinstance(data, str) else data.decode())
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
    return ValidatedUpdate(onchain=onchain, onsite=onsite, pid=pid, ts=ts, id=id_)
