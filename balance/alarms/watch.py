"""One watch: its position in the feed, the state of its rules, and what it prints and sends of their changes.

A position is stored together with the changes up to it, before one of these is sent. So after a crash the feed is read
again from there, and changes no alarm a second time.

Threads: event loop only; the state is written by the event loop itself, which has nothing else to serve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from balance.alarms.alarm import Change, Latest
from balance.alarms.evaluation import Evaluation
from balance.alarms.messages import format_time, summary
from balance.alarms.notifier import Notifier
from balance.alarms.state_file import StateFile

POSITION, EVALUATION = "position", "evaluation"
SAVE_S = 5.0  # between two writes of a position without a change


class FeedPosition(NamedTuple):
    """Where a watch is in the feed: it has everything up to `seq`."""

    epoch: str
    seq: int
    tag: str = ""
    """The last eight hex digits of the id of snapshot `seq`, if they are known."""


class Watch:
    """The rules, and the feed up to a position."""

    def __init__(
        self,
        evaluation: Evaluation,
        state: StateFile,
        notifier: Notifier,
        clock: Callable[[], float],
        print_line: Callable[[str], object],
    ) -> None:
        """Continue with the state, which must be open, if it has one."""
        self._evaluation = evaluation
        self._state = state
        self._notifier = notifier
        self._clock = clock
        self._print_line = print_line
        self.position: FeedPosition | None = None
        """None before the state of the feed was read."""
        self._saved: FeedPosition | None = None
        self._saved_at = clock()
        if (data := state.get(EVALUATION)) is not None:
            removed = evaluation.removed(data, clock())
            if evaluation.load(data) and state.get(POSITION):  # a new rule needs the state of the feed
                self.position = FeedPosition(*state.get(POSITION))
            self._commit(removed)

    @property
    def due_at(self) -> float:
        """The first moment at which `advance` may change something."""
        return self._evaluation.due_at

    @property
    def recent_s(self) -> Iterable[int]:
        """The numbers of seconds for which `restart` needs the pids that were received within them."""
        return self._evaluation.recent_s

    def restart(self, latest: Latest, position: FeedPosition) -> None:
        """Begin again with the state of the feed at a position."""
        self.position = position
        self._commit(self._evaluation.restart(latest, self._clock()))
        self.save()

    def resume(self, position: FeedPosition) -> None:
        """Go on from another position, up to which what was received is right."""
        self.position = position
        self.save()

    def forget_position(self) -> None:
        """Begin again with the state of the feed."""
        self.position = None

    def receive(self, snapshots: Iterable[tuple[FeedPosition, Mapping[str, Any]]], *, is_live: bool) -> None:
        """Note the next snapshots, each with the position after it."""
        now, changes = self._clock(), []
        for position, snapshot in snapshots:
            changes += self._evaluation.receive(snapshot, now, is_live=is_live)
            self.position = position
        self._commit(changes)

    def advance(self, now: float) -> None:
        """Note that nothing but what was received has been saved up to `now`."""
        self._commit(self._evaluation.advance(now))
        if self.position != self._saved and self._clock() - self._saved_at >= SAVE_S:
            self.save()

    def begin_again(self, *, is_jump: bool = False) -> None:
        """Count silence from now on, and after a jump of the clock everything that lasts."""
        self._evaluation.begin_again(self._clock(), is_jump=is_jump)

    def save(self) -> None:
        """Store the state."""
        self._state.put(POSITION, self.position)
        self._state.put(EVALUATION, self._evaluation.dump())
        self._state.write()
        self._saved, self._saved_at = self.position, self._clock()

    def _commit(self, changes: list[Change]) -> None:
        """Store changes with the position, then print and send them."""
        if not changes:
            return
        self._notifier.add(changes)
        self.save()
        for change in changes:
            self._print_line(f"{format_time(change.at)} {summary(change)}")
