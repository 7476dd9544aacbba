"""Tokens on every transport: what they permit, how they end, and what is exempt from the rules of hosts and origins."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

import protocol
from balance.access.jwt import LEEWAY_S
from balance.access.tickets import TICKETS_MAX
from balance.auth import PERMISSIONS, Operation, Role
from balance.storage.token_store import TokenError, create_token, list_tokens, revoke_token
from protocol.operations import FEED, LATEST, OPENAPI, STREAM, TICKET
from tests.support.access import add_token, bearer, until
from tests.support.http_client import Connection, Reply, request_bytes
from tests.support.raw_clients import PollingClient, Refused, SocketClient
from tests.support.refusals import check_refused, refusal_of_websocket
from tests.support.service import SNAPSHOTS, Database, MakeService, Processes, Service
from tests.support.sse import StreamClient

pytestmark = pytest.mark.usefixtures("tokens_read_often")

UPDATE = {"onchain": {"rlb": 1, "usdt": 2}, "onsite": {"rlb": 3, "usd": 4}}
FOREIGN = {"Host": "evil.example:3000", "Origin": "https://evil.example"}
POLLING = f"{protocol.SOCKET_PATH}/?EIO=4&transport=polling"
END_S_MAX = 8.0  # for what must end within seconds, on a machine that other processes use too
MINUTE = timedelta(minutes=1)


async def ask(service: Service, method: str, target: str, body: object = None, **headers: str) -> Reply:
    """Send one request on a connection of its own."""
    data = None if body is None else protocol.encode(body)
    async with Connection.to(service.port) as one:
        await one.send(request_bytes(method, target, data, **headers))
        return await one.read_reply(method)


def revoke(database: Database, name: str = "writer") -> None:
    revoke_token(database.url, name)


def expire(database: Database) -> None:
    """Let every token have expired already."""
    database.rows("UPDATE balance_token SET expires_at = now() - interval '1 second'")


ENDS = {"revoked": (revoke, "token: is revoked"), "expired": (expire, "token: has expired")}


# Requests


async def test_a_token_saves_and_reads_and_nothing_else_does(service: Service) -> None:
    assert (await ask(service, "POST", SNAPSHOTS, UPDATE)).status == 201, "it is open without tokens"
    token = await add_token(service)
    assert (await ask(service, "POST", SNAPSHOTS, UPDATE, **bearer(token))).status == 201
    assert (await ask(service, "GET", SNAPSHOTS, Authorization=f"bearer  {token}")).status == 200
    others = {
        token[:-1] + ("0" if token[-1] != "0" else "1"): "token: is not complete, or mistyped",
        token[:-3]: "token: is not complete, or mistyped",
        "bal_writer_0000000000000000000000_2fBdZh": "token: is not complete, or mistyped",
        "secret": "token: is not known",
        "": "token: is not known",
        "a.b.c": "token: is not known",
        "é" * 20: "token: is not known",
    }
    for other, text in others.items():
        for method, body in (("POST", UPDATE), ("GET", None)):
            reply = await ask(service, method, SNAPSHOTS, body, **bearer(other))
            check_refused(reply, "unauthorized", text)
            challenge = f'Bearer realm="balance", error="invalid_token", error_description="{text}"'
            assert reply.headers["WWW-Authenticate"] == challenge
    for method, body in (("POST", UPDATE), ("GET", None)):
        for headers in ({}, {"Authorization": "Basic Ym90OnNlY3JldA=="}):
            reply = await ask(service, method, SNAPSHOTS, body, **headers)
            check_refused(reply, "unauthorized", protocol.Unauthorized.message())
            assert reply.headers["WWW-Authenticate"] == 'Bearer realm="balance"'
    assert (await ask(service, "GET", OPENAPI)).status == 200, "the documents are for everybody"
    assert (await ask(service, "GET", OPENAPI, **bearer("secret"))).status == 200


@pytest.mark.parametrize("end", ENDS)
async def test_a_token_that_has_ended_is_refused_with_the_reason(
    service: Service, database: Database, end: str
) -> None:
    token = await add_token(service)
    act, text = ENDS[end]
    act(database)

    async def status() -> int:
        return (await ask(service, "GET", LATEST, **bearer(token))).status

    started = time.monotonic()
    while await status() == 200:
        assert time.monotonic() - started < END_S_MAX
        await asyncio.sleep(0.05)
    check_refused(await ask(service, "POST", SNAPSHOTS, UPDATE, **bearer(token)), "unauthorized", text)
    with pytest.raises(Refused) as refused:
        await SocketClient.connect(service.url, {"token": token})
    assert refused.value.payload == {"message": text, "data": protocol.Unauthorized(*reversed(text.split(": "))).body()}
    check_refused(await ask(service, "GET", LATEST), "unauthorized", protocol.Unauthorized.message())


async def test_when_a_token_was_used_is_stored_at_most_once_a_minute(
    service: Service, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await add_token(service)
    await add_token(service, name="unused")
    await ask(service, "GET", LATEST, **bearer(token))
    monkeypatch.setattr("balance.access.refresh.NOTE_USED_S", 0.0)
    await until(lambda: list_tokens(database.url)[0].last_used_at is not None)
    used, unused = list_tokens(database.url)
    assert used.last_used_at is not None
    assert used.last_used_at.second == used.last_used_at.microsecond == 0
    assert unused.last_used_at is None


# What lasts


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("kind", [SocketClient, PollingClient])
async def test_a_socket_io_session_ends_with_its_token_and_gets_the_reason(
    service: Service, database: Database, kind: type[SocketClient | PollingClient], end: str
) -> None:
    token, other = await add_token(service), await add_token(service, name="other")
    client = await kind.connect(service.url, {"token": token})
    act, text = ENDS[end]
    started = time.monotonic()
    act(database)
    assert await client.expect("balance:error") == protocol.Unauthorized(*reversed(text.split(": "))).body()
    answer = await client.start_call("balance:update", UPDATE)
    if end == "revoked":
        assert (await ask(service, "POST", SNAPSHOTS, UPDATE, **bearer(other))).status == 201
    code = await client.await_closed()
    assert time.monotonic() - started < END_S_MAX
    assert code == (1008 if kind is SocketClient else None)
    if answer.done() and not answer.exception():
        assert answer.result()[0]["code"] == "unauthorized"
    assert database.count() == (1 if end == "revoked" else 0)
    await client.close()


@pytest.mark.parametrize("end", ENDS)
async def test_a_stream_ends_with_its_token_and_gets_the_reason(service: Service, database: Database, end: str) -> None:
    token = await add_token(service)
    async with StreamClient.to(service.port, **bearer(token)) as client:
        await client.expect("connected")
        ENDS[end][0](database)
        assert (await client.expect("bye", END_S_MAX)).data == {"reason": "unauthorized"}
        assert await client.read_to_end() == []
    again = await StreamClient.open(service.port, **bearer(token))
    assert again.status == 401
    await again.close()


@pytest.mark.parametrize("end", ENDS)
async def test_a_long_poll_ends_with_its_token_and_gets_the_reason(
    service: Service, database: Database, end: str
) -> None:
    token = await add_token(service)
    waiting = asyncio.ensure_future(ask(service, "GET", f"{FEED}?after=now&wait=55", **bearer(token)))
    await until(lambda: bool(service.app._long_polls._held))
    act, text = ENDS[end]
    act(database)
    check_refused(await asyncio.wait_for(waiting, END_S_MAX), "unauthorized", text)


async def test_the_first_token_closes_a_server_also_for_those_who_are_connected(service: Service) -> None:
    client = await SocketClient.connect(service.url)
    async with StreamClient.to(service.port) as stream:
        await stream.expect("connected")
        await add_token(service)
        assert (await client.expect("balance:error"))["code"] == "unauthorized"
        assert await client.await_closed() == 1008
        assert (await stream.expect("bye")).data == {"reason": "unauthorized"}
    await client.close()


async def test_a_revoked_last_token_opens_nothing(service: Service, database: Database) -> None:
    token = await add_token(service)
    revoke(database)
    await until(lambda: not service.app.authenticator.is_current(service.app.authenticator._by_id["1"].caller))
    check_refused(await ask(service, "GET", LATEST), "unauthorized", protocol.Unauthorized.message())
    check_refused(await ask(service, "GET", LATEST, **bearer(token)), "unauthorized", "token: is revoked")


@pytest.mark.expects_log("the database")
async def test_tokens_that_are_known_stay_while_the_database_is_away(
    make_service: MakeService, database: Database
) -> None:
    service = await make_service(database_url=database.url)
    token = await add_token(service, Role.READER)
    with psycopg.connect(database.url, autocommit=True) as admin:
        admin.execute("ALTER TABLE balance_token RENAME TO elsewhere")
        await asyncio.sleep(1.5)
        assert (await ask(service, "GET", LATEST, **bearer(token))).status == 200
        assert (await ask(service, "GET", LATEST)).status == 401
        admin.execute("ALTER TABLE elsewhere RENAME TO balance_token")


# Tickets


async def test_a_ticket_opens_one_stream(service: Service, database: Database) -> None:
    token = await add_token(service, Role.READER)
    reply = await ask(service, "POST", TICKET, **bearer(token))
    assert reply.status == 200
    ticket = reply.body["data"]["ticket"]
    assert reply.body == {"success": True, "data": {"ticket": ticket, "expires_s": 60}}
    async with StreamClient.to(service.port, f"?ticket={ticket}", Origin="https://page.example") as client:
        assert client.headers["Access-Control-Allow-Origin"] == "*"
        await client.expect("connected")
        again = await ask(service, "GET", f"{STREAM}?ticket={ticket}")
        check_refused(again, "unauthorized", "ticket: is unknown, was used, or is older than 60 s: get another")
        revoke(database, "reader")
        assert (await client.expect("bye", END_S_MAX)).data == {"reason": "unauthorized"}


async def test_a_ticket_expires_and_opens_nothing_but_a_stream(service: Service) -> None:
    token = await add_token(service)
    ticket = (await ask(service, "POST", TICKET, **bearer(token))).body["data"]["ticket"]
    for target in (LATEST, FEED, SNAPSHOTS):
        assert (await ask(service, "GET", f"{target}?ticket={ticket}")).status == 401
    assert (await ask(service, "POST", f"{SNAPSHOTS}?ticket={ticket}", UPDATE)).status == 401
    check_refused(await ask(service, "POST", TICKET), "unauthorized", protocol.Unauthorized.message())
    issued = service.app.authenticator.tickets._issued
    ((key, (caller, expires_at)),) = issued.items()
    assert 50 < expires_at - time.monotonic() <= 60
    issued[key] = caller, time.monotonic()
    assert (await ask(service, "GET", f"{STREAM}?ticket={ticket}")).status == 401


async def test_a_ticket_of_a_revoked_token_opens_nothing(service: Service, database: Database) -> None:
    token = await add_token(service)
    ticket = (await ask(service, "POST", TICKET, **bearer(token))).body["data"]["ticket"]
    revoke(database)
    await until(lambda: service.app.authenticator._by_id["1"].is_revoked)
    check_refused(await ask(service, "GET", f"{STREAM}?ticket={ticket}"), "unauthorized", "token: is revoked")


async def test_the_number_of_tickets_is_limited(service: Service) -> None:
    token = await add_token(service)
    tickets = service.app.authenticator.tickets
    for _ in range(TICKETS_MAX):
        tickets.issue(service.app.authenticator.anonymous)
    reply = await ask(service, "POST", TICKET, **bearer(token))
    check_refused(reply, "busy", f"{TICKETS_MAX} tickets wait to be used")


# Hosts and origins


async def test_with_a_token_a_page_of_any_origin_may_call_by_any_host(service: Service) -> None:
    assert (await ask(service, "GET", LATEST, **FOREIGN)).status == 421
    token = await add_token(service)
    for method, target, body, status in (("GET", LATEST, None, 200), ("POST", SNAPSHOTS, UPDATE, 201)):
        preflight = await ask(
            service, "OPTIONS", target, **FOREIGN, Access_Control_Request_Method=method,
            Access_Control_Request_Headers="authorization",
        )  # fmt: skip
        assert preflight.status == 204
        assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]
        for headers, wanted in ((bearer(token), status), ({}, 401), (bearer("secret"), 401)):
            reply = await ask(service, method, target, body, **FOREIGN, **headers)
            assert reply.status == wanted
            assert reply.headers["Access-Control-Allow-Origin"] == "*"
            assert "Access-Control-Allow-Credentials" not in reply.headers
    foreign = {**FOREIGN, "Sec-Fetch-Site": "cross-site"}
    for kind in (SocketClient, PollingClient):
        client = await kind.connect(service.url, {"token": token}, headers=foreign)
        assert (await client.call("ping"))[0].keys() == {"timestamp"}
        await client.close()


async def test_where_anyone_may_call_only_a_token_is_exempt_from_the_rules(make_service: MakeService) -> None:
    service = await make_service(allow_anonymous=True)
    token = await add_token(service, Role.READER)
    assert (await ask(service, "GET", LATEST)).status == 200
    assert (await ask(service, "POST", SNAPSHOTS, UPDATE)).status == 201
    assert (await ask(service, "GET", LATEST, **FOREIGN)).status == 421
    assert (await ask(service, "GET", LATEST, Origin=FOREIGN["Origin"])).status == 403
    assert (await ask(service, "POST", SNAPSHOTS, UPDATE, **FOREIGN)).status == 421
    assert (await ask(service, "GET", LATEST, **FOREIGN, **bearer(token))).status == 200
    assert (await ask(service, "POST", SNAPSHOTS, UPDATE, **bearer(token))).status == 403, "it is a reader's"
    assert (await ask(service, "GET", LATEST, **FOREIGN, **bearer("secret"))).status == 421
    assert (await ask(service, "GET", LATEST, **bearer("secret"))).status == 401
    status, _ = await refusal_of_websocket(service.url, headers={"Origin": FOREIGN["Origin"]})
    assert status == 403
    client = await SocketClient.connect(service.url, headers={**bearer(token), "Origin": FOREIGN["Origin"]})
    await client.close()


# Closed by default


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("--host=0.0.0.0", "--host: 0.0.0.0 is not loopback"),
        ("--public-url=https://a.example", "--public-url: https://a.example is not loopback"),
        ("--hosts=a.example", "--hosts: a.example is not loopback"),
        ("--trusted-proxies=127.0.0.1", "--trusted-proxies: 127.0.0.1 opens the server to a network"),
    ],
)
def test_on_a_network_a_server_without_tokens_ends_with_one_line(
    processes: Processes, database: Database, setting: str, reason: str
) -> None:
    process = processes("--port=0", setting, DATABASE_URL=database.url)
    assert process.wait() == 1
    (line,) = process.complaints
    assert line.startswith(f"server.py: {reason} and there is no token: run `python server.py token")


async def test_on_a_network_a_server_starts_with_a_token_or_if_anyone_is_allowed(
    make_service: MakeService, service: Service
) -> None:
    anyone = await make_service(host="0.0.0.0", allow_anonymous=True)
    assert (await ask(anyone, "GET", LATEST)).status == 200
    await add_token(service)
    closed = await make_service(host="0.0.0.0")
    assert (await ask(closed, "GET", LATEST)).status == 401


def test_each_operation_has_a_role_that_may_do_it_and_one_that_may_not() -> None:
    assert PERMISSIONS[Role.ADMIN] == PERMISSIONS[Role.ANYONE] == set(Operation)
    for smaller, larger in ((Role.ANONYMOUS, Role.READER), (Role.READER, Role.WRITER), (Role.WRITER, Role.ADMIN)):
        assert PERMISSIONS[smaller] < PERMISSIONS[larger]


# Secrets


async def test_no_credential_is_in_any_answer_log_line_or_repr(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    token = await add_token(service)
    marks = [token, "MARKED.secret.value", "bal_writer_MARKED"]
    answers: list[Any] = []
    for mark in marks:
        for method, target in (("GET", LATEST), ("GET", "/nothing"), ("PUT", SNAPSHOTS), ("GET", "/api/socket.io/?x")):
            answers.append(await ask(service, method, target, **bearer(mark)))
        answers.append(await ask(service, "POST", SNAPSHOTS, {"surprise": mark}, **bearer(mark)))
        answers.append(await ask(service, "GET", f"{STREAM}?ticket={mark}"))
        for auth in ({"token": mark, "surprise": 1}, {"token": [mark]}, {"token": mark, "after": "x"}):
            with pytest.raises(Refused) as refused:
                await SocketClient.connect(service.url, auth)
            answers.append(refused.value.payload)
    app = service.app
    text = json.dumps([[one.raw.decode(), str(one.headers)] if isinstance(one, Reply) else one for one in answers])
    text += caplog.text + repr([app.authenticator._by_id, app.authenticator._by_id["1"].caller, app._config])
    assert [mark for mark in marks if mark in text] == []


# JSON Web Tokens


@pytest.mark.expects_log("--jwks: no JWT is accepted any more")
async def test_a_jwt_is_a_credential_on_every_transport_until_it_expires(
    make_service: MakeService, tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    entry = {**json.loads(ECAlgorithm.to_jwk(key.public_key())), "kid": "k"}
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [entry]}))
    service = await make_service(jwks=str(tmp_path / "jwks.json"), jwt_issuer="https://i.example", jwt_audience="b")

    def token(scope: str, seconds: float) -> str:
        claims = {"iss": "https://i.example", "aud": "b", "sub": "x", "exp": time.time() + seconds, "scope": scope}
        return jwt.encode(claims, key, "ES256", {"kid": "k"})

    assert (await ask(service, "GET", LATEST)).status == 401
    assert (await ask(service, "POST", SNAPSHOTS, UPDATE, **bearer(token("balance:write", 60)))).status == 201
    assert (await ask(service, "POST", SNAPSHOTS, UPDATE, **bearer(token("balance:read", 60)))).status == 403
    for target in (LATEST, FEED, STREAM, POLLING):  # a REST read, a long poll, a stream, a handshake of Socket.IO
        refused = await ask(service, "GET", target, **bearer(token("openid", 60)))
        assert refused.status == 403
        assert refused.headers["WWW-Authenticate"].startswith('Bearer realm="balance", error="insufficient_scope", ')
        assert refused.headers["WWW-Authenticate"].endswith(', scope="balance:read"')
        refused = await ask(service, "GET", target, **bearer("wrong"))
        assert refused.status == 401
        assert refused.headers["WWW-Authenticate"].startswith('Bearer realm="balance", error="invalid_token", ')
    assert (await ask(service, "GET", LATEST, **bearer(token("balance:read", -60)))).status == 401
    short = token("balance:read", 2 - LEEWAY_S)
    client = await SocketClient.connect(service.url, {"token": short})
    async with StreamClient.to(service.port, **bearer(short)) as stream:
        await stream.expect("connected")
        assert (await client.expect("balance:error"))["error"] == "token: has expired"
        assert await client.await_closed() == 1008
        assert (await stream.expect("bye")).data == {"reason": "unauthorized"}
    await client.close()
    new = ec.generate_private_key(ec.SECP256R1())
    entry = {**json.loads(ECAlgorithm.to_jwk(new.public_key())), "kid": "n"}
    (tmp_path / "new").write_text(json.dumps({"keys": [entry]}))
    (tmp_path / "new").replace(tmp_path / "jwks.json")
    claims = {"iss": "https://i.example", "aud": "b", "exp": time.time() + 60, "scope": "balance:read"}
    rotated = jwt.encode(claims, new, "ES256", {"kid": "n"})
    started = time.monotonic()
    while (await ask(service, "GET", LATEST, **bearer(rotated))).status == 401:
        assert time.monotonic() - started < END_S_MAX
        await asyncio.sleep(0.05)
    assert (await ask(service, "GET", LATEST, **bearer(rotated))).status == 200
    await check_removed_keys(service, tmp_path, rotated)


async def check_removed_keys(service: Service, folder: Path, token: str) -> None:
    """Remove all keys; check that what was opened with a JWT ends, and that it is accepted no more."""
    client = await SocketClient.connect(service.url, {"token": token})
    async with StreamClient.to(service.port, **bearer(token)) as stream:
        await stream.expect("connected")
        (folder / "new").write_text(json.dumps({"keys": []}))
        (folder / "new").replace(folder / "jwks.json")
        assert (await client.expect("balance:error"))["error"] == "token: is signed by a key that is no longer trusted"
        assert (await stream.expect("bye")).data == {"reason": "unauthorized"}
    assert (await ask(service, "GET", LATEST, **bearer(token))).status == 401
    await client.close()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("token", "create"), "token: needs a name"),
        (("token", "create", "a b"), "token: needs a name"),
        (("token", "create", "x", "--expires", "soon"), "token: --expires: 'soon' is not a time such as 90d"),
        (("token", "create", "x", "--role", "boss"), "argument --role: invalid choice: 'boss'"),
        (("token", "revoke", "x"), "token: there is no token x that could be revoked"),
        (("--jwks=/nowhere",), "--jwks: needs --jwt-issuer and --jwt-audience"),
        (("--jwks=/nowhere", "--jwt-issuer=i", "--jwt-audience=a"), "--jwks: No such file or directory"),
        (("--jwks=http://login.example/", "--jwt-issuer=i", "--jwt-audience=a"), "--jwks: must be a file or https://"),
        (("--allow-anonymous=perhaps",), "--allow-anonymous: 'perhaps' is neither yes nor no"),
    ],
    ids=str,
)
def test_a_command_that_cannot_be_done_prints_one_line(
    processes: Processes, database: Database, arguments: tuple[str, ...], reason: str
) -> None:
    process = processes(*arguments, script="server.py", DATABASE_URL=database.url)
    assert process.wait() == 1
    (line,) = process.complaints
    assert line.startswith(f"server.py: {reason}")
    assert "<" not in line, "the form of a value in Python"
    assert process.stdout == []


def test_a_name_is_of_one_token_until_it_is_revoked(database: Database) -> None:
    create_token(database.url, "x", "writer", b"1" * 32, None)
    with pytest.raises(TokenError, match="there is a token x already"):
        create_token(database.url, "x", "reader", b"2" * 32, None)
    revoke_token(database.url, "x")
    create_token(database.url, "x", "reader", b"2" * 32, MINUTE)
    first, second = list_tokens(database.url)
    assert (first.role, first.expires_at, second.role) == ("writer", None, "reader")
    assert second.expires_at == second.created_at + MINUTE
