"""What is known of a request beside its content: its client, its ids, when it began and how it ended.

Not `web.connection_context.ConnectionContext`, which is Tornado's of a connection of the port, with all its requests.
This one imports nothing of Tornado, so that what a request opens, the log and `connections` may keep it.

The id of a request is that of its header `X-Request-Id`, or one of this process. It is in the response and in the log,
so that a client and an operator can name the same request. The header `traceparent` (W3C Trace Context, level 1) joins
the request to a trace: the response has the same trace and a span of its own, and the log has both.

Threads: any. Nothing here waits or logs.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, MutableMapping
from itertools import count
from time import monotonic

from balance.auth import ANONYMOUS

REQUEST_ID = "X-Request-Id"
TRACEPARENT = "Traceparent"
OK = "ok"
"""The code of a request that succeeded; of any other it is that of its error."""

_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")  # section 3.2.2.1
_PREFIX = secrets.token_hex(4)  # distinguishes the ids of this process from those of others
_numbers = count(1)


class RequestContext:
    """One request, or the connection that it has opened."""

    __slots__ = ("caller", "client", "code", "request_id", "role", "started", "traceparent")

    def __init__(self, headers: Mapping[str, str], client: str) -> None:
        """Read the ids in the headers of a request of a client, which is an IP address."""
        is_named = REQUEST_ID in headers and _ID.fullmatch(headers[REQUEST_ID])
        self.request_id = headers[REQUEST_ID] if is_named else f"{_PREFIX}-{next(_numbers):x}"
        self.traceparent = _continue_trace(headers[TRACEPARENT]) if TRACEPARENT in headers else ""
        """That of the response; empty without a valid one in the request."""
        self.client = client
        self.caller = ANONYMOUS
        """Which client it is, once its credential is checked."""
        self.code = OK
        self.started = monotonic()

    @property
    def trace_id(self) -> str:
        """The trace of the request; empty if it has none."""
        return self.traceparent[3:35]

    @property
    def span_id(self) -> str:
        """The part of the trace that is this request; empty if it has none."""
        return self.traceparent[36:52]

    def set_headers(self, response: MutableMapping[str, str]) -> None:
        """Set the headers of the response that name the request."""
        response[REQUEST_ID] = self.request_id
        if self.traceparent:
            response[TRACEPARENT] = self.traceparent


def _continue_trace(parent: str) -> str:
    """Return a `traceparent` of the same trace with a new span; empty if `parent` is not valid (section 3.2)."""
    found = _TRACEPARENT.fullmatch(parent)
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5]):
        return ""
    if not found[2].strip("0") or not found[3].strip("0"):
        return ""
    return f"00-{found[2]}-{secrets.token_hex(8)}-{int(found[4], 16) & 1:02x}"
