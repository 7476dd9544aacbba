"""What a condition is: whether the alarm of one rule is to begin or to end.

Time is an argument everywhere, in seconds since 1970. A condition changes by snapshots (`receive`) and by time
(`advance`). Time is only advanced while the watch has everything that was saved, so a disconnection neither fires an
alarm nor ends one; after it, silence is counted again from its beginning (`begin_again`).

What was lost proves nothing: after `restart`, an alarm that fires ends by a snapshot that is received later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from balance.alarms.alarm import Alarm, Change, Latest, Received

NewId = Callable[[], str]


class Condition(Protocol):
    """The condition of one rule."""

    @property
    def alarms(self) -> Iterable[Alarm]:
        """The alarms that fire."""

    @property
    def due_at(self) -> float:
        """The first moment at which `advance` may change something."""

    def receive(self, received: Received) -> list[Change]:
        """Note a snapshot."""

    def advance(self, now: float) -> list[Change]:
        """Note that nothing but what was received has been saved up to now."""

    def begin_again(self, now: float, *, is_jump: bool = False) -> None:
        """Count silence from now on, and after a jump of the clock everything that lasts."""

    def restart(self, latest: Latest, now: float) -> list[Change]:
        """Begin again with the state of the feed, whose changes up to it are not known."""

    def dump(self) -> dict[str, Any]:
        """Return the state as JSON."""

    def load(self, data: Mapping[str, Any]) -> None:
        """Continue with a state of `dump`."""
