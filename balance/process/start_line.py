"""The line that names, at the start, the version, where the data are and where the documentation is."""

from __future__ import annotations

from itertools import cycle

from psycopg import conninfo, pq

import balance
from protocol.operations import DOCS


def start_line(place: str, address: str) -> str:
    """Return the line for a service whose data are at `place` and that listens on `address`."""
    return f"Balance Snapshot System {balance.__version__}: {place}; documentation at {address}{DOCS}"


def database_place(url: str) -> str:
    """Name the database and its hosts, as libpq reads the URL and its environment; never the user or the password.

    A part with an `@` is none of these: an `@` or `/` in a password that is not escaped divides a URL in wrong places.
    """
    given = {option.keyword.decode(): option.val.decode() for option in pq.Conninfo.get_defaults() if option.val}
    given |= {name: str(value) for name, value in conninfo.conninfo_to_dict(url).items()}
    hosts = (given.get("host") or given.get("hostaddr") or "the local socket").split(",")
    ports = given.get("port", "").split(",")  # one for all, or one each
    places = ", ".join(
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in zip(hosts, cycle(ports), strict=False)
    )
    place = f"database {given.get('dbname') or 'of the user'} at {places}"
    if "service" in given:
        place = f"database of the service {given['service']}"
    return "the database of DATABASE_URL" if "@" in place else place
