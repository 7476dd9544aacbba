"""The files of deploy/: proxies with TLS and a prefix in front of two processes, units of systemd, grants."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from tests.support.example_clients import ExampleProcess, run_program
from tests.support.node import node_modules
from tests.support.postgres import temporary_database
from tests.support.proxies import (
    DEPLOY,
    Proxy,
    caddy_for_processes,
    haproxy_for_processes,
    nginx_for_processes,
    program,
    replace_all,
)
from tests.support.repository import ROOT
from tests.support.service import SNAPSHOTS, Database, Process, Processes, check_start_refused
from tests.support.socketio_clients import TRANSPORTS, talk_javascript

UPDATE = b'{"onchain":{"rlb":1,"usdt":2},"onsite":{"rlb":3,"usd":4}}'
STREAM, FEED = "/api/balance/stream", "/api/balance/feed"
PREFIX = "/desk/balance"
AT_ONCE_S_MAX = 5.0
EXPOSURE_MAX = 1.5  # of 10; systemd calls up to 2 "OK"

Run = Callable[..., AbstractAsyncContextManager[Proxy]]
each_proxy = pytest.mark.parametrize(
    "run", [nginx_for_processes, caddy_for_processes, haproxy_for_processes], ids=["nginx", "Caddy", "HAProxy"]
)


class Site(NamedTuple):
    """Two processes behind a proxy."""

    proxy: Proxy
    processes: Sequence[Process]

    async def ask(self, path: str, method: str = "GET") -> HTTPResponse:
        """Send a request by the public address; return the response, also with an error status."""
        return await AsyncHTTPClient().fetch(
            f"https://localhost:{self.proxy.https}{path}",
            method=method,
            body=UPDATE if method == "POST" else None,
            headers={"Content-Type": "application/json", "Origin": f"https://localhost:{self.proxy.https}"},
            raise_error=False,
            follow_redirects=False,
            ca_certs=str(self.proxy.certificate),
        )

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[ExampleProcess]:
        """Open a stream of server-sent events with curl."""
        address = f"https://localhost:{self.proxy.https}{PREFIX}{STREAM}"
        command = (program("curl"), "-sSN", "--cacert", str(self.proxy.certificate), address)
        async with run_program(*command, env={"no_proxy": "*"}) as process:
            yield ExampleProcess(process)


@asynccontextmanager
async def site(run: Run, processes: Processes, database: Database, folder: Path) -> AsyncIterator[Site]:
    flags = ("--port", "0", "--public-url", f"https://localhost{PREFIX}", "--allow-anonymous")
    flags += ("--trusted-proxies", "127.0.0.1", "--cors-origins", "https://localhost:*")
    both = [processes(*flags, DATABASE_URL=database.url) for _ in range(2)]
    urls = [await asyncio.to_thread(one.url) for one in both]
    async with run(folder, [int(urlsplit(url).port or 0) for url in urls], prefix=PREFIX) as proxy:
        yield Site(proxy, both)


@each_proxy
@pytest.mark.gen_test(timeout=120)
async def test_every_client_works_behind_a_proxy_with_a_prefix(
    processes: Processes, database: Database, tmp_path: Path, run: Run
) -> None:
    await asyncio.to_thread(node_modules)
    async with site(run, processes, database, tmp_path) as two:
        saved = await two.ask(PREFIX + SNAPSHOTS, "POST")
        assert saved.code == 201, saved.body
        assert saved.headers["Location"].startswith(f"{PREFIX}{SNAPSHOTS}/")
        assert (await two.ask(saved.headers["Location"])).code == 200
        assert (await two.ask(f"{PREFIX}/api/docs/events")).code == 200
        for path in (SNAPSHOTS, f"{PREFIX}/metrics", f"{PREFIX}/readyz", "/metrics"):
            assert (await two.ask(path)).code == 404, "only what clients need is public"
        for transports in TRANSPORTS:
            url, path = f"https://localhost:{two.proxy.https}", f"{PREFIX}/api/socket.io"
            received = await talk_javascript(url, transports, two.proxy.certificate, path)
            assert received == ["connect", "connected", "pong"], transports


@each_proxy
@pytest.mark.gen_test(timeout=120)
async def test_events_and_long_polls_pass_a_proxy_at_once_and_survive_a_process(
    processes: Processes, database: Database, tmp_path: Path, run: Run
) -> None:
    async with site(run, processes, database, tmp_path) as two:
        async with two.stream() as stream:
            await stream.line("event: connected")
            polled = asyncio.ensure_future(two.ask(f"{PREFIX}{FEED}?after=now&wait=55"))
            await asyncio.sleep(0.3)  # so that it waits
            async with asyncio.timeout(AT_ONCE_S_MAX):
                assert (await two.ask(PREFIX + SNAPSHOTS, "POST")).code == 201
                await stream.line("event: balance:snapshot")
                assert [one["seq"] for one in json.loads((await polled).body)["data"]] == [1]
        await asyncio.to_thread(two.processes[0].kill)
        await served_again(two)
        async with two.stream() as stream:
            await stream.line("event: connected")
        await asyncio.to_thread(two.processes[1].kill)
        async with asyncio.timeout(30):  # until the proxy has noticed
            while (refused := await two.ask(PREFIX + STREAM)).code != 200 or not refused.body.startswith(b"retry: "):
                await asyncio.sleep(0.2)
        assert refused.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert refused.body == b'retry: 2000\nevent: bye\ndata: {"reason":"unavailable"}\n\n'
        assert (await two.ask(f"{PREFIX}{SNAPSHOTS}?limit=1")).code in (502, 503)


async def served_again(two: Site) -> None:
    """Wait until the proxy uses the other process only."""
    async with asyncio.timeout(30):
        while {(await two.ask(f"{PREFIX}{SNAPSHOTS}?limit=1")).code for _ in range(6)} != {200}:
            await asyncio.sleep(0.2)


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """Copy the units, with a program that exists, and with an instance of the one that is a template."""
    found = []
    for name in ("balance.service", "balance@.service"):
        text = replace_all((DEPLOY / name).read_text(), {"/opt/balance/bin/balance-server": "/bin/true"})
        found.append(tmp_path / name.replace("@.", "@3000."))
        found[-1].write_text(text)
    return found


def test_systemd_finds_no_fault_in_the_units(units: list[Path]) -> None:
    command = (program("systemd-analyze"), "verify", "--man=no", *units)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_finds_the_units_safe(units: list[Path]) -> None:
    for unit in units:
        command = (program("systemd-analyze"), "security", "--offline=true", "--no-pager", unit)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if "unrecognized option" in done.stderr:
            pytest.skip("this systemd-analyze cannot read a file")
        found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
        assert found, done.stdout + done.stderr
        assert float(found[1]) <= EXPOSURE_MAX, done.stdout


def test_the_two_units_differ_only_where_they_must() -> None:
    one, many = ((DEPLOY / name).read_text().splitlines() for name in ("balance.service", "balance@.service"))
    names = ("#", "Description=", "ExecStart=", "EnvironmentFile=", "StateDirectory", "TimeoutStartSec=")
    differing = {line for line in set(one) ^ set(many) if not line.startswith(names)}
    assert differing == set()


@contextmanager
def two_roles(database: Database) -> Iterator[tuple[dict[str, str], str]]:
    """Create the roles of roles.sql with names of this database, and drop them.

    Yields the new names by the old ones, and the statements of grants.sql with the new names.
    """
    prefix = database_name(database)
    names = {name: f"{prefix}_{name.removeprefix('balance_')}" for name in ("balance_owner", "balance_role")}
    in_database = {**names, "DATABASE balance ": f"DATABASE {prefix} "}
    created = replace_all((DEPLOY / "roles.sql").read_text(), in_database)
    created = re.sub(r"(?m)^(CREATE DATABASE|\\connect) .*", "", created)  # the test has a database
    grants = re.sub(r"(?m)^--.*", "", (DEPLOY / "grants.sql").read_text())
    with psycopg.connect(database.url, autocommit=True) as admin:
        admin.execute(created.encode())
        admin.execute(f"ALTER DATABASE {prefix} OWNER TO {names['balance_owner']}".encode())
    try:
        yield names, grants.replace("balance_role", names["balance_role"])
    finally:
        with psycopg.connect(database.url, autocommit=True) as admin:
            admin.execute(f"ALTER DATABASE {prefix} OWNER TO CURRENT_USER".encode())
            for role in names.values():
                admin.execute(f"DROP OWNED BY {role} CASCADE".encode())
                admin.execute(f"DROP ROLE {role}".encode())


def test_the_steps_for_a_database_of_ones_own_end_with_a_service_and_a_token(
    processes: Processes, postgres: str
) -> None:
    """The service runs as balance_role, which can neither create nor revoke a token."""
    section = (ROOT / "docs/deployment.md").read_text().partition("## A database of your own: roles\n")[2]
    steps = section.partition("```sh\n")[2].partition("```")[0].splitlines()
    assert steps.pop(0) == "psql -U postgres -f deploy/roles.sql postgres"
    with temporary_database(postgres, "template0") as database, two_roles(database) as (names, grants):
        done = []
        for step in steps:
            if step == "psql -U balance_owner -f deploy/grants.sql balance":
                with psycopg.connect(make_conninfo(database.url, user=names["balance_owner"])) as owner:
                    owner.execute(grants.encode())
                continue
            found = re.fullmatch(r"DATABASE_URL=postgresql://(\w+)@db/balance balance-server (.+)", step)
            assert found, step
            process = processes(*found[2].split(), DATABASE_URL=make_conninfo(database.url, user=names[found[1]]))
            assert (process.wait(), process.complaints) == (0, []), step
            done.append(found[2].partition(" operator")[0])
        assert done == ["migrate", "token create"]
        url = make_conninfo(database.url, user=names["balance_role"])
        for command in (("token", "create", "another"), ("token", "revoke", "operator")):
            check_start_refused(processes(*command, DATABASE_URL=url), "permission denied for table balance_token")
        process = processes("--port=0", "--public-url=https://balance.example.com", DATABASE_URL=url)
        process.url()
        assert process.terminate() == 0
        assert process.complaints == []


def database_name(database: Database) -> str:
    return str(database.rows("SELECT current_database() AS name")[0]["name"])
