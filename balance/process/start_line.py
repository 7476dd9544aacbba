"""The line printed at the start: the version, the location of the data and the address of the documentation."""

from __future__ import annotations

from itertools import cycle

from psycopg import conninfo, pq

import balance
from protocol.operations import DOCS


def start_line(location: str, base_url: str) -> str:
    """Return the line for a service with its data at `location`, which serves at `base_url`."""
    return f"Balance Snapshot System {balance.__version__}: {location}; documentation at {base_url}{DOCS}"


def database_location(url: str) -> str:
    """Return the name of the database and its hosts, as libpq reads the URL and its environment; no user, no password.

    A part with an `@` is withheld: an unescaped `@` or `/` in a password splits the URL wrongly, so that the part may
    belong to the password.
    """
    options = {option.keyword.decode(): option.val.decode() for option in pq.Conninfo.get_defaults() if option.val}
    options |= {name: str(value) for name, value in conninfo.conninfo_to_dict(url).items()}
    hosts = (options.get("host") or options.get("hostaddr") or "the local socket").split(",")
    ports = options.get("port", "").split(",")  # one for all hosts, or one for each
    addresses = ", ".join(
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in zip(hosts, cycle(ports), strict=False)
    )
    location = f"database {options.get('dbname') or 'of the user'} at {addresses}"
    if "service" in options:
        location = f"database of the service {options['service']}"
    return "the database of DATABASE_URL" if "@" in location else location
