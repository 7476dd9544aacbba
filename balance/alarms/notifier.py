"""Sends the changes of alarms to a receiver, in their order, each until the receiver has accepted it.

A notice is stored before it is sent and removed after it was accepted, so that a restart loses none. If a response is
lost, the notice is sent again under its id, by which the receiver knows it.

Bounded: a notice is given up after GIVE_UP_S, and the oldest one is if NOTICES_MAX wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from random import uniform
from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import uuid4

from balance.alarms.alarm import Alarm, Change, change_from
from balance.alarms.http_client import FAILURES, HttpClient
from balance.alarms.messages import Format, Message, Notice
from balance.alarms.state_file import StateFile

log = logging.getLogger("balance.alarms")

SECTION = "notices"
ATTEMPT_S_MAX = 15.0  # for the receiver to answer; the specification of Standard Webhooks recommends 15 to 30 s
WAIT_S = (1.0, 300.0)  # between the first two attempts, and at most; each time twice as long
JITTER = 0.2
RETRY_AFTER_S_MAX = 3_600.0
GIVE_UP_S = 86_400.0
NOTICES_MAX = 1_000
REPEAT_S = 60.0
GONE = 410


class Attempt(NamedTuple):
    """The result of one attempt to send."""

    is_accepted: bool
    is_final: bool = False
    """Whether the receiver wants no further attempt."""
    retry_after_s: float = 0.0


class Notifier:
    """The notices that wait for one receiver.

    Life cycle: `run` sends until it is cancelled.
    """

    def __init__(
        self,
        form: Format,
        http: HttpClient,
        state: StateFile,
        clock: Callable[[], float],
        read_alarms: Callable[[], Iterable[Alarm]],
    ) -> None:
        """Continue with the notices of the state; `read_alarms` returns the alarms that fire."""
        self._form = form
        self._http = http
        self._state = state
        self._clock = clock
        self._host = urlsplit(form.url).hostname  # for the log: the rest of a URL may be a secret
        self._waiting = deque(
            Notice(one["id"], change_from(one["change"]), float(one["created_at"])) for one in state.get(SECTION) or ()
        )
        self._read_alarms = read_alarms
        self._added = asyncio.Event()
        self._is_failing = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, changes: Iterable[Change]) -> None:
        """Queue changes, and put them in the state; `write` of the state must follow before anything is awaited."""
        now = self._clock()
        self._waiting.extend(Notice(f"msg_{uuid4().hex}", change, now) for change in changes)
        while len(self._waiting) > NOTICES_MAX:
            log.error("%d notices wait for %s: the oldest one is given up", len(self._waiting), self._host)
            self._waiting.popleft()
        self._state.put(SECTION, list(self._waiting))
        self._added.set()

    async def run(self) -> None:
        """Send what waits, and what is added; repeat the alarms that fire, if the receiver needs that."""
        while True:
            while self._waiting:
                await self._deliver(self._waiting[0])
            self._added.clear()
            try:
                async with asyncio.timeout(REPEAT_S):
                    await self._added.wait()
            except TimeoutError:
                await self._repeat()

    async def _deliver(self, notice: Notice) -> None:
        """Send a notice until it is accepted or given up, and remove it."""
        for wait_s in waits():
            attempt = await self._send(self._form.message(notice, self._clock()))
            if attempt.is_accepted or attempt.is_final or self._is_given_up(notice):
                break
            await asyncio.sleep(max(wait_s, attempt.retry_after_s))
        if not attempt.is_accepted:
            log.error("notice %s for %s is given up", notice.id, self._host)
        if self._waiting and self._waiting[0] is notice:  # otherwise too many were added meanwhile
            self._waiting.popleft()
        self._state.put(SECTION, list(self._waiting))
        self._state.write()

    def _is_given_up(self, notice: Notice) -> bool:
        return self._clock() - notice.created_at > GIVE_UP_S

    async def _repeat(self) -> None:
        """Send the alarms that fire once more; the next repetition is the next attempt."""
        alarms = list(self._read_alarms())
        message = self._form.repetition(alarms, self._clock())
        if alarms and message is not None:
            await self._send(message)

    async def _send(self, message: Message) -> Attempt:
        """Make one attempt. What the receiver answers, beside the status, is discarded."""
        headers, body = dict(message.headers), message.body
        try:
            response = await self._http.fetch(
                self._form.url, method="POST", headers=headers, body=body, timeout_s=ATTEMPT_S_MAX, on_data=_discard
            )
        except FAILURES as error:
            self._note(f"{type(error).__name__}: {error}")
            return Attempt(is_accepted=False)
        if 200 <= response.status < 300:
            self._note("")
            return Attempt(is_accepted=True)
        self._note(f"status {response.status}")
        return Attempt(False, response.status == GONE, _retry_after_s(response.headers.get("Retry-After", "")))

    def _note(self, reason: str) -> None:
        """Log the first failure of an outage of the receiver, and its end."""
        if reason and not self._is_failing:
            log.warning("%s does not accept notices, which are sent again: %s", self._host, reason)
        elif self._is_failing and not reason:
            log.warning("%s accepts notices again", self._host)
        self._is_failing = bool(reason)


def waits() -> Iterator[float]:
    """Yield the seconds between attempts, which grow up to a limit."""
    wait_s, most = WAIT_S
    while True:
        yield uniform(1 - JITTER, 1 + JITTER) * wait_s
        wait_s = min(2 * wait_s, most)


def _retry_after_s(text: str) -> float:
    """Return the seconds of the header Retry-After; its form with a date is rare, and is ignored."""
    return min(float(text), RETRY_AFTER_S_MAX) if text.isascii() and text.isdecimal() else 0.0


def _discard(_data: bytes) -> None:
    """Receive a part of a body."""
