"""The settings of one server: read and checked once at the start, then immutable.

Each field is a flag (`--port`) and an environment variable (`BALANCE_PORT`; the database is `DATABASE_URL`).
The flag overrides the variable. A name ends in its unit: `_ms` and `_s` are milliseconds and seconds, `_bytes` bytes.
`_max` is a limit: a request over it is rejected at once. `Config.read` raises ConfigError before anything is opened;
its text is one line with the setting and the reason.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from balance import program
from balance.host_names import is_loopback, normalise_host, normalise_origin
from protocol.limits import DEFAULT

SWITCH = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}


class ConfigError(Exception):
    """A setting cannot be used; the text is one line."""


def setting(default: Any, text: str, low: int | None = None, high: int | None = None, **more: Any) -> Any:
    """Declare a setting: its default, one line of help and, for a number, the lowest and the highest value."""
    return field(default=default, metadata={"help": text, "low": low, "high": high}, **more)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings of the service, with their defaults."""

    host: str = setting("127.0.0.1", "address to listen on")
    port: int = setting(3000, "TCP port to listen on; 0 for any free one", 0, 65535)
    database_url: str = setting(
        "", "PostgreSQL 14 or newer, as postgresql://…; without it the embedded one starts", repr=False
    )
    data_dir: Path = setting(Path("data"), "folder of the embedded PostgreSQL")
    hosts: tuple[str, ...] = setting(
        (), "host names of the service, beside those that nobody can register: comma-separated, or *"
    )
    cors_origins: tuple[str, ...] = setting((), "origins of web pages that may call: comma-separated, or *")
    trusted_proxies: tuple[str, ...] = setting((), "addresses of proxies whose X-Forwarded-For is trusted")
    allow_anonymous: bool = setting(False, "let callers without a token do everything, on any address")
    jwks: str = setting("", "file or URL of the public keys (JWKS) of an identity provider, whose JWTs are accepted")
    jwt_issuer: str = setting("", "`iss` of the JWTs that are accepted; required with --jwks")
    jwt_audience: str = setting("", "`aud` of the JWTs that are accepted; required with --jwks")

    body_bytes_max: int = setting(
        DEFAULT.update_bytes_max, "size of one update, as JSON", 1_024, DEFAULT.update_bytes_max
    )
    frame_bytes_max: int = setting(1_000_000, "size of one WebSocket frame or polling request", 32_768, 16_777_216)
    saves_per_s_max: int = setting(
        0,
        "updates a second of one token or, without one, of one address; ten times as many at once; 0: any",
        0,
        1_000_000,
    )
    connections_per_address_max: int = setting(0, "connections of one address; 0: any number", 0, 1_000_000)
    handshakes_per_s_max: int = setting(
        0, "new Socket.IO sessions and streams a second of one address; ten times as many at once; 0: any", 0, 1_000_000
    )
    failed_logins_per_s_max: int = setting(
        10, "tokens a second of one address that are not valid; ten times as many at once; 0: any", 0, 1_000_000
    )
    watchers_max: int = setting(20_000, "clients that watch at once, on all transports", 1, 1_000_000)
    watcher_unsent_bytes_max: int = setting(
        1_048_576,
        "backlog of one client, beside two batches; over it, the client is disconnected",
        65_536,
        1_073_741_824,
    )
    stream_s_max: int = setting(600, "time after which a stream of events ends, ± 10 %", 1, 86_400)
    updates_in_flight_max: int = setting(
        256, "unanswered updates of one Socket.IO client; at the limit its socket is not read", 1, 100_000
    )
    saves_pending_max: int = setting(10_000, "unanswered updates of all clients; over it `busy`", 1, 1_000_000)
    save_batch_max: int = setting(256, "updates saved in one transaction", 1, 10_000)
    save_ms_max: int = setting(5_000, "time to answer an update; after it `unavailable`", 100, 600_000)
    reads_in_flight_max: int = setting(
        64, "concurrent list and get requests, of one address at most as many as stay free; over it `busy`", 1, 10_000
    )
    read_ms_max: int = setting(5_000, "time to answer a list or get; after it `unavailable`", 100, 600_000)
    pool_max: int = setting(
        8, "connections to the database: one saves, one follows the feed, two replay it, the others read", 5, 100
    )
    pool_wait_ms_max: int = setting(1_000, "time to wait for a connection to the database", 10, 60_000)
    statement_ms_max: int = setting(4_000, "time of one SQL statement", 10, 600_000)
    ping_interval_s: int = setting(
        DEFAULT.ping_interval_s, "time between two heartbeats to a Socket.IO client", 1, 3_600
    )
    ping_timeout_s: int = setting(DEFAULT.ping_timeout_s, "time to wait for the answer to a heartbeat", 1, 3_600)
    connect_ms_max: int = setting(10_000, "time from the handshake to the Socket.IO CONNECT", 100, 600_000)
    shutdown_delay_ms: int = setting(
        0, "time at a stop in which /readyz is 503 and everything is still served, for a balancer to notice", 0, 600_000
    )
    shutdown_ms_max: int = setting(8_000, "time to answer the requests in flight at a stop", 0, 600_000)

    def __post_init__(self) -> None:
        for one in fields(self):
            value, low, high = getattr(self, one.name), one.metadata["low"], one.metadata["high"]
            if low is not None and not low <= value <= high:
                raise ConfigError(f"{flag(one)}: {value} is not between {low} and {high}")
        self._normalise("hosts", normalise_host)
        self._normalise("cors_origins", normalise_origin)
        self._normalise("trusted_proxies", _normal_address)
        if not self.host:
            raise ConfigError("--host: must not be empty")
        if self.jwks and not (self.jwt_issuer and self.jwt_audience):
            raise ConfigError("--jwks: needs --jwt-issuer and --jwt-audience, or it would accept tokens for others")
        if self.jwks.startswith("http://") and not is_loopback(urlsplit(self.jwks).hostname or ""):
            raise ConfigError("--jwks: must be a file or https://, since over http:// anyone could replace the keys")

    def _normalise(self, name: str, normal: Callable[[str], str]) -> None:
        """Convert each part of a setting to the form that is compared. Raises ConfigError if one could never match."""
        (one,) = (one for one in fields(self) if one.name == name)
        values = []
        for text in getattr(self, name):
            try:
                values.append(normal(text))
            except ValueError as error:
                raise ConfigError(f"{flag(one)}: {text!r} {error}") from error
        object.__setattr__(self, name, tuple(values))

    @classmethod
    def read(cls, argv: Sequence[str], env: Mapping[str, str]) -> Config:
        """Read the settings from flags and the environment.

        Raises ConfigError for an unknown flag and for an invalid value.
        """
        return cls.of(settings_parser(program.NAME).parse_args(argv), env)

    @classmethod
    def of(cls, arguments: Namespace, env: Mapping[str, str]) -> Config:
        """Read the settings from what a `settings_parser` has parsed, and the environment. Raises ConfigError."""
        flags = vars(arguments)
        given = {one.name: flags[one.name] for one in fields(cls) if flags[one.name] is not None}
        for one in fields(cls):
            if one.name not in given and env.get(variable(one)):
                given[one.name] = env[variable(one)]
        return cls(**{one.name: _parse(one, given[one.name]) for one in fields(cls) if one.name in given})


def settings_parser(prog: str, description: str = "") -> ArgumentParser:
    """Return a parser of all settings as flags, which raises ConfigError."""
    parser = _Parser(
        prog=prog,
        usage="%(prog)s [settings]",  # a command with arguments of its own has another
        description=description,
        allow_abbrev=False,
        formatter_class=RawDescriptionHelpFormatter,
    )
    settings = parser.add_argument_group("settings")
    for one in fields(Config):
        switch: dict[str, Any] = {"nargs": "?", "const": "yes"} if isinstance(one.default, bool) else {}
        settings.add_argument(flag(one), dest=one.name, help=_help(one), **switch)
    return parser


def _help(one: Field[Any]) -> str:
    return f"{one.metadata['help']} [{_shown(one.default)}]".replace("%", "%%")  # argparse formats it


def flag(one: Field[Any]) -> str:
    """Return the flag of a setting: `--body-bytes-max`."""
    return "--" + one.name.replace("_", "-")


def variable(one: Field[Any]) -> str:
    """Return the environment variable of a setting: `BALANCE_BODY_BYTES_MAX`; of the database, `DATABASE_URL`."""
    return "DATABASE_URL" if one.name == "database_url" else "BALANCE_" + one.name.upper()


def _normal_address(text: str) -> str:
    """Convert an IP address to the form of the operating system. Raises ValueError with the reason."""
    try:
        return str(ip_address(text))
    except ValueError as error:
        raise ValueError("is not an IP address") from error


def _parse(one: Field[Any], text: str) -> Any:
    if isinstance(one.default, bool):
        if text.lower() not in SWITCH:
            raise ConfigError(f"{flag(one)}: {text!r} is neither yes nor no")
        return SWITCH[text.lower()]
    if isinstance(one.default, int):
        if not re.fullmatch(r"-?[0-9]{1,18}", text):
            raise ConfigError(f"{flag(one)}: {text!r} is not a whole number")
        return int(text)
    if isinstance(one.default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return Path(text) if isinstance(one.default, Path) else text


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    return ",".join(default) if isinstance(default, tuple) else str(default)


class _Parser(ArgumentParser):
    """An argument parser that raises its error, which is one line, instead of printing it."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)
