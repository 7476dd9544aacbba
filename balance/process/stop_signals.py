"""Stop the process at SIGTERM, Ctrl-C or the hangup of its terminal (SIGHUP).

The first signal raises KeyboardInterrupt in the main thread during the start, sets an event while the process serves,
and has no effect while the process ends. Later signals have no effect, so that a second Ctrl-C does not leave the
embedded PostgreSQL running. asyncio's own handlers would restore the default ones between these phases.

asyncio is imported late: this module is the first that the process loads, and sets handlers before it loads the others.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, Self

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def exit_on_signals(status: int) -> None:
    """End the process at once, without a traceback, at the first signal from now on."""
    _set_handlers(lambda *_: os._exit(status))


def ignore_signals() -> None:
    """Ignore the signals up to the end of the process."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class StopSignals:
    """Handles the signals inside its block, in the main thread."""

    def __init__(self) -> None:
        """Set no handler yet."""
        self.received: signal.Signals | None = None
        """The first signal."""
        self._action: Callable[[], object] = _interrupt
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        _set_handlers(self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def set(self, event: asyncio.Event) -> None:
        """Set an event of the running loop at the first signal, or now if a signal has come already."""
        import asyncio

        loop = asyncio.get_running_loop()
        self._action = lambda: loop.call_soon_threadsafe(event.set)
        if self.received is not None:  # Python discards a KeyboardInterrupt that is raised in a finalizer
            event.set()

    def ignore(self) -> None:
        """Ignore the signals from now on, since the process ends."""
        self._action = lambda: None

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
            self._action()


def _interrupt() -> None:
    raise KeyboardInterrupt


def _set_handlers(handler: Callable[[int, FrameType | None], object]) -> None:
    """Handle the signals by `handler`, except a hangup that `nohup` made the process ignore."""
    for number in STOP_SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)
