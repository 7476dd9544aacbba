"""Socket.IO 5, exchange by exchange, as its protocol's own test suite (socketio/socket.io-protocol) goes through it.

Rewritten for the one namespace and the events that there are here. README.md lists where the service deviates, each
with its reason.
"""

from __future__ import annotations

import pytest

from protocol import dumps, loads
from tests.support.payloads import UPDATE
from tests.support.raw_clients import WAIT_S
from tests.support.raw_websocket import RawSocket, text_frame
from tests.support.refusals import check_error
from tests.support.service import MakeService, Service


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
