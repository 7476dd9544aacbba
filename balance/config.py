"""The settings of one server: read and checked once at the start, then immutable.

Each field is a flag (`--port`), an environment variable (`BALANCE_PORT`; the database is `DATABASE_URL`) and a name in
the file of `--config` (`port`). The flag overrides the variable, and that overrides the file. A name that ends in
`_max` is a limit. A number of milliseconds, seconds or bytes has its unit at the end of its name or before `_max`:
`_ms`, `_s` or `_bytes`; a rate has `_per_s` there.
`Config.read` raises ConfigError before anything is opened; its text is one line with the setting and the reason.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from balance import program
from balance.config_sources import Given, Settings, SourceError, merge, nearest, read_file, read_variables
from balance.host_names import (
    PublicUrl,
    is_loopback,
    normalise_address,
    normalise_host,
    normalise_origin,
    parse_public_url,
)
from balance.keep_time import parse_keep
from balance.setting import ConfigError, check_value, flag, parse, setting, to_help, variable
from protocol.limits import DEFAULT

DEFAULT_SOURCE = "default"
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")


class _WithSources:
    """What a Config has beside its settings; a dataclass would count it among them."""

    __slots__ = ("sources",)
    sources: Mapping[str, str]
    """Where each setting comes from, as texts such as `flag --port`, `variable BALANCE_PORT` or `default`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(_WithSources):
    """All settings of the service, with their defaults."""

    config: str = setting("", "file with settings, as TOML: port = 3000")
    host: str = setting("127.0.0.1", "address to listen on")
    port: int = setting(3000, "TCP port to listen on; 0 for any free one", 0, 65535)
    database_url: str = setting(
        "", "PostgreSQL 14 or newer, as postgresql://…; without it the embedded one starts", repr=False
    )
    database_url_file: str = setting("", "file with that URL, so that no list of processes shows its password")
    data_dir: Path = setting(Path("data"), "folder of the embedded PostgreSQL")
    keep: str = setting("", "time for which snapshots are kept, such as 90d (h, d, w); without it, for ever")
    hosts: tuple[str, ...] = setting(
        (), "host names of the service, beside those that nobody can register: comma-separated, or *"
    )
    cors_origins: tuple[str, ...] = setting((), "origins of web pages that may call: comma-separated, or *")
    trusted_proxies: tuple[str, ...] = setting((), "addresses of proxies whose X-Forwarded-For is trusted")
    public_url: str = setting("", "address of the service as clients see it: https://balance.example.com/prefix")
    tls_cert: str = setting("", "file with the certificate and its chain, PEM; with it the service speaks TLS")
    tls_key: str = setting("", "file with the private key of the certificate, PEM")
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
    accepts_per_s_max: int = setting(
        0, "new connections a second of one address; ten times as many at once, closed over it; 0: any", 0, 1_000_000
    )
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
        64, "concurrent reads, of one address at most as many as stay free; over it `busy`", 1, 10_000
    )
    read_ms_max: int = setting(5_000, "time to answer a read; after it `unavailable`", 100, 600_000)
    pool_max: int = setting(
        8,
        "connections to the database: to save, to follow the feed, two to replay it, one for series, others to read",
        6,
        100,
    )
    pool_wait_ms_max: int = setting(1_000, "time to wait for a connection to the database", 10, 60_000)
    statement_ms_max: int = setting(4_000, "time of one SQL statement", 10, 600_000)
    ping_interval_s: int = setting(DEFAULT.ping_interval_s, "time between heartbeats to a Socket.IO client", 1, 3_600)
    ping_timeout_s: int = setting(DEFAULT.ping_timeout_s, "time to wait for the answer to a heartbeat", 1, 3_600)
    connect_ms_max: int = setting(10_000, "time from the handshake to the Socket.IO CONNECT", 100, 600_000)
    shutdown_delay_ms: int = setting(
        0, "time at a stop in which /readyz is 503 and everything is still served, for a balancer to notice", 0, 600_000
    )
    shutdown_ms_max: int = setting(8_000, "time to answer the requests in flight at a stop", 0, 600_000)
    log_level: str = setting("info", "least level of what is logged", choices=LOG_LEVELS)
    log_format: str = setting("text", "form of the log, for a person or as JSON", choices=LOG_FORMATS)
    log_requests_per_s: int = setting(
        10, "requests with a line in the log, each second: half of them only for failed and slow ones; 0 for none",
        0, 10_000,
    )  # fmt: skip

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", {one.name: DEFAULT_SOURCE for one in fields(self)})
        for one in fields(self):
            check_value(one, getattr(self, one.name))
        self._normalise("hosts", normalise_host)
        self._normalise("cors_origins", normalise_origin)
        self._normalise("trusted_proxies", normalise_address)
        self._normalise("public_url", parse_public_url)
        self._normalise("keep", lambda text: parse_keep(text) and text)
        if not self.host:
            raise ConfigError("--host: must not be empty", "host")
        if self.host.startswith("["):
            raise ConfigError(f"--host: {self.host!r} has brackets: write the IPv6 address without them", "host")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ConfigError("--tls-cert, --tls-key: one is given without the other", "tls_cert")
        self._check_jwks()

    def _check_jwks(self) -> None:
        if self.jwks and not (self.jwt_issuer and self.jwt_audience):
            raise ConfigError(
                "--jwks: needs --jwt-issuer and --jwt-audience, or it would accept others' tokens", "jwks"
            )
        if self.jwks.startswith("http://") and not is_loopback(urlsplit(self.jwks).hostname or ""):
            raise ConfigError("--jwks: must be a file or https://: over http:// anyone could replace the keys", "jwks")

    @property
    def keep_time(self) -> timedelta | None:
        """For how long snapshots are kept; None for ever."""
        return parse_keep(self.keep) if self.keep else None

    @property
    def logs_requests(self) -> bool:
        """Whether the level of the log has the requests in it."""
        return self.log_level in ("debug", "info")

    def _normalise(self, name: str, normal: Callable[[str], object]) -> None:
        """Convert each text of a setting to the form that is compared. Raises ConfigError if one could never match."""

        def convert(text: str) -> str:
            try:
                return str(normal(text))
            except ValueError as error:
                raise ConfigError(f"--{name.replace('_', '-')}: {text!r} {error}", name) from error

        value = getattr(self, name)
        converted = tuple(map(convert, value)) if isinstance(value, tuple) else value and convert(value)
        object.__setattr__(self, name, converted)

    @property
    def public(self) -> PublicUrl | None:
        """The setting `--public-url`, in its parts."""
        return parse_public_url(self.public_url) if self.public_url else None

    @classmethod
    def read(cls, argv: Sequence[str], env: Mapping[str, str]) -> Config:
        """Read the settings from flags, the environment and the file that these name.

        Raises ConfigError for a name that is not a setting and for an invalid value.
        """
        return cls.of(settings_parser(program.NAME).parse_args(argv), env)

    @classmethod
    def of(cls, arguments: Namespace, env: Mapping[str, str]) -> Config:
        """Read the settings from what a `settings_parser` has parsed, the environment and the file of `--config`.

        The first of flag, variable and file counts. Raises ConfigError.
        """
        flags = {name: text for name, text in vars(arguments).items() if text is not None}
        given = cls._merge(flags, env)
        try:
            config = cls(**{one.name: parse(one, given[one.name].text) for one in fields(cls) if one.name in given})
        except ConfigError as error:
            source = given[error.name].source if error.name in given else ""
            is_known = source and not source.startswith("flag")  # the text has the flag already
            raise ConfigError(f"{error} ({source})" if is_known else str(error)) from error
        sources = {name: one.source for name, one in given.items()}
        object.__setattr__(config, "sources", {**config.sources, **sources})
        return config

    @classmethod
    def _merge(cls, flags: Mapping[str, str], env: Mapping[str, str]) -> Settings:
        """Return each setting that is given. Raises ConfigError."""
        settings = {one.name: one for one in fields(cls)}
        for name, text in flags.items():
            if name in settings and not text:  # "$UNSET" must not mean no TLS, no keys or another database
                raise ConfigError(f"{flag(settings[name])}: must not be empty; leave it out for its default", name)
        by_flag = {name: Given(flags[name], f"flag {flag(one)}") for name, one in settings.items() if name in flags}
        try:
            by_variable = read_variables({variable(one): name for name, one in settings.items()}, env)
            path = (by_flag.get("config") or by_variable.get("config") or Given("", "")).text
            by_file = read_file(path, settings.keys() - {"config"}) if path else {}
            return merge(by_file, by_variable, by_flag)
        except SourceError as error:
            raise ConfigError(str(error)) from error


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
        settings.add_argument(flag(one), dest=one.name, help=to_help(one), **switch)
    return parser


class _Parser(ArgumentParser):
    """An argument parser that raises its error, which is one line, instead of printing it."""

    def error(self, message: str) -> NoReturn:
        if unknown := re.search("unrecognized arguments: (--[a-z-]+)", message):
            message += nearest(unknown[1], [flag(one) for one in fields(Config)])
        raise ConfigError(message)
