"""The requests that carry a change of an alarm to a receiver, in one of three formats.

`webhook` is Standard Webhooks 1.0.0 (standardwebhooks.com), `ntfy` the publishing by headers of docs.ntfy.sh, and
`alertmanager` the API v2 of Prometheus' Alertmanager (`POST /api/v2/alerts`).

Pure: the time is an argument.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit, urlunsplit

from balance.alarms.alarm import Alarm, Amount, Change
from protocol import encode

SECRET_PREFIX = "whsec_"
SECRET_BYTES = (24, 64)  # as the specification of Standard Webhooks demands
ALERTS_PATH = "/api/v2/alerts"
ALERT_S = 300  # after which Alertmanager ends an alert that is not sent again; a repetition is five times as frequent
ALERT_NAME = "BalanceAlarm"


class SecretError(Exception):
    """A secret cannot be used; the text is one line without the secret."""


@dataclass(frozen=True)
class Notice:
    """A change that is to be sent, under an id that no other has."""

    id: str
    change: Change
    created_at: float


class Message(NamedTuple):
    """The request for a notice."""

    headers: Mapping[str, str]
    body: bytes


class Format(Protocol):
    """How changes are sent to a receiver."""

    url: str
    """Where requests are sent."""

    def message(self, notice: Notice, now: float) -> Message:
        """Return the request for a notice that is sent now."""

    def repetition(self, alarms: Iterable[Alarm], now: float) -> Message | None:
        """Return the request that repeats the alarms which fire; None if the receiver needs none."""


def format_of(name: str, url: str, secret: str | None, service_url: str) -> Format:
    """Return the format of this name; `service_url` names the service that is watched. Raises SecretError."""
    if name == "webhook":
        return Webhook(url, None if secret is None else webhook_key(secret))
    return Ntfy(url, secret) if name == "ntfy" else Alertmanager(url, secret, service_url)


FORMATS = ("webhook", "ntfy", "alertmanager")


class Webhook:
    """Standard Webhooks: JSON, and headers that identify it and prove where it comes from."""

    def __init__(self, url: str, key: bytes | None) -> None:
        """Sign with `key`, if there is one."""
        self.url = url
        self._key = key

    def message(self, notice: Notice, now: float) -> Message:
        """Return a request whose id and body are the same at each attempt, and whose timestamp is that of this one."""
        body, timestamp = encode(payload(notice.change)), str(int(now))
        headers = {
            "Content-Type": "application/json",
            "webhook-id": notice.id,
            "webhook-timestamp": timestamp,
        }
        if self._key is not None:
            headers["webhook-signature"] = sign(self._key, notice.id, timestamp, body)
        return Message(headers, body)

    def repetition(self, alarms: Iterable[Alarm], now: float) -> None:
        """Need no repetition."""


class Ntfy:
    """A message of ntfy: title, priority and tags are headers, and the text is the body."""

    def __init__(self, url: str, token: str | None) -> None:
        """Send to a topic, with an access token if it needs one."""
        self.url = url
        self._headers = bearer(token)

    def message(self, notice: Notice, now: float) -> Message:
        """Return a request; one that is sent again replaces the first, since it is of the same sequence."""
        change = notice.change
        headers = {
            **self._headers,
            "Content-Type": "text/plain; charset=utf-8",
            "Title": title(change),
            "Priority": "high" if change.is_firing else "default",
            "Tags": "rotating_light" if change.is_firing else "white_check_mark",
            "X-Sequence-ID": notice.id,
        }
        return Message(headers, summary(change).encode())

    def repetition(self, alarms: Iterable[Alarm], now: float) -> None:
        """Need no repetition."""


class Alertmanager:
    """Alerts of Alertmanager, which identifies them by their labels, and ends those that do not come again."""

    def __init__(self, url: str, token: str | None, service_url: str) -> None:
        """Send to the API of the Alertmanager at `url`, with a token if a proxy in front of it needs one."""
        parts = urlsplit(url)
        path = parts.path.rstrip("/")
        self.url = urlunsplit(parts._replace(path=path if path.endswith(ALERTS_PATH) else path + ALERTS_PATH))
        self._headers = {**bearer(token), "Content-Type": "application/json"}
        self._service_url = service_url

    def message(self, notice: Notice, now: float) -> Message:
        """Return a request with one alert."""
        change = notice.change
        ends_at = now + ALERT_S if change.is_firing else change.at
        return Message(self._headers, encode([self._alert(change.alarm, ends_at, summary(change))]))

    def repetition(self, alarms: Iterable[Alarm], now: float) -> Message:
        """Return a request with all alerts that fire."""
        texts = ((alarm, summary(Change(alarm, True, alarm.started_at, alarm.value))) for alarm in alarms)
        return Message(self._headers, encode([self._alert(alarm, now + ALERT_S, text) for alarm, text in texts]))

    def _alert(self, alarm: Alarm, ends_at: float, text: str) -> dict[str, Any]:
        labels = {"alertname": ALERT_NAME, "rule": alarm.rule}
        if alarm.pid is not None:
            labels["pid"] = str(alarm.pid)
        return {
            "labels": labels,
            "annotations": {"summary": text},
            "startsAt": format_time(alarm.started_at),
            "endsAt": format_time(ends_at),
            "generatorURL": self._service_url,
        }


def webhook_key(secret: str) -> bytes:
    """Return the key of a secret of Standard Webhooks: `whsec_` and base64. Raises SecretError."""
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError as error:
        raise SecretError("is not whsec_ and base64") from error
    least, most = SECRET_BYTES
    if not secret.startswith(SECRET_PREFIX) or not least <= len(key) <= most:
        raise SecretError(f"is not whsec_ and base64 of {least} to {most} bytes")
    return key


def sign(key: bytes, notice_id: str, timestamp: str, body: bytes) -> str:
    """Return the value of `webhook-signature`."""
    signed = b".".join((notice_id.encode(), timestamp.encode(), body))
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def bearer(token: str | None) -> dict[str, str]:
    """Return the header with a token, if there is one."""
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def payload(change: Change) -> dict[str, Any]:
    """Return the JSON of a webhook. Amounts are exact numbers."""
    alarm = change.alarm
    return {
        "type": "alarm.firing" if change.is_firing else "alarm.resolved",
        "timestamp": format_time(change.at),
        "data": {
            "id": alarm.id,
            "rule": alarm.rule,
            "pid": alarm.pid,
            "value": change.value,
            "startsAt": format_time(alarm.started_at),
            "endsAt": None if change.is_firing else format_time(change.at),
            "summary": summary(change),
        },
    }


def title(change: Change) -> str:
    """Return one line: what happens to which alarm."""
    about = "" if change.alarm.pid is None else f" (pid {change.alarm.pid})"
    return f"{'Firing' if change.is_firing else 'Resolved'}: {change.alarm.rule}{about}"


def summary(change: Change) -> str:
    """Return one line for a person: the title, and the amount or the reason."""
    if change.value is not None:
        return f"{title(change)}; the amount is {format_amount(change.value)}"
    return f"{title(change)}; {change.reason}" if change.reason else title(change)


def format_amount(amount: Amount) -> str:
    """Return all digits of an amount, without an exponent."""
    return format(Decimal(amount), "f")


def format_time(seconds: float) -> str:
    """Return a moment as RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
