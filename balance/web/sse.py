"""The bytes of a stream of server-sent events (WHATWG HTML, section 9.2).

The id of an event is the position after it, as one text, which a browser sends back as `Last-Event-ID` when it connects
again. Pings have none. A stream with a filter receives an id only with an event that fits the filter, and with
`connected` and `bye`: after a lost connection what lies between is read again.

Pure: nothing is read or written.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import randint
from typing import Any

import protocol
from balance.snapshot import TAG_IN_JSON, EncodedSnapshot

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store, no-transform",  # a proxy that compresses would hold events back
    "X-Accel-Buffering": "no",  # nginx would hold them back
    "Connection": "close",  # the end of the stream is the end of the connection, so that nothing is framed
}
RETRY_MS = (1_000, 3_000)  # the bounds of the time after which a client connects again: not all at once


def encode_each(snapshots: Sequence[EncodedSnapshot], epoch: str) -> list[bytes]:
    """Encode each snapshot of one epoch as an event."""
    event = b"id: %b:%%d:%%b\nevent: %b\ndata: %%b\n\n" % (epoch.encode(), protocol.BALANCE_SNAPSHOT.encode())
    return [event % (seq, json[TAG_IN_JSON], json) for seq, json in snapshots]


def encode_snapshots(snapshots: Sequence[EncodedSnapshot], epoch: str) -> bytes:
    """Encode snapshots of one epoch as events, in their order."""
    return b"".join(encode_each(snapshots, epoch))


def encode_event(name: str, data: dict[str, Any], token: str | None = None) -> bytes:
    """Encode an event whose data is JSON; `token` is its id."""
    id_line = "" if token is None else f"id: {token}\n"
    return b"%bevent: %b\ndata: %b\n\n" % (id_line.encode(), name.encode(), protocol.encode(data))


def encode_retry(at_least_s: int = 0) -> bytes:
    """Encode the line that sets how long a client waits before it connects again, drawn for each stream."""
    return b"retry: %d\n" % (max(at_least_s - 1, 0) * 1_000 + randint(*RETRY_MS))  # spreads load, and protects nothing
