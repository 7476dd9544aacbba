"""No setting of a database or a role changes a byte of what is saved and returned.

Each case sets one setting by ALTER DATABASE, opens the store again, saves, sends again, lists and finds. At the end all
rows are read with the defaults: rows written under any setting read the same.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import protocol
from balance.storage.migrate import migrate
from balance.storage.pool import Pool
from balance.storage.session_settings import configure_session
from balance.storage.store import Store
from tests.support.payloads import snapshot
from tests.support.service import Database, MakeService

# Values of strings, which have no range in the catalogue, and further unusual values.
ODD = {
    "DateStyle": ["German", "SQL, DMY", "Postgres, YMD"],
    "TimeZone": ["Asia/Kathmandu", "America/New_York"],
    "client_encoding": ["LATIN1", "SQL_ASCII", "EUC_JP"],
    "search_path": ["nowhere", "", "$user", "pg_catalog", "decoy, public"],
    "timezone_abbreviations": ["Australia", "India"],
    "application_name": ["x"],
    "default_text_search_config": ["pg_catalog.simple"],
    "createrole_self_grant": ["set"],
    "restrict_nonsystem_relation_kind": ["view, foreign-table"],
    "backtrace_functions": ["errstart"],
    "wal_consistency_checking": ["all"],
    "lc_messages": ["C.UTF-8"],
    "lc_monetary": ["C.UTF-8"],
    "lc_numeric": ["C.UTF-8"],
    "lc_time": ["C.UTF-8"],
    "statement_timeout": ["10ms"],
    "lock_timeout": ["1ms"],
    "idle_session_timeout": ["100ms"],
    "idle_in_transaction_session_timeout": ["1ms"],
    "transaction_timeout": ["10ms"],
    "role": ["none"],
}
# Makes the server wait before each start of a session.
NO_CASE = ("post_auth_delay",)
CHOSEN = (
    "DateStyle", "TimeZone", "client_encoding", "extra_float_digits", "search_path", "standard_conforming_strings",
    "default_transaction_read_only", "default_transaction_isolation", "statement_timeout", "lock_timeout",
    "idle_session_timeout", "transaction_timeout", "session_replication_role", "row_security", "exit_on_error",
)  # fmt: skip

# What a session has after `configure_session`, and what the database has before.
CONFIGURED = {
    "statement_timeout": ("4s", "7s"), "lock_timeout": ("0", "7s"), "idle_session_timeout": ("0", "7s"),
    "idle_in_transaction_session_timeout": ("4s", "7s"), "transaction_timeout": ("0", "7s"),
    "default_transaction_isolation": ("read committed", "serializable"), "default_transaction_read_only": ("off", "on"),
    "default_transaction_deferrable": ("off", "on"), "synchronous_commit": ("on", "off"),
    "DateStyle": ("ISO, YMD", "German, DMY"), "IntervalStyle": ("postgres", "iso_8601"),
    "TimeZone": ("UTC", "Asia/Kathmandu"), "timezone_abbreviations": ("Default", "India"),
    "extra_float_digits": ("1", "-15"), "bytea_output": ("hex", "escape"), "search_path": ("public", "nowhere"),
    "standard_conforming_strings": ("on", "off"), "escape_string_warning": ("on", "off"),
    "backslash_quote": ("safe_encoding", "on"), "array_nulls": ("on", "off"), "transform_null_equals": ("off", "on"),
    "quote_all_identifiers": ("off", "on"), "row_security": ("on", "off"), "client_min_messages": ("warning", "log"),
    "exit_on_error": ("off", "on"), "check_function_bodies": ("on", "off"),
    "default_table_access_method": ("heap", "other"), "jit": ("off", "on"), "debug_parallel_query": ("off", "on"),
    "plan_cache_mode": ("auto", "force_custom_plan"), "enable_seqscan": ("off", "on"),
    "enable_indexscan": ("on", "off"), "enable_sort": ("on", "off"),
}  # fmt: skip


class ConfiguredDatabase:
    """A database with settings of its own, and what was read from it with the defaults."""

    def __init__(self, database: Database) -> None:
        self.url = database.url
        self.name = sql.Identifier(str(conninfo_to_dict(database.url)["dbname"]))
        self.shown: dict[int, bytes] = {}
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("CREATE SCHEMA decoy")
            connection.execute("CREATE TABLE decoy.balance_feed AS TABLE balance_feed")
            connection.execute("CREATE TABLE decoy.balance_snapshot AS TABLE balance_snapshot")
        self.first = snapshot()
        with self.opened() as store:
            store.append([self.first])
            self.shown = {entry.seq: bytes(entry.json) for entry in store.page(limit=1)}
            self.found = found(store, self.first.id)
        assert b'"onchain": ' not in self.shown[1]

    @contextmanager
    def opened(self) -> Iterator[Store]:
        store = Store(Pool(self.url, pool_max=2, pool_wait_ms_max=5000, statement_ms_max=5000))
        try:
            store.open()
            yield store
        finally:
            store.close()

    def cases(self, names: tuple[str, ...] | None) -> Iterator[tuple[str, str]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            settings = connection.execute(
                "SELECT name, vartype, setting, enumvals, min_val, max_val FROM pg_settings "
                "WHERE context IN ('user', 'superuser', 'backend', 'superuser-backend') OR name = 'role'"
            ).fetchall()
        for name, kind, value, enum, low, high in settings:
            if name in NO_CASE or (names is not None and name not in names):
                continue
            values = {"bool": ["off" if value == "on" else "on"], "enum": enum or [], "string": []}.get(
                kind, [low, high]
            )
            yield from ((name, one) for one in (*values, *ODD.get(name, [])) if one != value)

    def try_with(self, name: str, value: str) -> str | None:
        """Save and read with one setting; return what went wrong."""
        try:
            self.set(name, value)
        except psycopg.Error:  # the machine does not have this value
            return None
        one = snapshot()
        try:
            with self.opened() as store:
                stored = store.append([one]).saved[0].snapshot
                (again,) = store.append([self.first]).saved
                page = {entry.seq: bytes(entry.json) for entry in store.page(limit=1000)}
                assert found(store, self.first.id) == self.found
                assert again.duplicate
                assert self.shown.items() <= page.items()
                self.shown[stored.seq] = page[stored.seq]
        except Exception as error:
            return f"{name} = {value}: {type(error).__name__} {error}"
        finally:
            self.set(name, None)
        return None

    def set(self, name: str, value: str | None) -> None:
        """Set a setting of the database; None: remove all of them."""
        # One form for all values: a list such as that of search_path must not be quoted as one name.
        words = sql.SQL(", ").join(sql.Literal(part.strip()) for part in (value or "").split(",")) if value else None
        to = sql.SQL("SET {} = {}").format(sql.Identifier(name), words or sql.Literal(""))
        what = sql.SQL("RESET ALL") if value is None else to  # RESET alone refuses some settings that SET accepts
        with psycopg.connect(self.url, dbname="postgres", autocommit=True) as connection:
            connection.execute(sql.SQL("ALTER DATABASE {} {}").format(self.name, what))

    def check_all(self, names: tuple[str, ...] | None) -> None:
        cases = list(self.cases(names))
        wrong = [problem for name, value in cases if (problem := self.try_with(name, value))]
        assert not wrong, "\n".join(wrong)
        assert len(cases) >= 30
        with self.opened() as store:
            assert {entry.seq: bytes(entry.json) for entry in store.page(limit=1000)} == self.shown


def found(store: Store, id_: str) -> bytes:
    one = store.find(id_)
    assert one is not None
    return protocol.encode(one.to_wire())


@pytest.fixture
def configured(database: Database) -> ConfiguredDatabase:
    return ConfiguredDatabase(database)


def test_no_setting_of_the_database_that_could_matter_changes_a_byte(configured: ConfiguredDatabase) -> None:
    configured.check_all(CHOSEN)


def test_a_session_has_the_same_settings_whatever_the_database_has(configured: ConfiguredDatabase) -> None:
    with psycopg.connect(configured.url, autocommit=True) as admin:
        admin.execute("CREATE ACCESS METHOD other TYPE TABLE HANDLER heap_tableam_handler")
        known = {name for (name,) in admin.execute("SELECT name FROM pg_settings").fetchall()} & CONFIGURED.keys()
    for name in known:
        configured.set(name, CONFIGURED[name][1])
    with psycopg.connect(configured.url, autocommit=True) as session:

        def shown() -> dict[str, str]:
            rows = session.execute(
                "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY (%s)", [[*known]]
            )
            return dict(rows.fetchall())

        assert shown() == {name: CONFIGURED[name][1] for name in known}
        configure_session(session, statement_ms_max=4000)
        assert shown() == {name: CONFIGURED[name][0] for name in known}


def test_a_level_that_all_roles_or_one_role_have_is_not_that_of_the_server(database: Database) -> None:
    role = f"weak_{uuid.uuid4().hex}"
    with psycopg.connect(database.url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN".encode())
        try:
            for owner in ("ALL", role):
                admin.execute(f"ALTER ROLE {owner} SET synchronous_commit = local".encode())
                with psycopg.connect(make_conninfo(database.url, user=role), autocommit=True) as session:
                    assert session.execute("SHOW synchronous_commit").fetchone() == ("local",)
                    assert configure_session(session, statement_ms_max=4000).weak_commit is None
                admin.execute(f"ALTER ROLE {owner} RESET synchronous_commit".encode())
        finally:
            admin.execute("ALTER ROLE ALL RESET synchronous_commit")
            admin.execute(f"DROP ROLE {role}".encode())


@pytest.mark.parametrize("level", ["off", "local", "remote_write", "on", "remote_apply"])
def test_a_level_of_the_url_is_weak_if_it_waits_only_for_part_of_what_it_names(database: Database, level: str) -> None:
    """`off` is no such level: a session that has it is raised, as that of a server without standbys is."""
    with psycopg.connect(database.url, options=f"-c synchronous_commit={level}", autocommit=True) as session:
        weak = configure_session(session, statement_ms_max=4000).weak_commit
        assert weak == (level if level in ("local", "remote_write") else None)
        shown = "remote_apply" if level == "remote_apply" else "on"
        assert session.execute("SHOW synchronous_commit").fetchone() == (shown,)


def test_a_session_that_neither_the_database_nor_the_role_made_read_only_stays_so(database: Database) -> None:
    """A server may be read-only for a time, for example because its disk is nearly full."""
    with psycopg.connect(database.url, options="-c default_transaction_read_only=on", autocommit=True) as session:
        configure_session(session, statement_ms_max=4000)
        assert session.execute("SHOW default_transaction_read_only").fetchone() == ("on",)


@pytest.mark.slow
def test_no_setting_at_all_of_the_database_changes_a_byte(configured: ConfiguredDatabase) -> None:
    configured.check_all(None)


async def test_a_german_date_style_of_the_role_changes_no_answer(
    postgres: str, database: Database, make_service: MakeService
) -> None:
    role = f"german_{uuid.uuid4().hex}"
    update: dict[str, Any] = {
        "ts": "2025-11-07T00:45:08.603Z",
        "onchain": {"rlb": 1, "usdt": 2},
        "onsite": {"rlb": 3, "usd": 4},
    }
    default = await make_service()
    assert (await default.post(update)).status == 201
    expected = (await default.get()).raw
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN SUPERUSER".encode())
        for setting in ("datestyle = 'German'", "timezone = 'Europe/Berlin'", "synchronous_commit = 'local'"):
            admin.execute(f"ALTER ROLE {role} SET {setting}".encode())
        try:
            german = await make_service(database_url=make_conninfo(database.url, user=role))
            assert (await german.get()).raw == expected
            with german.app.database.store._pool.connection() as connection:
                assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
            await german.stop()
        finally:
            admin.execute(f"DROP ROLE {role}".encode())


def test_a_migration_makes_the_same_tables_under_any_setting(postgres: str, database: Database) -> None:
    name = f"balance_odd_{uuid.uuid4().hex}"
    url = make_conninfo(postgres, dbname=name)
    odd = (
        "search_path = decoy", "default_transaction_read_only = on", "default_transaction_isolation = serializable",
        "client_encoding = latin1", "statement_timeout = 10", "lock_timeout = 1", "standard_conforming_strings = off",
        "check_function_bodies = off", "quote_all_identifiers = on", "transform_null_equals = on", "datestyle = German",
        "array_nulls = off", "exit_on_error = on", "client_min_messages = debug5",
    )  # fmt: skip
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0".encode())
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("CREATE SCHEMA decoy")
            for setting in odd:
                admin.execute(f"ALTER DATABASE {name} SET {setting}".encode())
            assert migrate(url)
            assert migrate(url) == []
            admin.execute(f"ALTER DATABASE {name} RESET ALL".encode())
            assert made(url) == made(database.url)
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def made(url: str) -> list[tuple[Any, ...]]:
    """Return what the migrations have made: constraints and functions as PostgreSQL writes them, and columns."""
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(
            """
            SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
            WHERE connamespace = 'public'::regnamespace
            UNION ALL
            SELECT proname, '', pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
            UNION ALL
            SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod)
            FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
            WHERE relnamespace = 'public'::regnamespace AND attnum > 0
            ORDER BY 1, 2, 3
            """
        ).fetchall()


@pytest.mark.parametrize("schema", ["app", "My Schema"])
def test_tables_of_another_schema_are_used_where_the_url_names_it(postgres: str, schema: str) -> None:
    name = f"balance_schema_{uuid.uuid4().hex}"
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0".encode())
        try:
            quoted = f'"{schema}"'
            path = quoted.replace(" ", "\\ ")
            url = make_conninfo(postgres, dbname=name, options=f"-c search_path={path}")
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(f"CREATE SCHEMA {quoted}".encode())
            migrate(url)
            store = Store(Pool(url, pool_max=2, pool_wait_ms_max=1000, statement_ms_max=5000))
            store.open()
            store.append([snapshot()])
            store.close()
            with psycopg.connect(url, autocommit=True) as connection:
                assert connection.execute(f"SELECT count(*) FROM {quoted}.balance_snapshot".encode()).fetchone() == (1,)
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
