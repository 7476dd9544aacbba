"""A connection of the pool, with the methods that the pool and the write thread need.

Threads: one at a time, but for `abort`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, LiteralString
from weakref import finalize

import psycopg
from psycopg import Connection, pq
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.rows import TupleRow
from psycopg.types.string import TextLoader

import protocol
from balance.storage.connect import configure_session


class DatabaseSession(Connection[TupleRow]):
    """A session of PostgreSQL, in autocommit: a transaction is opened where it is meant."""

    backend = 0  # the process id of its backend
    _sock: socket.socket | None = None  # a second descriptor of the connection's socket, to shut it down by
    _statements: frozenset[bytes] = frozenset()  # the names of those that are prepared

    @classmethod
    def connect(  # type: ignore[override]
        cls,
        conninfo: str,
        *,
        statement_ms_max: int,
        connected: Callable[[psycopg.Error | None], None],
        **options: Any,
    ) -> DatabaseSession:
        """Connect and set everything up; call `connected` with None, or with the error before it is raised.

        Raises psycopg.Error.
        """
        try:
            session = super().connect(conninfo, **options)
            try:
                session._set_up(statement_ms_max)
            except OSError as error:
                session.close()
                raise psycopg.OperationalError(str(error)) from error
            except BaseException:
                session.close()
                raise
        except psycopg.Error as error:
            connected(error)
            raise
        connected(None)
        return session

    def _set_up(self, statement_ms_max: int) -> None:
        self._sock = socket.socket(fileno=os.dup(self.fileno()))
        finalize(self, self._sock.close)  # the pool drops a session that is lost without closing it
        self.adapters.register_loader("json", _JsonLoader)
        self.adapters.register_loader("jsonb", _JsonLoader)
        self.adapters.register_loader("uuid", TextLoader)
        self.backend = configure_session(self, statement_ms_max=statement_ms_max)

    def close(self) -> None:
        """Close the connection."""
        super().close()
        if self._sock is not None:
            self._sock.close()

    def abort(self) -> None:
        """Shut the connection's socket down, so that the thread that uses it gets an error; from any thread.

        Closing the connection would free what that thread is using. The session must not be closed meanwhile.
        """
        with suppress(OSError):
            if self._sock is not None:
                self._sock.shutdown(socket.SHUT_RDWR)

    def is_alive(self) -> bool:
        """Return whether the server still serves it, without a round trip: the end of a closed one can be read."""
        if self.closed:
            return False
        try:
            self.pgconn.consume_input()  # the server's last message, if there is one
            self.pgconn.consume_input()  # the end itself
        except (psycopg.Error, OSError):
            return False
        return self.pgconn.status == pq.ConnStatus.OK

    def execute_prepared(self, name: bytes, sql: LiteralString, *parameters: bytes) -> pq.abc.PGresult:
        """Execute a statement that returns rows; it is prepared under its name at the first call.

        One call of libpq, which waits without the interpreter's lock: a third less processor time than a cursor, which
        converts the parameters and the row and looks for its prepared statement. Raises psycopg.Error.
        """
        if name not in self._statements:
            self._check(self.pgconn.prepare(name, sql.encode()), pq.ExecStatus.COMMAND_OK)
            self._statements |= {name}
        return self._check(self.pgconn.exec_prepared(name, parameters), pq.ExecStatus.TUPLES_OK)

    def _check(self, result: pq.abc.PGresult, wanted: pq.ExecStatus) -> pq.abc.PGresult:
        if result.status == wanted:
            return result
        error = psycopg.errors.error_from_result(result)
        if error.sqlstate is None:  # of libpq: the connection is lost
            raise psycopg.OperationalError(str(error))
        raise error


class _JsonLoader(Loader):
    """Loads JSON as its text, without the spaces around its signs: no text that is stored has a space."""

    def load(self, data: Buffer) -> protocol.Encoded:
        return protocol.Encoded(bytes(data).replace(b" ", b""))
