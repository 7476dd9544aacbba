"""What an idle watcher costs, and that its end costs the others nothing."""

from __future__ import annotations

from collections.abc import Callable

from bench.clients import WebSocket
from tests.support.raw_clients import SocketClient
from tests.support.service import Database, Process, Service, memory_kb
from tests.support.waiting import until

KIB_MAX = 23  # `python -m bench` measures it with ten thousand


def test_an_idle_watcher_costs_no_more_than_it_may(processes: Callable[..., Process], database: Database) -> None:
    server = processes("--port=0", DATABASE_URL=database.url, script="server.py")
    port = int(server.url().rpartition(":")[2])

    def connect(count: int) -> list[WebSocket]:
        return [WebSocket(port) for _ in range(count)]

    watchers = connect(100)  # what is made once, for the first of them
    before = memory_kb(server.pid, "VmRSS")
    watchers += connect(400)
    used = (memory_kb(server.pid, "VmRSS") - before) / 400
    for watcher in watchers:
        watcher.socket.close()
    assert server.terminate() == 0
    assert used < KIB_MAX


async def test_a_client_that_leaves_is_searched_for_in_one_room(service: Service) -> None:
    watchers = [await SocketClient.connect(service.url) for _ in range(3)]
    rooms = service.app.server.manager.rooms["/"]
    assert list(rooms) == [None]
    assert len(rooms[None]) == 3
    await watchers[0].close()
    await until(lambda: len(rooms[None]) == 2)
    for watcher in watchers[1:]:
        await watcher.close()
