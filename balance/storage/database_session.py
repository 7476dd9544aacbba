"""A connection of the pool, with the methods that the pool, the write thread and the pipeline need.

Threads: one at a time, but for `abort`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from select import POLLIN, poll
from typing import Any, LiteralString
from weakref import finalize

import psycopg
from psycopg import Connection, Transaction, pq
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.rows import TupleRow
from psycopg.types.string import TextLoader

import protocol
from balance.storage.connect import DatabaseError
from balance.storage.server_probe import Server
from balance.storage.session_settings import configure_session


class DatabaseSession(Connection[TupleRow]):
    """A session of PostgreSQL, in autocommit: a transaction is opened where it is meant."""

    server = Server(None, None)
    _sock: socket.socket | None = None  # a second descriptor of the connection's socket, to shut it down by
    _statements: frozenset[bytes] = frozenset()  # the names of those that are prepared
    _warnings: list[str]
    _answer: pq.abc.PGresult | None = None  # to the oldest statement that was sent, until it is committed
    is_aborted = False
    """Whether `abort` was called."""

    @classmethod
    def connect(  # type: ignore[override]
        cls,
        conninfo: str,
        *,
        statement_ms_max: int,
        check: Callable[[DatabaseSession], None],
        connected: Callable[[psycopg.Error | None], None],
        **options: Any,
    ) -> DatabaseSession:
        """Connect, set everything up and have `check` accept or refuse the server, by an error.

        `connected` is called with None, or with the error before it is raised. Raises psycopg.Error.
        """
        try:
            session = super().connect(conninfo, **options)
            try:
                session._set_up(statement_ms_max)
                check(session)
            except (OSError, DatabaseError) as error:
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
        self._warnings = []
        self.add_notice_handler(partial(_note_warning, self._warnings))  # a method of the session would keep it alive
        configure_session(self, statement_ms_max=statement_ms_max).check_durability()

    def take_warning(self) -> str | None:
        """Return the first warning of the server since the last call, if there was one."""
        if not self._warnings:
            return None
        text = self._warnings[0]
        self._warnings.clear()
        return text

    def close(self) -> None:
        """Close the connection."""
        super().close()
        if self._sock is not None:
            with suppress(OSError):  # the event loop may keep another descriptor of it open
                self._sock.shutdown(socket.SHUT_RDWR)
            self._sock.close()

    def abort(self) -> None:
        """Shut the connection's socket down, so that the thread that uses it gets an error; from any thread.

        Closing the connection would free what that thread is using. The session must not be closed meanwhile.
        """
        self.is_aborted = True
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

    @contextmanager
    def transaction(self, savepoint_name: str | None = None, force_rollback: bool = False) -> Iterator[Transaction]:
        """Open a transaction within a block. If that fails, prepare the statements of `execute_prepared` again later.

        After a ROLLBACK psycopg deallocates every prepared statement of the session, also those that are not its own.
        """
        try:
            with super().transaction(savepoint_name, force_rollback) as transaction:
                yield transaction
        except BaseException:
            if self._statements:
                self._statements = frozenset()
                with suppress(psycopg.Error):  # a session that is lost
                    self.execute("DEALLOCATE ALL")
            raise

    def prepare(self, name: bytes, sql: LiteralString) -> None:
        """Prepare a statement under a name, unless it is prepared. Raises psycopg.Error."""
        if name not in self._statements:
            _check(self.pgconn.prepare(name, sql.encode()))
            self._statements |= {name}

    def execute_prepared(self, name: bytes, sql: LiteralString, *parameters: bytes | None) -> pq.abc.PGresult:
        """Execute a statement; it is prepared under its name at the first call.

        One call of libpq, which waits without the interpreter's lock: a third less processor time than a cursor, which
        converts the parameters and the row and looks for its prepared statement. Raises psycopg.Error.
        """
        self.prepare(name, sql)
        # psycopg passes None as NULL, as it does in `exec_params`, and only the type of this argument lacks it.
        result = self.pgconn.exec_prepared(name, parameters)  # type: ignore[arg-type]
        return _check(result)

    def begin_pipeline(self) -> None:
        """Let `send_prepared` be called, and nothing else that sends. Not while something is in flight."""
        self._answer = None
        self.pgconn.enter_pipeline_mode()

    def end_pipeline(self) -> None:
        """End that; the session is closed if something is in flight."""
        try:
            if not self.closed:
                self.pgconn.exit_pipeline_mode()
        except psycopg.Error:
            self.close()

    def is_prepared(self, name: bytes) -> bool:
        """Return whether a statement is prepared under this name."""
        return name in self._statements

    def send_prepared(self, name: bytes, *parameters: bytes | None) -> None:
        """Send a prepared statement, which is a transaction, without waiting: then call `flush`.

        Raises psycopg.OperationalError if the connection is lost.
        """
        self.pgconn.send_query_prepared(name, parameters)
        self.pgconn.pipeline_sync()

    def flush(self) -> bool:
        """Send what is left of what was sent, as far as it fits into the buffers; return whether that is all.

        A connection that is lost has nothing to send: `receive` has its error.
        """
        with suppress(psycopg.OperationalError):
            return self.pgconn.flush() == 0
        return True

    def receive(self) -> pq.abc.PGresult | None:
        """Return the result of the oldest statement that was sent, without waiting; None if it is not committed yet.

        An error of the commit replaces the result of the statement. Raises psycopg.Error if the connection is lost.
        """
        answer = self._read_answer()
        if answer is None:
            with suppress(psycopg.OperationalError):  # behind what came before it, the next line raises it
                self.pgconn.consume_input()
            answer = self._read_answer()
        return answer

    def _read_answer(self) -> pq.abc.PGresult | None:
        """Return the next whole answer of what was received."""
        is_end = False
        while not self.pgconn.is_busy():  # `get_result` would wait, with the interpreter's lock
            result = self.pgconn.get_result()
            if result is not None and result.status == pq.ExecStatus.PIPELINE_SYNC:
                answer, self._answer = self._answer, None
                return answer
            if result is None and is_end:  # there is one None behind each result
                raise self._answer_error() or psycopg.OperationalError(self.pgconn.get_error_message())
            is_end = result is None
            if result is not None and self._answer_error() is None:  # libpq has one more when the connection ends
                self._answer = result
        return None

    def has_input(self) -> bool:
        """Return whether something has arrived that was not read; from any thread."""
        poller = poll()
        with suppress(ValueError):  # the session is closed
            if self._sock is not None:
                poller.register(self._sock, POLLIN)
                return bool(poller.poll(0))
        return False

    def _answer_error(self) -> psycopg.Error | None:
        """Return the error with which the server has ended the session, if it sent one."""
        if self._answer is None or self._answer.status == pq.ExecStatus.COMMAND_OK:
            return None
        return to_error(self._answer)


def to_error(result: pq.abc.PGresult) -> psycopg.Error:
    """Return the error of a result; it is an OperationalError if it is of libpq, since the connection is lost then."""
    error = psycopg.errors.error_from_result(result)
    return psycopg.OperationalError(str(error)) if error.sqlstate is None else error


def _check(result: pq.abc.PGresult) -> pq.abc.PGresult:
    if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
        raise to_error(result)
    return result


# The functions of PostgreSQL whose warnings are not about the commit. The first two warn in every transaction, for
# weeks, that a database needs a VACUUM, with the SQLSTATE of a cancelled wait for a standby. The last one ends a
# session after the crash of another: what was committed before is on disk. The names are the same in every language.
OTHER_WARNINGS = ("GetNewTransactionId", "GetNewMultiXactId", "quickdie")


def _note_warning(warnings: list[str], notice: psycopg.errors.Diagnostic) -> None:
    """Keep a warning of the server: its SQLSTATE is of class 01, whatever its language."""
    is_warning = (notice.sqlstate or "").startswith("01") or notice.severity_nonlocalized == "WARNING"
    if is_warning and notice.source_function not in OTHER_WARNINGS:
        warnings.append(notice.message_primary or "")


class _JsonLoader(Loader):
    """Loads JSON as its text, without the spaces around its signs: no text that is stored has a space."""

    def load(self, data: Buffer) -> protocol.Encoded:
        return protocol.Encoded(bytes(data).replace(b" ", b""))
