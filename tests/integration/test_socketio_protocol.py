"""Socket.IO 5, exchange by exchange, as its protocol's own test suite (socketio/socket.io-protocol) goes through it.

Rewritten for the one namespace and the events that there are here. docs/clients.md lists where the service deviates,
each with its reason.
"""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from engineio.packet import PING, Packet

from protocol import dumps, loads
from tests.support.payloads import UPDATE
from tests.support.raw_clients import WAIT_S, PollingClient, SocketClient
from tests.support.raw_websocket import RawSocket, text_frame
from tests.support.refusals import check_error
from tests.support.service import Database, MakeService, Service
from tests.support.waiting import until
from tests.support.watching import check_live, seqs


async def ask(service: Service, connect: str) -> str:
    """Send one packet on a new session and return the first answer."""
    client = await RawSocket.open(service.url)
    await client.send(text_frame(connect))
    answer = await client.read_text()
    await client.close()
    return answer


@pytest.mark.parametrize("connect", ["40", "40/,", "40{}", "40null"])
async def test_a_client_connects_to_the_main_namespace(service: Service, connect: str) -> None:
    answer = await ask(service, connect)
    assert answer.startswith("40{")
    assert list(loads(answer[2:])) == ["sid"]


async def test_connected_is_the_first_event_after_connect(service: Service) -> None:
    client = await RawSocket.open(service.url)
    await client.send(text_frame("40"))
    sid = loads((await client.read_text())[2:])["sid"]
    event, payload = loads((await client.read_text())[2:])
    assert (event, payload["socketId"]) == ("connected", sid)
    await client.close()


@pytest.mark.parametrize("namespace", ["/random", "/custom", "/random?token=1", "/é"])
async def test_another_namespace_is_refused_by_connect_error(service: Service, namespace: str) -> None:
    for connect in (f"40{namespace}", f"40{namespace},", f'40{namespace},{{"token":"abc"}}'):
        answer = await ask(service, connect)
        head, _, rest = answer.partition(",")
        assert head == f"44{namespace.partition('?')[0]}"
        refusal = loads(rest)
        assert refusal["message"] == "namespace: there is none but /"
        check_error(refusal["data"], "invalid_payload")


async def test_any_packet_but_connect_closes_a_session_that_is_not_connected(service: Service) -> None:
    client = await RawSocket.open(service.url)
    await client.send(text_frame("4abc"))
    assert await client.read_close() == (1002, "payload: the first packet must be CONNECT, as text")
    await client.close()


async def test_a_session_without_connect_is_closed_in_time(make_service: MakeService) -> None:
    service = await make_service(connect_ms_max=200)
    client = await RawSocket.open(service.url)
    assert (await client.read_close())[0] == 1008
    await client.close()


async def test_after_disconnect_the_connection_stays_for_another_connect(make_service: MakeService) -> None:
    service = await make_service(ping_interval_s=1)
    client = await RawSocket.join(service.url)
    await client.send(text_frame("41"))
    assert await client.read_text(WAIT_S) == "2", "there is no answer to DISCONNECT"
    await client.send(text_frame("3") + text_frame("40"))
    assert (await client.read_text()).startswith("40{")
    await client.close()


async def test_nothing_that_waited_at_a_disconnect_comes_to_the_next_connect(
    database: Database, make_service: MakeService
) -> None:
    service = await make_service()
    client = await PollingClient.open(service.url, poll=False)
    await client.send_raw("40")
    await client.poll()
    await client.take_connect()
    epoch = (await client.expect("connected"))["epoch"]
    for _ in range(3):
        assert (await service.post(UPDATE)).status == 201
    (session,) = service.app.server.eio.sessions.values()
    assert session.send_queue.unsent_bytes > 0
    await client.send_raw("40/other,")
    session.send_queue.put_nowait(Packet(PING))
    await client.send_raw("41")
    await client.send_raw(f'40{{"after":1,"epoch":"{epoch}"}}')
    client.start_polling()
    assert str(await client.next_frame()).startswith("44/other,"), "an answer that is not of the namespace"
    await client.take_connect()
    assert (await client.expect("connected"))["recovered"] is True
    assert await seqs(client, 2) == [2, 3]
    await check_live(service, client, 4)
    await until(lambda: not session.send_queue.unsent_bytes)
    assert not client.waiting()
    await client.close()


@pytest.mark.parametrize("client_class", [SocketClient, PollingClient])
async def test_an_update_of_before_a_disconnect_is_not_acknowledged_to_the_next_connect(
    service: Service, database: Database, client_class: Any
) -> None:
    client = await client_class.connect(service.url)
    with psycopg.connect(database.url) as lock:
        lock.execute("SELECT last_seq FROM balance_feed FOR UPDATE")  # so that nothing is answered
        await client.send_raw(f'421["balance:update",{dumps(UPDATE)}]')
        await client.send_raw("41")
        await client.send_raw("40")
        await client.take_connect()
        await client.expect("connected")
    assert await seqs(client, 1) == [1], "no acknowledgement: socket.io clients may use its number again"
    (session,) = service.app.server.eio.sessions.values()
    assert session.in_flight == 0
    assert (await client.call("balance:update", UPDATE))[0]["success"]
    await client.close()


async def test_an_event_is_answered_and_acknowledged_under_its_number(service: Service) -> None:
    client = await RawSocket.join(service.url)
    await client.send(text_frame('42["ping",1,"2",{"3":[true]}]'))
    assert (await client.read_text()).startswith('42["pong",{')
    await client.send(text_frame(f'42456["balance:update",{dumps(UPDATE)}]'))
    event = await client.read_text()
    acknowledgement = await client.read_text()
    assert event.startswith('42["balance:ack",{')
    assert acknowledgement == "43456[" + event.removeprefix('42["balance:ack",')
    await client.close()


@pytest.mark.parametrize("packet", ["4abc", "42{}", '42abc["balance:update",1,"2",{"3":[false]}]', "42[", '42["x"'])
async def test_a_packet_of_invalid_format_is_answered_and_the_connection_lives(service: Service, packet: str) -> None:
    client = await RawSocket.join(service.url)
    await client.send(text_frame(packet) + text_frame('42["ping"]'))
    event, error = loads((await client.read_text())[2:])
    assert event == "balance:error"
    check_error(error)
    assert (await client.read_text()).startswith('42["pong",{')
    await client.close()
