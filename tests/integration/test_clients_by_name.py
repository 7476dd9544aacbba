"""Clients that call the service by the name that it has in their network, and send the header Origin by themselves."""

from __future__ import annotations

import asyncio
import subprocess
import venv
from pathlib import Path

import pytest
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from tests.support.refusals import check_error, refusal_of_websocket
from tests.support.service import Database, MakeService, Service
from tests.support.socketio_clients import check_saved, run_socketio_client

WEBSOCKET = "/api/socket.io/?EIO=4&transport=websocket"
# python-socketio and the python-engineio of its day
VERSIONS = [("5.0.4", "4.0.1"), ("5.8.0", "4.4.1"), ("5.11.4", "4.9.1")]


async def test_python_socketio_connects_by_the_name_of_a_service(service: Service, database: Database) -> None:
    for number, transports in enumerate(("websocket", "polling", "polling,websocket"), 1):
        check_saved(
            await run_socketio_client(f"http://balance:{service.port}", transports), transports.rpartition(",")[2]
        )
        assert database.count() == number


async def test_python_socketio_is_refused_by_a_name_that_is_not_in_hosts(make_service: MakeService) -> None:
    strict = await make_service()
    named = await make_service(allow_anonymous=True, hosts=("balance.example",))
    for transports in ("websocket", "polling"):
        ((word, _),) = await run_socketio_client(f"http://balance.example:{strict.port}", transports)
        assert word == "refused"
    check_saved(await run_socketio_client(f"http://balance.example:{named.port}", "polling"), "polling")


@pytest.mark.slow
@pytest.mark.gen_test(timeout=300)
@pytest.mark.parametrize(("version", "engine"), VERSIONS, ids=[version for version, _ in VERSIONS])
async def test_older_python_socketio_connects_by_the_name_of_a_service(
    service: Service, tmp_path: Path, version: str, engine: str
) -> None:
    await asyncio.to_thread(venv.create, tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    packages = (f"python-socketio[client]=={version}", f"python-engineio=={engine}")
    install = await asyncio.create_subprocess_exec(
        python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages, stderr=subprocess.PIPE
    )
    _, err = await install.communicate()
    assert install.returncode == 0, err.decode()
    for transports in ("websocket", "polling"):
        check_saved(await run_socketio_client(f"http://balance:{service.port}", transports, python=python), transports)


async def test_an_app_that_sends_the_address_it_calls_as_its_origin_connects(service: Service) -> None:
    """As React Native does, and Swift's Starscream."""
    for host in ("balance", "balance.local", "192.168.1.5", "[fd00::5]"):
        headers = {"Host": f"{host}:{service.port}", "Origin": f"http://{host}:{service.port}"}
        connection = await websocket_connect(HTTPRequest(f"ws://127.0.0.1:{service.port}{WEBSOCKET}", headers=headers))
        assert str(await connection.read_message()).startswith("0{")
        connection.close()
        for foreign in (f"http://{host}:{service.port + 1}", f"http://x{service.port}.example", "null"):
            status, body = await refusal_of_websocket(service.url, headers={**headers, "Origin": foreign})
            assert status == 403
            check_error(body, "forbidden")
            assert b"--cors-origins" in body
