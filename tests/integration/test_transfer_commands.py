"""`server.py export` and `server.py import` do what the routes do, straight on the database."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from tests.support.history import append_history
from tests.support.payloads import LINE
from tests.support.postgres import temporary_database
from tests.support.repository import ROOT
from tests.support.service import Database, Service
from tests.support.transfer import export, line, lines


@pytest.fixture
def other(postgres: str, template: str) -> Iterator[Database]:
    """Return a second empty database."""
    with temporary_database(postgres, template) as one:
        yield one


def run(database: Database, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, str(ROOT / "server.py"), *arguments],
        env={**os.environ, "DATABASE_URL": database.url},
        input=stdin,
        capture_output=True,
        timeout=120,
        check=False,
    )


async def test_the_commands_write_and_read_what_the_routes_do(
    service: Service, database: Database, other: Database, tmp_path: Path
) -> None:
    append_history(database, 1_200)
    assert run(database, "import", stdin=b"\n".join(lines(30))).stdout == (
        b"30 lines: 30 saved, 0 saved before, 0 refused\n"
    )
    exported = await export(service)
    assert exported.count(b"\n") == 1_230
    file = tmp_path / "all.ndjson"
    done = run(database, "export", str(file))
    assert (done.stdout, done.stderr) == (f"{file}: 1230 snapshots up to seq 1230\n".encode(), b"")
    assert file.read_bytes() == exported
    assert file.stat().st_mode & 0o777 == 0o600
    done = run(other, "import", str(file))
    assert (done.returncode, done.stdout) == (0, b"1230 lines: 1230 saved, 0 saved before, 0 refused\n")
    assert run(other, "export", "-").stdout == exported
    query = "?format=csv&digits=text&asset=onchain.x"
    assert run(other, "export", "--format", "csv", "--digits", "text", "--asset", "onchain.x").stdout == (
        await export(service, query)
    )


def test_an_import_with_refused_lines_exits_with_one_and_names_them(database: Database) -> None:
    body = b"\n".join([LINE, line(pid=-1), b"x" * 40_000, LINE.replace(b'"rlb":1', b'"rlb":9'), LINE, LINE[:30]])
    done = run(database, "import", stdin=body)
    assert done.returncode == 1
    assert done.stdout == b"6 lines: 1 saved, 1 saved before, 4 refused\n"
    assert done.stderr.decode().splitlines() == [
        "line 2: invalid_payload: pid: must be at least 0",
        "line 3: payload_too_large: payload: is larger than 24576 bytes",
        "line 4: conflict: id: another snapshot has this id",
        "line 6: malformed_json: payload: is not valid JSON",
    ]
    assert database.count() == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("export", "--to", "soon"), "--to: must be an RFC 3339 date and time with a time zone"),
        (("export", "--digits", "text"), "--digits: is for format=csv only"),
        (("export", "/nowhere/file"), "/nowhere/file: cannot be written: No such file or directory"),
        (("import", "/nowhere/file"), "/nowhere/file: cannot be read: No such file or directory"),
        (("export", "--format", "xls"), "argument --format: invalid choice: 'xls'"),
    ],
)
def test_a_bad_argument_is_one_line_and_status_one(database: Database, arguments: tuple[str, ...], error: str) -> None:
    done = run(database, *arguments)
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.decode().startswith(f"server.py: {error}")
    assert done.stderr.count(b"\n") == 1


def test_a_database_that_is_away_is_one_line_and_status_one(database: Database) -> None:
    away = Database(make_conninfo(database.url, dbname="away"))
    for command in ("export", "import"):
        done = run(away, command, stdin=LINE)
        assert (done.returncode, done.stderr.count(b"\n")) == (1, 1), done.stderr
