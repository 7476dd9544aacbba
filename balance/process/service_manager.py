"""Reports to the service manager that started the process, by the protocol of systemd (sd_notify(3)).

The manager waits for READY=1 before it starts what depends on the service, and restarts a service whose event loop no
longer sends WATCHDOG=1. Without a manager nothing is sent. A report never waits, and one that is lost is not an error.

Threads: event loop, or before there is one.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress


class ServiceManager:
    """The service manager of this process, if there is one."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Read the variables of the manager and remove them, so that no child process reports instead."""
        address, usec, pid = (environ.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"))
        self._address = "\0" + address[1:] if address.startswith("@") else address  # an abstract socket: unix(7)
        is_for_this = usec.isdecimal() and pid in ("", str(os.getpid()))
        self._watchdog_s = int(usec) / 1_000_000 if is_for_this else 0.0

    def report(self, *assignments: str) -> None:
        """Send assignments such as `STATUS=a line for people`."""
        if self._address:
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(assignments).encode(), self._address)

    def report_ready(self, status: str) -> None:
        """Report that the service answers, and from now on, by the running event loop, that it still does."""
        self.report("READY=1", f"STATUS={status}")
        self._keep_alive()

    def report_stopping(self, status: str) -> None:
        """Report that the service stops."""
        self.report("STOPPING=1", f"STATUS={status}")

    def _keep_alive(self) -> None:
        if self._watchdog_s:
            self.report("WATCHDOG=1")
            # Half of the time, as sd_watchdog_enabled(3) recommends.
            asyncio.get_running_loop().call_later(self._watchdog_s / 2, self._keep_alive)
