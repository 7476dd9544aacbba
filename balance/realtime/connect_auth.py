"""What a client asks for when it connects: the option `auth` (schemas/connect_auth.json)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from balance.position import ClaimedPosition, parse_token

OTHER_FEED = "00000000-0000-0000-0000-000000000000"  # the epoch of no feed


class ConnectAuth(NamedTuple):
    """A checked `auth`."""

    claimed: ClaimedPosition | None
    """The position from which the client resumes; None if it asks for the live tail only."""
    is_native: bool
    """Whether the client uses the recovery of socket.io-client."""
    pid: str | None
    """The `pid` of the last CONNECT packet that it received, with native recovery."""

    @classmethod
    def read(cls, auth: Mapping[str, Any]) -> ConnectAuth:
        """Read an `auth` that its schema has accepted.

        The offset of native recovery is newer than `after`, which a page may have stored before it was opened.
        """
        pid, offset = auth.get("pid"), auth.get("offset")
        is_native = bool(auth.get("recovery"))
        if is_native and pid is not None and offset is not None:
            return cls(_read_offset(pid, offset), is_native, pid)
        after = auth.get("after")
        claimed = None if after is None else ClaimedPosition.of(after, auth.get("epoch"), auth.get("id"))
        return cls(claimed, is_native, pid)

    def answer_pid(self, epoch: str, *, recovered: bool) -> str | None:
        """Return the `pid` of the CONNECT packet that answers, None without native recovery.

        socket.io-client has recovered if and only if it is the one that the client had. So where the epoch is still the
        same, but the position is not good, the answer has the other spelling of that UUID (RFC 9562, section 4).
        """
        if not self.is_native:
            return None
        if recovered and self.pid is not None:
            return self.pid
        return epoch.upper() if self.pid == epoch else epoch


def _read_offset(pid: str, offset: str) -> ClaimedPosition:
    """Read an offset: `<seq>:<tag>` in the epoch that `pid` names, or a token that names its epoch itself.

    socket.io-client sends what it got from another server too, and would not connect again after an error.
    """
    try:
        return parse_token(offset if offset.count(":") > 1 else f"{pid.lower()}:{offset}")
    except ValueError:
        return ClaimedPosition(OTHER_FEED, 0)
