"""The use of a pooled connection, from a checkout to its return.

Threads: a use belongs to one thread.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from balance.storage.database_session import DatabaseSession
from balance.storage.errors import StoreUnavailable
from balance.storage.outage import Kind


class PoolCounts(NamedTuple):
    """The connections of a pool at one moment."""

    size: int
    in_use: int
    """Those that are in use now; the write thread keeps one also while nothing is saved."""
    waiting: int
    """The threads that wait for one."""


class Lender(Protocol):
    """What a use needs of the pool."""

    def begin_use(self, session: DatabaseSession) -> None: ...

    def end_use(self, session: DatabaseSession, kind: Kind, error: BaseException | None) -> None: ...

    def give_back(self, session: DatabaseSession) -> None: ...


class Use:
    """A session in use, as a context manager.

    A class, since an append enters one: the generator of `contextlib` takes several times as long.
    """

    __slots__ = ("_is_borrowed", "_kind", "_pool", "_session")

    def __init__(self, pool: Lender, session: DatabaseSession, kind: Kind, *, is_borrowed: bool = False) -> None:
        self._pool = pool
        self._session = session
        self._kind = kind
        self._is_borrowed = is_borrowed

    def __enter__(self) -> DatabaseSession:
        try:
            self._pool.begin_use(self._session)
        except StoreUnavailable:
            self._give_back()
            raise
        return self._session

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        try:
            self._pool.end_use(self._session, self._kind, error)
        finally:
            self._give_back()

    def _give_back(self) -> None:
        if self._is_borrowed:
            self._pool.give_back(self._session)
