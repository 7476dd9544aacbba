"""The service behind nginx and HAProxy, with and without TLS, and with or without the Host of the client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from tests.support.node import node_modules
from tests.support.proxies import Proxy, haproxy, nginx
from tests.support.raw_clients import PollingClient, SocketClient
from tests.support.service import SNAPSHOTS, MakeService
from tests.support.socketio_clients import TRANSPORTS, check_saved, run_socketio_client, talk_javascript

UPDATE = b'{"onchain":{"rlb":1,"usdt":2},"onsite":{"rlb":3,"usd":4}}'
NAME = "snapshots.example"
BARE = "location / { proxy_pass http://127.0.0.1:3000; }"

Run = Callable[[Path, int], AbstractAsyncContextManager[Proxy]]


@pytest.fixture(scope="session")
def packages() -> Path:
    """Install the JavaScript packages before the time of a test starts."""
    return node_modules()


async def ask(proxy: Proxy, method: str = "GET", path: str = SNAPSHOTS, **headers: str) -> HTTPResponse:
    """Send a request by TLS; return the response, also with an error status."""
    body = UPDATE if method == "POST" else None
    headers = {name.replace("_", "-"): value for name, value in headers.items()} | {"Content-Type": "application/json"}
    return await AsyncHTTPClient().fetch(
        f"https://localhost:{proxy.https}{path}",
        method=method,
        body=body,
        headers=headers,
        raise_error=False,
        ca_certs=str(proxy.certificate),
    )


def check_refused(answer: HTTPResponse, code: str, setting: str) -> None:
    error = json.loads(answer.body)
    assert error["code"] == code
    assert setting in error["error"]


@pytest.mark.parametrize("run", [nginx, haproxy])
@pytest.mark.gen_test(timeout=90)
async def test_every_client_works_through_a_proxy_with_tls(
    make_service: MakeService, packages: Path, tmp_path: Path, run: Run
) -> None:
    service = await make_service(allow_anonymous=True, hosts=(NAME,), trusted_proxies=("127.0.0.1",))
    async with run(tmp_path, service.port) as proxy:
        assert (await ask(proxy, "POST")).code == 201
        for transports in TRANSPORTS:
            received = await talk_javascript(f"https://localhost:{proxy.https}", transports, proxy.certificate)
            assert received == ["connect", "connected", "pong"]
        certificate = str(proxy.certificate)
        check_saved(
            await run_socketio_client(f"https://balance.internal:{proxy.https}", "polling", certificate), "polling"
        )
        check_saved(
            await run_socketio_client(f"https://balance.internal:{proxy.https}", "websocket", certificate), "websocket"
        )
        check_saved(await run_socketio_client(f"http://balance:{proxy.http}", "polling,websocket"), "websocket")
        assert (await ask(proxy, path=f"{SNAPSHOTS}?limit=1", Host=NAME)).code == 200


@pytest.mark.parametrize("run", [nginx, haproxy])
async def test_a_proxy_that_passes_the_host_on_admits_no_stranger(
    make_service: MakeService, tmp_path: Path, run: Run
) -> None:
    service = await make_service(allow_anonymous=True, hosts=(NAME,), cors_origins=(f"https://{NAME}",))
    async with run(tmp_path, service.port) as proxy:
        check_refused(await ask(proxy, Host="evil.example"), "misdirected_request", "--hosts")
        check_refused(
            await ask(proxy, Host="evil.example", Origin="https://evil.example"), "misdirected_request", "--hosts"
        )
        check_refused(await ask(proxy, Host=NAME, Origin="https://evil.example"), "forbidden", "--cors-origins")
        check_refused(await ask(proxy, "POST", Host=NAME, Origin="http://localhost:9"), "forbidden", "--cors-origins")
        assert (await ask(proxy, "POST", Host=NAME, Origin=f"https://{NAME}")).code == 201
        assert (await ask(proxy, "POST", Host="balance.internal", Origin="https://balance.internal")).code == 201


async def test_a_proxy_that_sets_its_own_host_needs_no_name_in_hosts(make_service: MakeService, tmp_path: Path) -> None:
    service = await make_service()
    async with nginx(tmp_path, service.port, location=BARE) as proxy:
        assert (await ask(proxy, Host=NAME)).code == 200
        assert (await ask(proxy, "POST", Host=NAME)).code == 201
        check_refused(await ask(proxy, Host=NAME, Origin=f"https://{NAME}"), "forbidden", "--cors-origins")


@pytest.mark.slow
async def test_a_proxy_with_a_short_timeout_keeps_quiet_clients(make_service: MakeService, tmp_path: Path) -> None:
    service = await make_service(ping_interval_s=1, ping_timeout_s=2)
    location = f"location / {{ {BARE[12:-2]} proxy_http_version 1.1; proxy_read_timeout 2s; proxy_set_header Upgrade "
    location += "$http_upgrade; proxy_set_header Connection $connection_upgrade; }"
    async with nginx(tmp_path, service.port, location=location) as proxy:
        clients = [await kind.connect(f"http://127.0.0.1:{proxy.http}") for kind in (SocketClient, PollingClient)]
        await asyncio.sleep(5)
        for client in clients:
            await client.call("ping")
            await client.close()
