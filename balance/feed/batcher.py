"""Cuts pending saves into batches, and appends one batch behind the other.

All saves that arrive in one turn of the event loop share a batch, and so one broadcast. A batch has at most half of all
pending saves: while one half is appended, the other is acknowledged and its senders send again. With all of them in one
batch, first the event loop would be idle and then the database. The second batch is sent to the database while it
appends the first one, so that it does not wait for this program in between. Where a broadcast takes longer than a
commit, because there are many watchers, few saves are not halved: up to BATCH_MIN share a batch and its broadcast.

A batch that cannot be sent, or that the database does not store at once, is appended by the write thread, which waits
for the answer: one of its ids is stored already, another process appends too, there is no connection that works, or the
database refuses a row. What was sent behind it is put back as well, in its order. If the database refuses a batch of
the write thread, its saves are put back to be appended one by one.

Threads: event loop only; the store's `append` is called in the write thread, while nothing that was sent is unanswered.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import NamedTuple, Protocol

from balance.aio.threads import WorkerThread
from balance.aio.watched_socket import Connection, WatchedSocket
from balance.feed.pending import PendingSave
from balance.snapshot import Snapshot
from balance.storage.append import Appended
from balance.storage.errors import StoreUnavailable
from balance.storage.pipeline import Outcome

log = logging.getLogger("balance.feed")

BATCH_MIN = 32  # the cost of a commit, shared by this many saves, is small
IN_FLIGHT_MAX = 2  # batches; the limit on the backlog of a client that reads allows for two
SENT_MAX = 256  # saves in a batch that is sent, since the event loop encodes it


class AppendStore(Protocol):
    """What the batcher needs of the store."""

    @property
    def connection(self) -> Connection | None: ...

    def send(self, snapshots: Sequence[Snapshot]) -> bool: ...

    def flush(self) -> bool: ...

    def receive(self) -> list[Outcome]: ...

    def append(self, snapshots: Sequence[Snapshot]) -> Appended: ...


class Batch(NamedTuple):
    """Saves that were appended together, and the outcome."""

    saves: list[PendingSave]
    outcome: Appended | Exception
    seconds: float
    """The time that the database took, without that in which it appended the batch before."""


class _Begun(NamedTuple):
    """A batch that the store was given."""

    saves: list[PendingSave]
    at: float


class Batcher:
    """Appends saves in their order."""

    def __init__(
        self, store: AppendStore, worker: WorkerThread, on_batch: Callable[[Batch], float], *, batch_max: int
    ) -> None:
        """Append also with the thread of `worker`; call `on_batch` with each batch, in their order.

        It returns the time that the broadcast took, in seconds.
        """
        self._store = store
        self._worker = worker
        self._on_batch = on_batch
        self._batch_max = batch_max
        self.pending: deque[PendingSave] = deque()
        """All saves that are not done, in their order, and perhaps some that are."""
        self._queue: deque[PendingSave] = deque()  # those of them that are in no batch
        self._put_back_left = 0  # this many saves at the front of the queue are for the write thread
        self._singles_left = 0  # and this many of those are appended one by one
        self._is_blocked = False  # whether the first of the queue cannot be sent behind what is in flight
        self._sent: deque[_Begun] = deque()
        self._appended: _Begun | None = None  # by the write thread
        self._answered_at = 0.0  # when the database has last answered
        self._pending_before = 0  # when the last batch was acknowledged
        self._commit_s = 1.0  # about the shortest of late: the event loop may have been late to see the end of one
        self._broadcast_s = 0.0  # the last one
        self._socket = WatchedSocket(self._receive, store.flush)
        self._is_stopped = False

    def submit(self, save: PendingSave) -> None:
        """Queue a save for the next batch. The caller calls `start_next`; a batch that is large enough starts now."""
        self.pending.append(save)
        self._queue.append(save)
        if len(self._queue) >= BATCH_MIN and len(self._sent) < IN_FLIGHT_MAX:
            self.start_next()

    def start_next(self) -> None:
        """Cut and append the next batch, if no other has to be waited for and enough saves wait."""
        while self._may_start():
            self._start()

    def has_in_flight(self) -> bool:
        """Return whether there is a batch that may be committed and that `on_batch` has not been called with."""
        return bool(self._sent) or self._appended is not None

    @property
    def append_s(self) -> float:
        """The time for which the database has appended the oldest batch; 0 if there is none."""
        begun = self._appended or (self._sent[0] if self._sent else None)
        return 0.0 if begun is None else perf_counter() - max(begun.at, self._answered_at)

    def discard_done(self) -> None:
        """Discard the saves at the front that are done, so that they no longer count as pending."""
        while self.pending and self.pending[0].done():
            self.pending.popleft()
        while self._queue and self._queue[0].done():
            self._queue.popleft()
            self._count_cut(1)

    def stop(self) -> None:
        """Start no batch and wait for no answer from now on."""
        self._is_stopped = True
        self._socket.close()

    def _may_start(self) -> bool:
        if not self._queue or self._appended is not None or self._is_stopped:
            return False
        if not self._sent:
            return True
        if self._put_back_left or self._is_blocked:
            return False
        others = self._expected - sum(len(begun.saves) for begun in self._sent)
        enough = min(others, BATCH_MIN) if self._halves_few else BATCH_MIN
        return len(self._sent) < IN_FLIGHT_MAX and len(self._queue) >= enough

    @property
    def _expected(self) -> int:
        """The number of saves that are pending when those that were just acknowledged are sent again."""
        return max(len(self.pending), self._pending_before)

    @property
    def _halves_few(self) -> bool:
        return self._broadcast_s < self._commit_s

    def _start(self) -> None:
        """Send the next batch to the database, or have the write thread append it."""
        self._is_blocked = False
        if self._put_back_left:
            self._append_in_thread(self._cut(1 if self._singles_left else self._put_back_left))
            return
        half = (self._expected + 1) // 2
        saves = self._cut(min(SENT_MAX, half if self._halves_few else max(half, BATCH_MIN)))
        if not saves or self._send(saves):
            return
        if self._sent:
            self._queue.extendleft(reversed(saves))
            self._is_blocked = True
        else:
            self._append_in_thread(saves + self._cut(min(BATCH_MIN, self._batch_max) - len(saves)))

    def _send(self, saves: list[PendingSave]) -> bool:
        """Send a batch behind the one that is in the database; return whether it was sent."""
        try:
            connection = self._store.connection
            if connection is None:
                return False
            self._socket.watch(connection)  # before it is sent: there may be no descriptor left
            if not self._store.send([save.snapshot for save in saves]):
                return False
        except OSError:  # as the outage, which the write thread finds, has it in the log
            return False
        except Exception:  # the write thread appends them, or finds out what is at fault
            log.exception("a batch was not sent")
            return False
        self._sent.append(_Begun(saves, perf_counter()))
        self._socket.flush()
        return True

    def _receive(self) -> None:
        """Finish the batches that were sent and are answered; before that, start the next one."""
        if not self._sent:  # the database has ended the connection, which the next batch finds out
            self._socket.close()
            return
        batches: list[Batch] = []
        if outcomes := self._store.receive():
            now = perf_counter()
            seconds = (now - max(self._sent[0].at, self._answered_at)) / len(outcomes)  # of each, as far as is known
            self._answered_at = now
        for outcome in outcomes:
            saves, _ = self._sent.popleft()
            if outcome is None:
                self._put_back(saves)
            else:
                batches.append(Batch(saves, outcome, seconds))
        try:
            self.start_next()
        finally:
            for batch in batches:
                self._finish(batch)

    def _append_in_thread(self, saves: list[PendingSave]) -> None:
        if saves:
            self._socket.close()  # the thread reads from it
            self._appended = _Begun(saves, perf_counter())
            self._worker.submit(partial(self._append, saves))

    def _append(self, saves: list[PendingSave]) -> None:
        """Append a batch; in the write thread."""
        started = perf_counter()
        outcome: Appended | Exception
        try:
            outcome = self._store.append([save.snapshot for save in saves])
        except Exception as error:
            outcome = error
        batch = Batch(saves, outcome, perf_counter() - started)
        self._worker.deliver(partial(self._finish_appended, batch))

    def _finish_appended(self, batch: Batch) -> None:
        self._appended = None
        is_refused = isinstance(batch.outcome, Exception) and not isinstance(batch.outcome, StoreUnavailable)
        if is_refused and len(batch.saves) > 1:  # the others must not fail with the one that the database refuses
            self._queue.extendleft(reversed(batch.saves))
            self._put_back_left += len(batch.saves)
            self._singles_left = len(batch.saves)
            self.start_next()
            return
        try:
            if len(self._queue) >= BATCH_MIN:  # fewer share a batch with what is sent after the acknowledgements
                self.start_next()
        finally:
            self._finish(batch)

    def _finish(self, batch: Batch) -> None:
        self._pending_before = len(self.pending)
        self._commit_s = min(batch.seconds, 1.05 * self._commit_s)
        try:
            self._broadcast_s = self._on_batch(batch)
        except Exception:  # the other batches must be finished
            log.exception("a batch was not handled")

    def _cut(self, limit: int) -> list[PendingSave]:
        """Cut saves from the front of the queue, up to `limit`; return those of them that are not done."""
        cut = [self._queue.popleft() for _ in range(min(limit, len(self._queue), self._batch_max))]
        self._count_cut(len(cut))
        return [save for save in cut if not save.done()]

    def _count_cut(self, saves: int) -> None:
        """Count saves that are no longer at the front of the queue."""
        self._put_back_left = max(0, self._put_back_left - saves)
        self._singles_left = max(0, self._singles_left - saves)

    def _put_back(self, saves: list[PendingSave]) -> None:
        """Put saves back to the front of the queue, behind those that were sent and put back before them."""
        self._queue.rotate(-self._put_back_left)
        self._queue.extendleft(reversed(saves))
        self._queue.rotate(self._put_back_left)
        self._put_back_left += len(saves)
