"""Start, share and stop the PostgreSQL of one data directory.

Several processes may use one data directory: the first one starts the server, the others join it, and the last one
stops it. `locks` has the files by which they agree, `data_directory` the data, `server_process` the server.

Promised: everything committed survives any kill or loss of power; a server that a killed process left running is found,
used, and stopped at the end. All calls block, within bounds. Not promised: network file systems.

Threads: `restart` and `trim_log` may run in another thread than `stop`, which interrupts them.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from balance.storage.embedded import locks
from balance.storage.embedded.data_directory import DataDirectory, check_has_data, check_restored, one_line_errors
from balance.storage.embedded.files import EmbeddedError
from balance.storage.embedded.programs import wheel_programs
from balance.storage.embedded.server_process import START_S_MAX, STOP_FAST_S_MAX, ServerProcess
from balance.storage.embedded.socket_folder import socket_url

if TYPE_CHECKING:
    from typing import Self

    from balance.storage.embedded.account import Account


def ignore_libpq_variables() -> None:
    """Remove every variable that begins with PG from the environment of this process."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]


class EmbeddedPostgres:
    """A share in the server of one data directory; any number of processes may hold one."""

    url: str  # for psycopg; names the database `balance`

    def __init__(self, data: DataDirectory) -> None:
        """Start nothing; use `start`."""
        self._data = data
        self._server = ServerProcess(data)
        self._share: int | None = None  # the descriptor of the lock
        self._interrupt = threading.Event()

    @classmethod
    def start(
        cls,
        data_dir: Path,
        programs: Path | None = None,
        *,
        create: bool = True,
        restoring: bool = False,
        owner: Account | None = None,
    ) -> Self:
        """Start the server of this directory, or join the running one; return when it accepts queries.

        The directory and the database `balance` are created if they are missing, unless `create` is false: then a
        directory without a database is an error, and nothing is created. `programs` is the folder with initdb, pg_ctl
        and postgres, by default that of the wheel. A database that is created with `restoring` cannot be started
        without it until `end_restore`. `owner` is that of `DataDirectory.open`; with it, `data_dir` is a real path,
        and a link that appears in it is refused. Raises EmbeddedError.

        Removes every variable that begins with PG from the environment of this process: libpq completes any URL with
        them, and some override a part of the URL.
        """
        ignore_libpq_variables()
        programs = programs or wheel_programs()
        # The same name in every process, and without links.
        folder = Path(os.path.realpath(data_dir)) if owner is None else data_dir
        if not create:
            check_has_data(folder)
        with one_line_errors(folder):
            self = cls(DataDirectory.open(folder, programs, owner))
            try:
                self._enter(restoring=restoring)
            except BaseException:  # also Ctrl-C: no server keeps running for which nothing can call `stop`
                with suppress(EmbeddedError):
                    self.stop()
                raise
        return self

    @property
    def location(self) -> str:
        """Where the data are, for a person."""
        return self._data.location

    def stop(self) -> None:
        """Release the share, and stop the server if it was the last one. A second call does nothing.

        Lasts 30 s at most. Raises EmbeddedError if the server does not end; even then no commit is lost.
        """
        self.interrupt()
        if self._share is None:
            return
        share, self._share = self._share, None
        with one_line_errors(self._data.folder):
            try:
                with locks.opened(self._data.descriptor, locks.CONTROL) as control:
                    # A process that holds it for longer is starting the server, and will be the last one to use it.
                    if locks.wait_for_lock(control, STOP_FAST_S_MAX) and locks.try_lock(share):
                        self._server.stop()
            except FileNotFoundError:  # the data directory was removed; the server would notice within a minute
                self._server.quit()
                raise
            finally:
                os.close(share)
                self._data.close()
                self._server.detach()

    @property
    def is_being_restored(self) -> bool:
        """Whether the database was created for a restore that has not ended, perhaps by an interrupted one."""
        return self._data.is_being_restored

    def end_restore(self) -> None:
        """Let a database that was created for a restore be used. Raises EmbeddedError."""
        with one_line_errors(self._data.folder):
            self._data.end_restore()

    def interrupt(self) -> None:
        """Make a `restart` that runs in another thread end soon; after this call only `stop` may be called."""
        self._interrupt.set()

    def restart(self) -> None:
        """Start the server again after its end, or join it if another process has started it; never create data.

        Raises EmbeddedError when it does not start, Interrupted by `interrupt`.
        """
        with (
            one_line_errors(self._data.folder),
            locks.control(self._data.descriptor, START_S_MAX, self._interrupt),
        ):
            self._data.check_not_replaced()
            self._ensure_server()

    def wait_for_end(self) -> None:
        """Return when the server and all its processes have ended; neither bounded nor interruptible."""
        locks.wait_for_end(self._data.descriptor)

    def how_it_ended(self) -> str:
        """Describe how the server ended, as far as this process can know: only if it started the server."""
        return self._server.how_it_ended()

    def trim_log(self) -> None:
        """Keep the server's log within its bound. Raises OSError and EmbeddedError."""
        self._data.log.trim()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _enter(self, *, restoring: bool) -> None:
        try:
            with locks.control(self._data.descriptor, START_S_MAX, self._interrupt):
                self._share = locks.acquire_share(self._data.descriptor)
                if restoring:
                    self._data.begin_restore()
                else:
                    check_restored(self._data.folder)
                self._ensure_server(create=True)
                self.url = socket_url(self._data.pgdata, "balance")
                self._ensure_database()
        finally:
            if self._share is None:
                self._data.close()

    def _ensure_server(self, *, create: bool = False) -> None:
        """Start the server, or join the running one; `create` makes its data if there are none."""
        server, is_ours = ServerProcess(self._data), False
        self._server = server
        with locks.opened(self._data.descriptor, locks.SERVER) as lock:

            def is_known() -> bool:
                nonlocal is_ours
                is_ours = locks.try_lock(lock)
                return is_ours or server.accepts_connections()

            # The lock may be held by a server that runs, starts or ends, or by the initdb of a killed process.
            if not locks.wait_for(is_known, START_S_MAX, self._interrupt):
                raise EmbeddedError(f"its server has not accepted a connection for {START_S_MAX} s")
            if is_ours and create:
                self._data.ensure_pgdata(lock)
            self._data.check_pgdata()
            if is_ours:
                server.remove_stale_files()
                self._data.log.trim()
                server.start(lock, self._interrupt)

    def _ensure_database(self) -> None:
        with psycopg.connect(self.url, dbname="postgres", autocommit=True) as connection:
            if not connection.execute("SELECT FROM pg_database WHERE datname = 'balance'").rowcount:
                connection.execute("CREATE DATABASE balance")
