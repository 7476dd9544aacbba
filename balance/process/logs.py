"""The form of the log, for a person or for a program, and its setup.

No line has a secret: what looks like a token, a password in a URL or the row of a database error is replaced before a
line is written, whatever has logged it. This is the last line of defence; nothing logs these on purpose.

docs/logs.md has the fields of the JSON form, which are stable.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Self

from balance.process.log_limit import LimitedHandler
from balance.process.log_writer import LogWriter
from balance.request_log import SAMPLED

TEXT, JSON = "text", "json"

# Tokens of this service, JSON Web Tokens (RFC 7519), credentials of HTTP (RFC 9110, section 11.4), tickets, and
# passwords in a URL (RFC 3986, section 3.2.1) or in libpq's other form.
_SECRETS = re.compile(
    r"(?P<token>\bbal_[a-z]+_)[0-9A-Za-z_]+"
    r"|(?P<jwt>\beyJ)[0-9A-Za-z_-]+(?:\.[0-9A-Za-z_-]*)*"
    r"|(?P<scheme>\b(?:Bearer|Basic)\s+)[^\s\"',]+"
    r"|(?P<ticket>\bticket=)[^\s&\"']+"
    r"|(?P<user>://[^\s:/@]{0,200}:)[^\s/]{1,200}@"
    r"|(?P<name>\bpassword=)(?:'[^']*'|\S+)",
    re.IGNORECASE,
)
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def redact(text: str) -> str:
    """Return a text without secrets and without control characters, which could forge a line or change a terminal."""
    text = _SECRETS.sub(lambda found: f"{found[found.lastgroup or 0]}…" + ("@" * (found.lastgroup == "user")), text)
    return _UNPRINTABLE.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


class TextFormatter(logging.Formatter):
    """Lines for a person: the time, then what has happened; a request needs no level and no logger."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, and those of a traceback."""
        origin = "" if hasattr(record, SAMPLED) else f"{record.levelname} {record.name}: "
        text = f"{self.formatTime(record)} {origin}{record.getMessage()}"
        return redact(f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text)

    def formatException(self, ei: Any) -> str:
        """Return a traceback in which each error has one line."""
        return _without_details(super().formatException(ei))


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:23] + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        if record.exc_info:
            fields["exception"] = redact(_without_details(self.formatException(record.exc_info)))
        more: Mapping[str, Any] = getattr(record, SAMPLED, {})
        fields |= {name: redact(one) if isinstance(one, str) else one for name, one in more.items() if one != ""}
        if fields.get("status") == 0:  # of something that is not a request of HTTP
            del fields["status"]
        return json.dumps(fields, ensure_ascii=False)


def _without_details(traceback: str) -> str:
    """Shorten each error of a traceback to its first line: PostgreSQL's others have the row, which is a balance."""
    kept: list[str] = []
    is_message = False  # whether the line before is the first one of an error
    for line in traceback.split("\n"):
        is_frame = line[:1] in ("", " ") or line.startswith(("Traceback", "The above", "During handling"))
        if is_frame or not is_message:
            kept.append(line)
        is_message = not is_frame
    return "\n".join(kept)


class Logs:
    """The log of this process: to stderr, within a block. Other handlers of the root are left alone."""

    def __init__(self, level: str, form: str) -> None:
        """Log from `level` on (`debug`, `info`, `warning` or `error`) as TEXT or JSON."""
        self._level = logging.getLevelNamesMapping()[level.upper()]
        self._formatter = JsonFormatter() if form == JSON else TextFormatter()
        self._writer: LogWriter | None = None
        self._handler: LimitedHandler | None = None
        self._levels: dict[logging.Logger, int] = {}  # before the block

    def __enter__(self) -> Self:
        """Write records from now on. Libraries log from WARNING on, since at INFO they log payloads."""
        service_log = logging.getLogger("balance")
        self._levels = {one: one.level for one in (service_log, logging.root)}
        service_log.setLevel(self._level)
        if logging.root.handlers:  # of a program that has set up its own
            return self
        logging.root.setLevel(max(self._level, logging.WARNING))
        self._writer = LogWriter(sys.stderr)
        self._handler = LimitedHandler(self._writer)
        self._handler.setFormatter(self._formatter)
        logging.root.addHandler(self._handler)
        return self

    def __exit__(self, *_: object) -> None:
        """Write what was withheld, and what waits for the reader of stderr, for a limited time."""
        if self._handler is not None and self._writer is not None:
            logging.root.removeHandler(self._handler)
            self._handler.close()
            self._writer.close()
        for log, level in self._levels.items():
            log.setLevel(level)
