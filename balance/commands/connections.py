"""`connections`: show which clients are connected to the running server, those with the largest backlogs first.

It asks the server, at the address of the settings or at `--url`. The server needs the role admin for it; the token is
read from a file, since the arguments of a process are visible to every user of the machine.
"""

from __future__ import annotations

import json
import re
import ssl
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from balance.commands.command import Command, CommandError, not_empty, print_result
from balance.config import Config
from balance.process.stop_signals import StopSignals

PATH = "/api/balance/connections"
ANSWER_S_MAX = 10.0
NOT_IN_HOST = re.compile(r"[\x00-\x20\x7f]")  # http.client refuses these, and urlsplit does not
HEADINGS = ("address", "transport", "connected since", "caller", "backlog", "position")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this command."""
    own = parser.add_argument_group("connections")
    own.add_argument("--json", action="store_true", help="print what the server sends, as JSON")
    own.add_argument(
        "--limit", default="100", metavar="N", type=not_empty, help="show at most N clients, 1 to 1000 [100]"
    )
    own.add_argument("--url", type=not_empty, help="address of the server [that of --host and --port]")
    own.add_argument("--token-file", metavar="FILE", type=not_empty, help="file with a token of the role admin")


def run(config: Config, arguments: Namespace, _signals: StopSignals) -> int:
    """Print a table of the connected clients."""
    url, tls = find_server(config, arguments.url)
    found = ask(url, f"{PATH}?limit={arguments.limit}", read_token(arguments.token_file), tls)
    print_result(json.dumps(found, indent=2) if arguments.json else "\n".join(to_lines(found)))
    return 0


def find_server(config: Config, url: str | None = None) -> tuple[str, ssl.SSLContext | None]:
    """Return the address of the server, `url` or that of the settings, and how to check its certificate.

    Raises CommandError.
    """
    if url is not None:
        split_url("--url", url)
        return url, None
    if config.port == 0:
        raise CommandError("--port: must be that of a running server, which 0 is not")
    host = reachable_host(config.host)
    scheme = "https" if config.tls_cert else "http"
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{config.port}"
    split_url("--host", url, "127.0.0.1 or balance.example.com")
    return url, own_server(config.tls_cert) if config.tls_cert else None


def split_url(flag: str, url: str, example: str = "http://127.0.0.1:3000") -> SplitResult:
    """Return the parts of an HTTP address that a flag gives. Raises CommandError, whose text has no part of it."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # of the port, or of an IPv6 address
        host, port = None, None
    if not host or port == 0 or NOT_IN_HOST.search(host) or parts.scheme not in ("http", "https"):
        raise CommandError(f"{flag}: must be like {example}")
    return parts


def reachable_host(host: str) -> str:
    """Return the address of this machine under which a program of it reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def read_token(path: str | None, flag: str = "--token-file") -> str | None:
    """Return the token in the file that a flag names. Raises CommandError."""
    try:
        return Path(path).read_text(encoding="utf-8").strip() if path is not None else None
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{flag}: {path}: {getattr(error, 'strerror', None) or 'is not UTF-8'}") from error


def own_server(cert: str) -> ssl.SSLContext:
    """Return a context that trusts the server's own certificate, whose name is not that of a loopback address.

    Raises CommandError.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cert)
    except OSError as error:
        raise CommandError(f"--tls-cert: cannot read {cert}") from error
    return context


def ask(
    url: str, target: str, token: str | None, tls: ssl.SSLContext | None = None, answer_s_max: float = ANSWER_S_MAX
) -> dict[str, Any]:
    """Return the data of a response of the running server at a URL of `find_server`. Raises CommandError."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    if parts.scheme == "https":
        connection: HTTPConnection = HTTPSConnection(parts.hostname, parts.port, timeout=answer_s_max, context=tls)
    else:
        connection = HTTPConnection(parts.hostname, parts.port, timeout=answer_s_max)
    try:
        connection.request("GET", parts.path + target, headers={"Authorization": f"Bearer {token}"} if token else {})
        answer = json.loads(connection.getresponse().read())
        if not answer["success"]:
            raise CommandError(f"the server at {url} refuses: {answer['error']}")
        data: dict[str, Any] = answer["data"]
    except (OSError, HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise CommandError(f"no server answers at {url}: {reason}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise CommandError(f"the server at {url} is not this service") from error
    else:
        return data
    finally:
        connection.close()


def to_lines(found: dict[str, Any]) -> list[str]:
    """Return a table, with a line of totals under it."""
    rows = [_to_row(one) for one in found["connections"]]
    totals = ", ".join(f"{count} {name}" for name, count in found["total"].items())
    more = sum(found["total"].values()) - found["total"]["longPolls"] - len(rows)
    return [*_align([HEADINGS, *rows]), f"{totals}" + (f"; {more} of them are not shown" if more > 0 else "")]


def _to_row(one: dict[str, Any]) -> Sequence[str]:
    position = "" if one["position"] is None else f"{one['position']}, "
    if one["replaying"]:
        position += "replaying" if one["behind"] is None else f"replaying, {one['behind']} behind"
    else:
        position += "live"
    caller = f"{one['name']} ({one['role']})" if one["name"] else one["role"]
    return (one["address"], one["transport"], one["connectedSince"], caller, f"{one['backlogBytes']} bytes", position)


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


COMMAND = Command("show which clients are connected to the running server", run, "", add_arguments)
