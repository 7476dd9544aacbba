"""The requests of the three formats, and the addresses to which they may be sent."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest
from tornado.httputil import HTTPHeaders

import protocol
from balance.alarms.alarm import Alarm, Change
from balance.alarms.clock import Clock
from balance.alarms.http_client import CheckedResolver, HttpClient, is_public
from balance.alarms.messages import ALERT_S, Alertmanager, Notice, SecretError, Webhook, format_of, sign, webhook_key
from balance.alarms.notifier import waits
from tests.support.alarm_receiver import KEY, SECRET, Arrived, check_signature, receiving
from tests.support.repository import ROOT

NOW = 1_767_746_708.603
ALARM = Alarm("a1", "onchain.usdt < 1000", None, NOW, Decimal("999.50"))
FIRED = Notice("msg_1", Change(ALARM, True, NOW, Decimal("999.5000000000000000000000000000000001")), NOW)
ENDED = Notice("msg_2", Change(Alarm("a2", "any pid silent 5s", 7, NOW), False, NOW + 60, None, "the reason"), NOW)
PUBLIC, LOOPBACK = "93.184.216.34", "127.0.0.1"


def documented_check() -> Callable[[HTTPHeaders, bytes, str], bool]:
    """Return the function with which docs/alarms.md checks a request."""
    (program,) = re.findall(
        r"^```python check\n(.*?)^```$", (ROOT / "docs" / "alarms.md").read_text(), re.DOTALL | re.M
    )
    names: dict[str, Any] = {}
    exec(program, names)
    return names["is_genuine"]  # type: ignore[no-any-return]


def test_a_webhook_is_signed_as_the_specification_and_the_document_describe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: NOW)
    message = Webhook("https://example.com", webhook_key(SECRET)).message(FIRED, NOW)
    headers = HTTPHeaders(dict(message.headers))
    check_signature(Arrived(0, "/", headers, message.body, 204), KEY)
    is_genuine = documented_check()
    assert is_genuine(headers, message.body, SECRET)
    assert not is_genuine(headers, message.body + b" ", SECRET)
    monkeypatch.setattr("time.time", lambda: NOW + 301)
    assert not is_genuine(headers, message.body, SECRET)


def test_the_signature_is_the_one_in_the_tests_of_the_published_libraries() -> None:
    key = webhook_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_resend_has_the_same_id_and_body_and_a_timestamp_of_its_own() -> None:
    form = Webhook("https://example.com", KEY)
    first, second = form.message(FIRED, NOW), form.message(FIRED, NOW + 5)
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == "msg_1"
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]
    assert "webhook-signature" not in Webhook("https://example.com", None).message(FIRED, NOW).headers


def test_an_amount_keeps_every_digit_in_each_format() -> None:
    for name in ("webhook", "ntfy", "alertmanager"):
        body = format_of(name, "https://example.com/x", None, "http://127.0.0.1:3000").message(FIRED, NOW).body
        assert b"999.5000000000000000000000000000000001" in body


def test_the_end_of_an_alarm_has_its_pid_its_times_and_its_reason() -> None:
    body = protocol.loads(Webhook("https://example.com", KEY).message(ENDED, NOW).body)
    assert body == {
        "type": "alarm.resolved",
        "timestamp": "2026-01-07T00:46:08.603Z",
        "data": {
            "id": "a2",
            "rule": "any pid silent 5s",
            "pid": 7,
            "value": None,
            "startsAt": "2026-01-07T00:45:08.603Z",
            "endsAt": "2026-01-07T00:46:08.603Z",
            "summary": "Resolved: any pid silent 5s (pid 7); the reason",
        },
    }


def test_an_alert_is_repeated_with_a_later_end_and_the_same_identity() -> None:
    form = Alertmanager("http://example.com/prefix/", "token", "http://127.0.0.1:3000")
    assert form.url == "http://example.com/prefix/api/v2/alerts"
    (first,), (again,) = (
        protocol.loads(message.body) for message in (form.message(FIRED, NOW), form.repetition([ALARM], NOW + 60))
    )
    assert {key: first[key] for key in ("labels", "startsAt")} == {key: again[key] for key in ("labels", "startsAt")}
    assert (first["endsAt"], again["endsAt"]) == ("2026-01-07T00:50:08.603Z", "2026-01-07T00:51:08.603Z")
    assert ALERT_S > 60
    (ended,) = protocol.loads(form.message(ENDED, NOW + 99).body)
    assert (ended["endsAt"], ended["labels"]["pid"]) == ("2026-01-07T00:46:08.603Z", "7")
    assert form.message(FIRED, NOW).headers["Authorization"] == "Bearer token"


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "whsec_aGk=", SECRET[6:], "whsec_" + "A" * 88, "whsec_ä", SECRET + "!"]
)
def test_a_secret_that_is_not_of_standard_webhooks_is_refused(secret: str) -> None:
    with pytest.raises(SecretError, match="is not whsec_ and base64"):
        webhook_key(secret)


def test_the_waits_between_attempts_grow_up_to_a_limit() -> None:
    first = [wait_s for wait_s, _ in zip(waits(), range(20), strict=False)]
    assert 0.8 <= first[0] <= 1.2
    assert all(240 <= wait_s <= 360 for wait_s in first[10:])


def test_the_clock_follows_that_of_the_system_only_when_it_is_adjusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: NOW)
    monkeypatch.setattr("time.monotonic", lambda: 5.0)
    clock = Clock()
    monkeypatch.setattr("time.monotonic", lambda: 6.0)
    assert clock() == pytest.approx(NOW + 1)
    monkeypatch.setattr("time.time", lambda: NOW + 1.5)
    assert (clock.adjust(), clock()) == (False, pytest.approx(NOW + 1))
    monkeypatch.setattr("time.time", lambda: NOW + 3_601)
    assert (clock.adjust(), clock()) == (True, pytest.approx(NOW + 3_601))


# Addresses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "127.8.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
        ),
        *("224.0.0.1", "255.255.255.255", "192.0.2.1", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
    ],
)
def test_an_address_that_is_not_public_is_recognised_in_each_form(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", [PUBLIC, "1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_a_public_address_is_permitted(address: str) -> None:
    assert is_public(address)


def resolve_to(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Let names resolve to these addresses, the first answer for the first question; return the names asked for."""
    asked: list[str] = []

    async def resolve(self: object, host: str, port: int, family: int = 0) -> list[tuple[int, Any]]:
        asked.append(host)
        return [(socket.AF_INET, (address, port)) for address in answers[min(len(asked), len(answers)) - 1]]

    monkeypatch.setattr("tornado.netutil.DefaultLoopResolver.resolve", resolve)
    return asked


async def test_only_the_public_addresses_of_a_name_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, [LOOPBACK, PUBLIC], [LOOPBACK, "10.0.0.1"])
    resolver = CheckedResolver()
    assert await resolver.resolve("example.com", 80) == [(socket.AF_INET, (PUBLIC, 80))]
    with pytest.raises(OSError, match="has no public address"):
        await resolver.resolve("example.com", 80)


async def test_the_connection_is_made_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name resolves to a public address when it is checked, and to loopback at any later question."""
    asked = resolve_to(monkeypatch, [PUBLIC], [LOOPBACK])
    connected: list[Any] = []

    async def connect(stream: Any, address: Any, *_: Any) -> Any:
        connected.append(address)
        raise OSError("not connected in a test")

    def start(stream: Any, address: Any, server_hostname: str | None = None) -> Awaitable[Any]:
        return asyncio.ensure_future(connect(stream, address))

    monkeypatch.setattr("tornado.iostream.IOStream.connect", start)
    with HttpClient(CheckedResolver()) as http, pytest.raises(OSError, match="not connected in a test"):
        await http.fetch("http://rebinding.example.com/", timeout_s=5)
    assert (asked, connected) == (["rebinding.example.com"], [(PUBLIC, 80)])


async def test_a_name_of_this_machine_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving() as receiver:
        with HttpClient(CheckedResolver()) as http:
            for host in ("localhost", LOOPBACK, "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"):
                with pytest.raises(OSError, match="has no public address"):
                    await http.fetch(f"http://{host}:{receiver.port}/", timeout_s=5)
        with HttpClient() as http:
            assert (await http.fetch(receiver.url, timeout_s=5)).status == 204
        assert len(receiver.arrived) == 1
