"""`server.py check`: a line for each thing that the service needs, and status 1 if one of them is missing."""

from __future__ import annotations

import socket
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from balance.commands import check
from balance.commands.check import check_access, check_database, check_disk, check_open_files, check_settings
from balance.config import Config
from balance.process.stop_signals import StopSignals
from balance.storage.token_store import create_token
from tests.support.proxies import make_certificate
from tests.support.service import Database, Process, Processes

PASSWORD = "hunter2marked"


def found(process: Process, status: int) -> dict[str, str]:
    """Wait for the end of a check; return the last finding of each subject, as `<level> <text>`."""
    assert process.wait() == status, (process.stdout, process.stderr)
    assert process.stderr == []
    assert process.stdout[-1].split() == [f"{process.stdout[-1].split()[0]}", *process.stdout[-1].split()[1:]]
    return {line[6:16].strip(): f"{line[:5].strip()} {line[18:]}" for line in process.stdout[:-1]}


def test_a_database_that_has_everything_is_ok(processes: Processes, database: Database) -> None:
    lines = found(processes("check", "--port=0", "--watchers-max=100", DATABASE_URL=database.url), 0)
    assert lines["database"].startswith("ok PostgreSQL ")
    assert lines["sessions"].startswith("ok ")
    assert lines["durability"] == "ok local: a save is on the disk of one machine, and waits for no standby"
    assert lines["grants"] == "ok the role has all that the service needs"
    assert lines["migrations"] == "ok the schema is that of this version"
    assert lines["clock"].startswith("ok ")
    assert lines["open files"].startswith("ok ")
    assert lines["port"] == "ok any free one"


def test_a_superuser_is_a_warning_and_missing_grants_and_migrations_are_failures(
    processes: Processes, database: Database
) -> None:
    with psycopg.connect(database.url, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS least")
        admin.execute("CREATE ROLE least LOGIN")
        admin.execute("DELETE FROM schema_migration WHERE version > 1")
        admin.execute("GRANT SELECT ON schema_migration TO least")
    try:
        assert found(processes("check", "--port=0", DATABASE_URL=database.url), 1)["role"].startswith("warn ")
        url = make_conninfo(database.url, user="least")
        lines = found(processes("check", "--port=0", DATABASE_URL=url), 1)
        assert lines["role"] == "ok least"
        assert lines["grants"].startswith("fail DATABASE_URL: role least lacks ")
        assert "run `python server.py migrate`" in lines["migrations"]
    finally:
        with psycopg.connect(database.url, autocommit=True) as admin:
            admin.execute("REVOKE ALL ON schema_migration FROM least")
            admin.execute("DROP ROLE least")


def test_a_database_that_is_away_is_one_failure_without_its_password(processes: Processes) -> None:
    url = f"postgresql://bot:{PASSWORD}@127.0.0.1:1/balance"
    process = processes("check", "--port=0", f"--database-url={url}")
    lines = found(process, 1)
    assert lines["database"].startswith("fail cannot be reached: ")
    assert any(line.startswith("warn  setting     database_url: its password is in") for line in process.stdout)
    assert PASSWORD not in "".join(process.stdout)


def test_the_embedded_database_is_checked_and_none_is_made(
    processes: Processes, pristine: Path, tmp_path: Path
) -> None:
    lines = found(processes("check", "--port=0", f"--data-dir={tmp_path / 'none'}"), 0)
    assert lines["database"] == f"ok none in {tmp_path / 'none'} yet: the first start makes it"
    assert lines["disk"].endswith(f"are free in {tmp_path}")
    assert not (tmp_path / "none").exists()


def test_a_port_is_free_or_used_by_this_service_or_by_another(processes: Processes, database: Database) -> None:
    server = processes("--port=0", DATABASE_URL=database.url)
    port = server.url().rpartition(":")[2]
    ours = processes("check", f"--port={port}", DATABASE_URL=database.url)
    assert "which is running" in found(ours, 0)["port"]
    assert server.terminate() == 0
    with socket.create_server(("127.0.0.1", 0)) as other:
        theirs = processes("check", f"--port={other.getsockname()[1]}", DATABASE_URL=database.url)
        assert found(theirs, 1)["port"].startswith("fail cannot listen on 127.0.0.1:")


@pytest.mark.parametrize("host", ["a]b", " ", "a b"])
def test_a_host_that_cannot_be_one_is_one_failure(processes: Processes, database: Database, host: str) -> None:
    lines = found(processes("check", f"--host={host}", DATABASE_URL=database.url), 1)
    assert lines["port"].startswith(f"fail cannot listen on {host}:3000: ")


def test_a_service_with_tls_is_recognised_at_its_port(processes: Processes, database: Database, tmp_path: Path) -> None:
    file = make_certificate(tmp_path)
    tls = (f"--tls-cert={file}", f"--tls-key={file}")
    port = processes("--port=0", *tls, DATABASE_URL=database.url).url().rpartition(":")[2]
    lines = found(processes("check", f"--port={port}", *tls, DATABASE_URL=database.url), 0)
    assert lines["port"] == f"ok 127.0.0.1:{port} is used by this service, which is running"
    assert lines["tls"] == f"ok {file} and its key can be used"
    without = found(processes("check", f"--port={port}", DATABASE_URL=database.url), 1)
    assert without["port"].startswith("fail cannot listen on ")


def refused_settings(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return settings with which the service does not start, by the subject of the finding and a name."""
    (other := folder / "other").mkdir()
    cert, key = make_certificate(folder), make_certificate(other)
    jwt = ("--jwt-issuer=a", "--jwt-audience=b")
    (folder / "empty.json").write_text("{}")
    return {
        "tls: another key": (f"--tls-cert={cert}", f"--tls-key={key}"),
        "tls: no file": (f"--tls-cert={cert}", f"--tls-key={folder}/none"),
        "access: no JWKS": (f"--jwks={folder}/none", *jwt),
        "access: an empty JWKS": (f"--jwks={folder}/empty.json", *jwt),
        "access: no token": ("--host=0.0.0.0",),
    }


def test_settings_that_serve_refuses_are_failures_with_its_text(
    processes: Processes, database: Database, tmp_path: Path
) -> None:
    for name, settings in refused_settings(tmp_path).items():
        serve = processes("--port=0", *settings, DATABASE_URL=database.url)
        check = processes("check", "--port=0", *settings, DATABASE_URL=database.url)
        assert serve.wait() == 1
        (line,) = serve.complaints
        assert found(check, 1)[name.partition(":")[0]] == f"fail {line.removeprefix('server.py: ')}", name
    create_token(database.url, "one", "writer", b"1" * 32, None)
    lines = found(processes("check", "--port=0", "--host=0.0.0.0", DATABASE_URL=database.url), 0)
    assert lines["access"] == "ok callers need a token"


def test_access_is_checked_without_a_database_too(tmp_path: Path) -> None:
    open_host = Config(host="0.0.0.0", data_dir=tmp_path / "none")
    subjects = {one.subject: one for one in check_database(open_host, StopSignals())}
    assert subjects["access"].level == "fail"
    assert check_access(open_host, None).level == "warn"
    assert check_access(Config(), []) == ("ok", "access", "everyone may do everything")
    away = Config(jwks=str(tmp_path / "none"), jwt_issuer="a", jwt_audience="b")
    assert check_access(away, None) == ("fail", "access", "--jwks: No such file or directory")


def test_settings_are_shown_with_their_sources_and_without_secrets(tmp_path: Path) -> None:
    file = tmp_path / "balance.toml"
    file.write_text(f'database_url = "postgresql://bot:{PASSWORD}@db/balance"\nhosts = ["a.example"]\n')
    file.chmod(0o644)
    config = Config.read(["--config", str(file), "--port", "1"], {"BALANCE_POOL_MAX": "9"})
    texts = [f"{one.level} {one.text}" for one in check_settings(config)]
    assert f"ok hosts = a.example (file {file})" in texts
    assert "ok port = 1 (flag --port)" in texts
    assert "ok pool_max = 9 (variable BALANCE_POOL_MAX)" in texts
    assert f"ok database_url = … (file {file})" in texts
    assert f"warn file {file} has the URL of the database, and any user may read it: chmod o-r" in texts
    assert PASSWORD not in "".join(texts)


def test_a_nearly_full_disk_and_few_open_files_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for free, level in ((2**31, "ok"), (2**29, "warn"), (2**25, "fail")):
        monkeypatch.setattr(check.shutil, "disk_usage", lambda _folder, free=free: Usage(free))
        assert check_disk(tmp_path).level == level
    assert check_open_files(Config(watchers_max=1_000_000)).level in ("ok", "warn")


class Usage:
    """What `shutil.disk_usage` returns."""

    def __init__(self, free: int) -> None:
        self.total, self.free = 2**40, free
