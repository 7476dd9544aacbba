"""The amount that a rule is about, as the snapshots arrive: the last one, or the sum of all pids.

A snapshot that does not name the asset does not change the amount: it states nothing about it.
"""

from __future__ import annotations

from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from math import inf
from typing import Any

from balance.alarms.alarm import Amount, Latest, Received

EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)  # the default one rounds to 28 digits
STALE_S = 600.0  # after which a pid is no longer a part of a sum
PIDS_MAX = 10_000  # that a rule keeps; the one that was received least recently is forgotten


class LastValue:
    """The amount in the last snapshot that names it: of the account, or of one pid."""

    def __init__(self, ledger: str, asset: str, pid: int | None) -> None:
        self._ledger = ledger
        self._asset = asset
        self._pid = pid
        self.value: Amount | None = None

    def receive(self, received: Received) -> bool:
        """Note a snapshot; return whether it states the amount."""
        if self._pid is not None and received.pid != self._pid:
            return False
        amount = received.amount(self._ledger, self._asset)
        if amount is None:
            return False
        self.value = amount
        return True

    def restart(self, latest: Latest) -> None:
        """Begin again with the state of the feed."""
        newest = latest.newest if self._pid is None else latest.pids.get(self._pid)
        self.value = None if newest is None else newest.amount(self._ledger, self._asset)

    @property
    def expires_at(self) -> float:
        """When the amount may change without a snapshot."""
        return inf

    def expire(self, now: float) -> None:
        """Drop what is too old."""

    def begin_again(self, now: float) -> None:
        """Count the age of everything from now on."""

    def dump(self) -> Any:
        """Return the state as JSON."""
        return self.value

    def load(self, data: Any) -> None:
        """Continue with a state of `dump`."""
        self.value = data


class SumValue:
    """The sum of the last amounts of all pids that were received within STALE_S; None if there are none."""

    def __init__(self, ledger: str, asset: str) -> None:
        self._ledger = ledger
        self._asset = asset
        self._pids: dict[int, tuple[Amount, float]] = {}  # amount and time, the one received last at the end
        self._total: Amount = Decimal(0)

    @property
    def value(self) -> Amount | None:
        """The sum, to the last digit."""
        return self._total if self._pids else None

    def receive(self, received: Received) -> bool:
        """Note a snapshot; return whether it states an amount of the sum."""
        amount = received.amount(self._ledger, self._asset)
        if amount is None or received.pid is None:
            return False
        self._remove(received.pid)
        self._add(received.pid, amount, received.at)
        if len(self._pids) > PIDS_MAX:
            self._remove(next(iter(self._pids)))
        return True

    def restart(self, latest: Latest) -> None:
        """Begin again with the state of the feed."""
        self._pids, self._total = {}, Decimal(0)
        recent = latest.recent[int(STALE_S)]
        for pid, received in latest.pids.items():
            if pid in recent:
                self.receive(received)

    @property
    def expires_at(self) -> float:
        """When the pid that was received least recently is no longer counted."""
        return next(iter(self._pids.values()))[1] + STALE_S if self._pids else inf

    def expire(self, now: float) -> None:
        """Drop the pids that were not received within STALE_S."""
        while self.expires_at <= now:
            self._remove(next(iter(self._pids)))

    def begin_again(self, now: float) -> None:
        """Count the age of each pid from now on."""
        self._pids = {pid: (amount, now) for pid, (amount, _) in self._pids.items()}

    def dump(self) -> Any:
        """Return the state as JSON."""
        return [[pid, amount, at] for pid, (amount, at) in self._pids.items()]

    def load(self, data: Any) -> None:
        """Continue with a state of `dump`."""
        for pid, amount, at in data:
            self._add(pid, amount, float(at))

    def _add(self, pid: int, amount: Amount, at: float) -> None:
        self._pids[pid] = (amount, at)
        self._total = EXACT.add(self._total, amount)

    def _remove(self, pid: int) -> None:
        if (found := self._pids.pop(pid, None)) is not None:
            self._total = EXACT.subtract(self._total, found[0])
