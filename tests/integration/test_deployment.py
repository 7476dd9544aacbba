"""Two processes on one database behind nginx, with exactly deploy/nginx.conf and deploy/balance@.service."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from tests.support.example_clients import FOLLOWERS, ExampleProcess, run_follower, run_program
from tests.support.failures import noted
from tests.support.http_client import request
from tests.support.proxies import DEPLOY, Proxy, nginx_for_processes, program
from tests.support.service import SNAPSHOTS, Database, Process, Processes
from tests.support.socketio_clients import check_saved, run_socketio_client

UPDATE = {"onchain": {"rlb": 1, "usdt": 2}, "onsite": {"rlb": 3, "usd": 4}}
STREAM, FEED = "/api/balance/stream", "/api/balance/feed"
AT_ONCE_S_MAX = 5.0  # much less than the 75 s and the 4 KiB for which a proxy with a buffer would wait

both_kinds = pytest.mark.parametrize("cookie", [False, True], ids=["address", "cookie"])


class Site(NamedTuple):
    """Two processes behind nginx."""

    start: Callable[[int], Process]
    """Start a process on a port, with the command of the unit."""
    proxy: Proxy
    processes: list[Process]
    urls: list[str]
    """Of the processes themselves."""

    async def ask(self, path: str) -> HTTPResponse:
        """Send a request to nginx; return the response, also with an error status."""
        return await AsyncHTTPClient().fetch(
            f"https://localhost:{self.proxy.https}{path}", raise_error=False, ca_certs=str(self.proxy.certificate)
        )

    async def restart(self, number: int) -> None:
        """Stop one of the processes, and start it again on its port."""
        assert await asyncio.to_thread(self.processes[number].terminate) == 0
        self.processes[number] = self.start(port_of(self.urls[number]))
        await asyncio.to_thread(self.processes[number].url)

    async def save(self, number: int) -> None:
        """Save a snapshot in one of the processes."""
        assert (await request(self.urls[number], "POST", SNAPSHOTS, UPDATE)).status == 201

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Stream]:
        """Open a stream of server-sent events through nginx, with curl."""
        address = f"https://localhost:{self.proxy.https}{STREAM}"
        command = (program("curl"), "-sSN", "--cacert", str(self.proxy.certificate), address)
        async with run_program(*command, env={"no_proxy": "*"}) as process:
            yield Stream(ExampleProcess(process))


class Stream(NamedTuple):
    """An open stream of server-sent events."""

    curl: ExampleProcess

    async def event(self, name: str) -> dict[str, Any]:
        """Read up to the next event of this name; return its data."""
        async with asyncio.timeout(AT_ONCE_S_MAX):
            await self.curl.line(f"event: {name}")
            return dict(json.loads((await self.curl.line("data: ")).removeprefix("data: ")))


@asynccontextmanager
async def site(processes: Processes, database: Database, folder: Path, *, cookie: bool = False) -> AsyncIterator[Site]:
    """Start two processes with the command of the unit, and nginx with its file."""
    found = re.search(r"^ExecStart=\S+ (.*)$", (DEPLOY / "balance@.service").read_text(), re.MULTILINE)
    assert found
    flags = found[1]
    settings = {
        "BALANCE_PUBLIC_URL": "https://balance.example.com",
        "BALANCE_TRUSTED_PROXIES": "127.0.0.1",
        "BALANCE_ALLOW_ANONYMOUS": "yes",
        "BALANCE_LOG_LEVEL": "info",  # it is shown when a test fails
    }

    def start(port: int) -> Process:
        return processes(*shlex.split(flags.replace("%i", str(port))), DATABASE_URL=database.url, **settings)

    both = [start(0) for _ in range(2)]
    urls = [await asyncio.to_thread(process.url) for process in both]
    with noted("the processes", lambda: [line for one in both for line in (one.url(), *one.stderr)]):
        async with nginx_for_processes(folder, [port_of(url) for url in urls], cookie=cookie) as proxy:
            yield Site(start, proxy, both, urls)


def port_of(url: str) -> int:
    return int(urlsplit(url).port or 0)


@both_kinds
@pytest.mark.gen_test(timeout=90)
async def test_socketio_clients_of_each_transport_work_behind_nginx(
    processes: Processes, database: Database, tmp_path: Path, cookie: bool
) -> None:
    async with site(processes, database, tmp_path, cookie=cookie) as two:
        address = f"https://localhost:{two.proxy.https}"
        polling = ["polling"] * (4 if cookie else 1)  # with a cookie each session may go to another process
        for transports in (*polling, "websocket", "polling,websocket"):
            lines = await run_socketio_client(address, transports, str(two.proxy.certificate))
            check_saved(lines, transports.rpartition(",")[2])


async def test_streams_pass_nginx_at_once_from_both_processes(
    processes: Processes, database: Database, tmp_path: Path
) -> None:
    async with site(processes, database, tmp_path) as two, two.stream() as one, two.stream() as other:
        for stream in (one, other):  # nginx gives them to the two processes in turns
            assert (await stream.event("connected"))["seq"] == 0
        for seq, number in enumerate((0, 1, 0), 1):
            await two.save(number)
            for stream in (one, other):
                assert (await stream.event("balance:snapshot"))["seq"] == seq


async def test_a_long_poll_is_answered_by_a_save_in_the_other_process(
    processes: Processes, database: Database, tmp_path: Path
) -> None:
    async with site(processes, database, tmp_path) as two:
        for number in (0, 1):
            polls = [asyncio.ensure_future(two.ask(f"{FEED}?after=now&wait=55")) for _ in range(2)]
            await asyncio.sleep(0.3)  # so that both wait
            await two.save(number)
            async with asyncio.timeout(AT_ONCE_S_MAX):
                replies = [json.loads((await poll).body) for poll in polls]
            assert [[one["seq"] for one in reply["data"]] for reply in replies] == [[number + 1]] * 2


@pytest.mark.gen_test(timeout=90)
async def test_clients_miss_nothing_while_one_process_after_the_other_is_restarted(
    processes: Processes, database: Database, tmp_path: Path
) -> None:
    async with site(processes, database, tmp_path) as two, AsyncExitStack() as stack:
        url, certificate = f"https://localhost:{two.proxy.https}", two.proxy.certificate
        clients = [
            await stack.enter_async_context(run_follower(name, url, tmp_path, certificate)) for name in FOLLOWERS
        ]
        connected = [asyncio.ensure_future(client.line("{")) for client in clients]
        while not all(one.done() for one in connected):  # it is connected once it prints one
            await two.save(0)
            await asyncio.wait(connected, timeout=0.1)
        for number in (0, 1):
            restarted = asyncio.ensure_future(two.restart(number))
            while not restarted.done():
                await two.save(1 - number)
                await asyncio.wait([restarted], timeout=0.02)
            await restarted
        head = database.count()
        for client in clients:
            await client.shows(head)
            assert client.seqs == list(range(client.seqs[0], head + 1))


async def test_one_process_is_enough_and_without_any_a_stream_still_gets_200(
    processes: Processes, database: Database, tmp_path: Path
) -> None:
    async with site(processes, database, tmp_path) as two:
        two.processes[0].kill()
        assert {(await two.ask(f"{SNAPSHOTS}?limit=1")).code for _ in range(4)} == {200}
        async with two.stream() as stream:
            assert (await stream.event("connected"))["recovered"] is False
        two.processes[1].kill()
        assert (await two.ask(f"{SNAPSHOTS}?limit=1")).code == 502
        refused = await two.ask(STREAM)
        assert refused.code == 200
        assert refused.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert refused.body == b'retry: 2000\nevent: bye\ndata: {"reason":"unavailable"}\n\n'
