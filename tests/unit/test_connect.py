"""What a connection to PostgreSQL is opened with; no test connects to a server."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict

from balance.storage.connect import DatabaseError, keep_only_credentials, to_conninfo
from balance.storage.migrate import SchemaError, migrate

NO_URL = r"^DATABASE_URL: is not a PostgreSQL URL such as postgresql://user@host/database$"


# The URL -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["postgresql://bot@db.example/balance?connect_timeout=600", "host=db.example user=bot dbname=balance"]
)
def test_a_url_is_completed_so_that_a_dead_peer_is_noticed_after_seconds(url: str) -> None:
    options = conninfo_to_dict(to_conninfo(url))
    assert options.pop("host") == "db.example"
    assert options.pop("user") == "bot"
    assert options.pop("dbname") == "balance"
    assert {name: str(value) for name, value in options.items()} == {
        "application_name": "balance",
        "client_encoding": "UTF8",
        "connect_timeout": "3",
        "keepalives_count": "2",
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "tcp_user_timeout": "15000",
    }


def test_options_and_encryption_of_a_url_are_kept() -> None:
    options = conninfo_to_dict(to_conninfo("postgresql://db.example/?options=-csearch_path%3Dapp&sslmode=verify-full"))
    assert (options["options"], options["sslmode"]) == ("-csearch_path=app", "verify-full")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://bot:Pass@Longtail@127.0.0.1/balance",
        "postgresql://bot:Pass/Longtail@127.0.0.1/balance",
        "postgresql://bot:Pass/Long@tail@127.0.0.1/balance",
        "postgresql://bot:Pass?Longtail@127.0.0.1/balance",
        "postgresql://bot:Pass?Long=tail@127.0.0.1/balance",
        "postgresql://bot:Pass#Longtail/@127.0.0.1/balance",
        "postgresql://bot:Pass%Longtail@127.0.0.1/balance",
        "postgres://bot:Longtail",
        "postgresql://bot:Longtail/balance",
        "postgresql://bot@corp:Longtail@127.0.0.1/balance",
        "host=127.0.0.1 password=Pass Longtail",
    ],
)
def test_an_error_about_an_unescaped_url_has_no_part_of_the_password(url: str) -> None:
    for call in (to_conninfo, migrate):
        with pytest.raises((DatabaseError, SchemaError)) as caught:
            call(url)
        error: BaseException | None = caught.value
        assert "DATABASE_URL" in str(error)
        for part in ("Pass", "Long", "tail"):
            assert part not in str(error)


@pytest.mark.parametrize("host", ["h" * 64, "database..example", ".example", "bücher..example"])
def test_an_invalid_host_is_refused_in_one_line(host: str) -> None:
    for url in (f"postgresql://bot:Longtail@{host}/balance", f"host=127.0.0.1,{host} password=Longtail"):
        with pytest.raises(DatabaseError, match=r"^DATABASE_URL: names a host that cannot have an address$"):
            to_conninfo(url)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql:///balance?host=/{'long' * 20}",
        "postgresql://bot:Pass%40word%2F%3F@127.0.0.1,[::1]:5433,db.example:5434/balance?connect_timeout=1",
        "postgresql://bot@/balance?host=%2Frun%2Fpostgresql&password=a@b",
        "postgresql:///balance",
        "host=/run/postgresql password='a@b/c'",
        "postgresql://[::1]/balance",
        "postgresql://bot:a:b@127.0.0.1:5432",
    ],
)
def test_an_escaped_url_is_accepted(url: str) -> None:
    assert "client_encoding=UTF8" in to_conninfo(url)


def test_an_invalid_url_is_refused_with_an_example() -> None:
    for url in ("postgresql://bot@db.example/balance?nonsense=1", "no url", "http://bot@h/d@e"):
        with pytest.raises(DatabaseError, match=NO_URL) as caught:
            to_conninfo(url)
        assert caught.value.__suppress_context__, "libpq quotes the URL"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
@pytest.mark.parametrize(
    "rest",
    [
        "bot:Pass@Longtail@h/d",
        "bot@h/d@e",
        "bot:54/Longtail@h/d",
        "bot:Pass://Longtail@h/d",
        "bot@h:54x/d",
        "bot@h:5432,i:x/d",
        "bot@[::1]:x/d",
        "a:b/d",
    ],
)
def test_a_url_that_libpq_would_read_otherwise_is_refused_with_advice(scheme: str, rest: str) -> None:
    with pytest.raises(DatabaseError) as caught:
        to_conninfo(f"{scheme}://{rest}")
    assert str(caught.value) == (
        "DATABASE_URL: cannot be read: write @ as %40, / as %2F and ? as %3F in its user and password, "
        "and the port in digits"
    )


# The environment ---------------------------------------------------------------------------------------------


def test_variables_of_libpq_with_credentials_are_kept() -> None:
    environment = {"PGPASSWORD": "secret", "PGSSLMODE": "verify-full", "PGHOST": "elsewhere", "PATH": "/bin"}
    keep_only_credentials(environment)
    assert set(environment) == {"PGPASSWORD", "PGSSLMODE", "PATH"}
