"""A primary and a standby of PostgreSQL, with streaming replication, that a test may kill, freeze, promote and clone.

The programs are those of the wheel, as for the embedded PostgreSQL. Each `Cluster` listens on a Unix socket in a folder
of its own. `Pair` has two of them and knows which one is the primary. Its URL names both, as
docs/deployment.md describes for a database with a standby. Every function blocks.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from balance.storage.embedded import account
from balance.storage.embedded.programs import Programs, wheel_programs
from balance.storage.migrate import migrate
from tests.support.embedded import PROGRAMS
from tests.support.postgres import execute, query, wait_for_checkpointer
from tests.support.service import Database
from tests.support.waiting import wait_until

XIDS_OF_SEGMENT = 2**20  # of a file of pg_xact, which has two bits for each
PORT = "5432"  # part of the name of a socket
IS_READY = ("ready", "standby")  # the last line of postmaster.pid
SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",  # only processes end here: what the operating system has is kept
    "wal_retrieve_retry_interval": "100ms",  # until a standby connects again; the default is 5 s
    # A commit that waits while a standby catches up is released by the next message of the standby. By default that
    # comes after 10 s if nothing else is written meanwhile.
    "wal_receiver_status_interval": "1s",
    "wal_keep_size": "64MB",  # a standby that was stopped finds what it missed
    "shared_buffers": "16MB",
    "log_min_messages": "warning",
}
CURRENT_TIMELINE = "SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)"
IS_IN_STEP = "SELECT count(*) = 1 AND bool_and(replay_lsn >= pg_current_wal_flush_lsn()) FROM pg_stat_replication"
TERMINATE = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s"
WAITING_FOR_STANDBY = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND wait_event = 'SyncRep'"


class Cluster:
    """One server of PostgreSQL and its data, which are created by `create` or `clone`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pgdata = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        owner = self.owner = account.system_user() if os.geteuid() == 0 else None
        self._programs = Programs(PROGRAMS or wheel_programs(), owner)
        if owner is None:
            folder.mkdir(mode=0o700)
        else:
            account.allow_programs(PROGRAMS or wheel_programs(), owner.uid)
            os.close(account.allow_traversal(folder, owner.uid, create=True))
            os.chown(folder, *owner)

    def url(self, database: str = "postgres") -> str:
        """Return the address of a database of this server alone."""
        return make_conninfo(host=str(self.folder), port=PORT, user="postgres", dbname=database)

    def create(self, wal: Path | None = None) -> None:
        """Make data, with the write-ahead log in the folder `wal` if that is given."""
        elsewhere = () if wal is None else ("--waldir", str(wal))
        options = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--wal-segsize=1")
        self._programs.run("initdb", "--no-sync", *options, *elsewhere, pgdata=self.pgdata)

    def clone(self, other: Cluster) -> None:
        """Replace the data by a copy of those of another server, which runs."""
        shutil.rmtree(self.pgdata, ignore_errors=True)
        source = ("--host", str(other.folder), "--port", PORT, "--username", "postgres")
        options = ("--wal-method=stream", "--checkpoint=fast", "--no-sync", "--no-manifest", "--no-verify-checksums")
        self._programs.run("pg_basebackup", *source, *options, "--pgdata", str(self.pgdata))

    def start(self, primary: Cluster | None = None) -> None:
        """Start it, as a standby of `primary` if that is given; return when it accepts connections."""
        standby_signal = self.pgdata / "standby.signal"
        settings = SETTINGS | {"unix_socket_directories": str(self.folder), "port": PORT}
        if primary is None:
            standby_signal.unlink(missing_ok=True)
        else:
            standby_signal.touch()
            settings["primary_conninfo"] = make_conninfo(primary.url(), application_name=self.folder.name)
        options = [f"--{name}={value}" for name, value in settings.items()]
        with (self.folder / "log").open("ab") as output:
            process = self._programs.start("postgres", options, output.fileno(), pgdata=self.pgdata)
        self._process = process
        wait_until(lambda: process.poll() is not None or self._is_ready(process.pid))
        assert process.returncode is None, (self.folder / "log").read_text()

    def use_transaction_ids_up_to(self, last: int) -> None:
        """Skip transaction ids, while it is stopped."""
        segment = self.pgdata / "pg_xact" / f"{last // XIDS_OF_SEGMENT:04X}"
        segment.write_bytes(bytes(XIDS_OF_SEGMENT // 4))
        owner = self.pgdata.stat()
        os.chown(segment, owner.st_uid, owner.st_gid)
        self._programs.run("pg_resetwal", f"--next-transaction-id={last}", "--pgdata", str(self.pgdata))

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Stop it properly; a primary sends its standby everything before it ends."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)

    def kill(self) -> None:
        """Kill all its processes, as a machine that loses its power does."""
        if self._process is not None and self.is_running:
            self._signal(signal.SIGKILL)
            self._process.wait(30)

    def freeze(self) -> None:
        """Suspend all its processes; their sockets stay open."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let all its processes continue."""
        self._signal(signal.SIGCONT)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Suspend all its processes within the block."""
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    @contextmanager
    def stopped(self, primary: Cluster) -> Iterator[None]:
        """Stop a standby within the block, at whose end it follows the primary again."""
        self.stop()
        try:
            yield
        finally:
            self.start(primary)

    def terminate_sessions(self, database: str) -> None:
        """End every session of a database, and wait until they are gone."""
        query(self.url(), TERMINATE, database)

    def promote(self) -> None:
        """Make the standby a primary, which begins a new timeline."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute("SELECT pg_promote(wait => false)")
            wait_until(lambda: connection.execute("SELECT NOT pg_is_in_recovery()").fetchone() == (True,))

    def let_commits_wait(self, wanted: bool = True) -> None:
        """Let each commit wait for a standby, or not any more."""
        names = "*" if wanted else ""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'".encode())
            connection.execute("SELECT pg_reload_conf()")
            wait_until(lambda: connection.execute("SHOW synchronous_standby_names").fetchone() == (names,))
        wait_for_checkpointer(self.url())

    def timeline(self) -> str:
        """Return the timeline of a primary."""
        return str(query(self.url(), CURRENT_TIMELINE)[0][0])

    def dump(self, database: str) -> Path:
        """Write a dump of a database to a file, and return the file."""
        file = self.folder / f"{database}.dump"
        source = ("--host", str(self.folder), "--port", PORT, "--username", "postgres")
        self._programs.run("pg_dump", *source, "--format=custom", "--file", str(file), database)
        return file

    def restore(self, file: Path, database: str) -> None:
        """Replace a database by that of a dump, and end its sessions."""
        execute(self.url(), f"DROP DATABASE {database} WITH (FORCE)", f"CREATE DATABASE {database} TEMPLATE template0")
        target = ("--host", str(self.folder), "--port", PORT, "--username", "postgres")
        self._programs.run("pg_restore", *target, "--single-transaction", "--dbname", database, str(file))

    def _is_ready(self, pid: int) -> bool:
        try:
            lines = (self.pgdata / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() in IS_READY

    def _signal(self, number: int) -> None:
        """Send a signal to the postmaster and then to its children."""
        assert self._process is not None
        pid = self._process.pid
        if number != signal.SIGCONT:
            os.kill(pid, signal.SIGSTOP)  # so that it starts no others meanwhile
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for one in (*map(int, children), pid):
            os.kill(one, number)


class Pair:
    """A primary and its standby, which exchange their roles."""

    def __init__(self, folder: Path) -> None:
        self.primary, self.standby = Cluster(folder / "one"), Cluster(folder / "two")
        self._databases = 0
        self.primary.create()
        self.primary.start()
        self.attach_standby()

    def stop(self) -> None:
        """Kill both."""
        for one in (self.standby, self.primary):
            one.kill()

    def database(self, name: str) -> Database:
        """Return a database with the addresses of both, the present primary first; the one that can write is used."""
        hosts = f"{self.primary.folder},{self.standby.folder}"
        target = {"target_session_attrs": "read-write", "connect_timeout": "2"}
        return Database(make_conninfo(host=hosts, port=PORT, user="postgres", dbname=name, **target))

    @contextmanager
    def migrated(self) -> Iterator[str]:
        """Make a database with all tables, and drop it at the end of the block; give its name."""
        self._databases += 1
        name = f"balance_{self._databases}"
        execute(self.primary.url(), f"CREATE DATABASE {name} TEMPLATE template0")
        migrate(self.primary.url(name))
        try:
            yield name
        finally:
            self.repair()
            execute(self.primary.url(), f"DROP DATABASE {name} WITH (FORCE)")

    def let_commits_wait(self, wanted: bool = True) -> None:
        """Let each commit wait for the standby, or not any more; on both servers, as far as they run."""
        for one in (self.primary, self.standby):
            if one.is_running:
                one.let_commits_wait(wanted)

    def waiting_for_standby(self, database: str) -> list[int]:
        """Return the process ids of the sessions whose commit waits for the standby."""
        return [pid for (pid,) in query(self.primary.url(), WAITING_FOR_STANDBY, database)]

    def wait_in_step(self) -> None:
        """Wait until the standby has everything."""
        with psycopg.connect(self.primary.url(), autocommit=True) as connection:
            wait_until(lambda: connection.execute(IS_IN_STEP).fetchone() == (True,))

    def fail_over(self, *, freeze: bool = False) -> None:
        """Kill (or suspend) the primary and promote the standby, which may be stopped; they exchange their roles."""
        if freeze:
            self.primary.freeze()
        else:
            self.primary.kill()
        if not self.standby.is_running:
            self.standby.start(self.primary)
        self.standby.promote()
        self.primary, self.standby = self.standby, self.primary

    def attach_standby(self) -> None:
        """Replace the standby by a new copy of the primary, and let it follow."""
        self.standby.kill()
        self.standby.clone(self.primary)
        self.standby.start(self.primary)

    def repair(self) -> None:
        """Let both run, in step and with commits that do not wait, whatever a test did to them."""
        for one in (self.primary, self.standby):
            if one.is_running:
                one.thaw()
        if not self.primary.is_running:
            self.primary.start()
        self.let_commits_wait(False)
        self.attach_standby()
