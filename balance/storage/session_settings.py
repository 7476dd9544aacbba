"""The settings of a session: the same, whatever the server, the database, the role or libpq set.

A setting of the database or the role (ALTER DATABASE … SET, ALTER ROLE … SET) changes neither what is stored nor what
is returned. The `options` in DATABASE_URL are the explicit choice of the operator: of these, `search_path` is kept, by
which the tables can be in another schema than `public`.

Threads: every function blocks and may be called from any.
"""

from __future__ import annotations

from typing import LiteralString, NamedTuple

from psycopg import Connection
from psycopg.rows import TupleRow

from balance.storage.connect import DatabaseError

LOCAL, REPLICATED = "local", "replicated"
TRANSACTION_TIMEOUT_VERSION = 170_000  # PostgreSQL 17 introduced the setting


# The standbys for which a commit waits. It waits for none where the server has no process to send to them.
STANDBYS: LiteralString = """CASE WHEN pg_catalog.current_setting('max_wal_senders') <> '0'
    THEN pg_catalog.current_setting('synchronous_standby_names') ELSE '' END"""


def durability(standbys: str) -> str:
    """Return what a commit means where STANDBYS are these: replicated to a standby, or local."""
    return REPLICATED if standbys else LOCAL


class SessionFacts(NamedTuple):
    """What a session is, apart from what was set in it."""

    standbys: str
    """The server's STANDBYS: empty if a commit waits for none."""
    weak_commit: str | None
    """The server's or the URL's `synchronous_commit`, if it does not wait for the disk of a standby."""

    def check_durability(self) -> None:
        """Raise DatabaseError for a server that names standbys, for which a commit would not wait."""
        if self.standbys and self.weak_commit:
            raise DatabaseError(
                f"DATABASE_URL: synchronous_commit = {self.weak_commit} does not wait for the disk of a standby, and "
                "synchronous_standby_names names one: set synchronous_commit to on"
            )


def configure_session(connection: Connection[TupleRow], *, statement_ms_max: int, local: bool = False) -> SessionFacts:
    """Set every setting that matters, for the session or (`local`) the transaction."""
    # A time limit of the role may be too short even for the statement that sets the others.
    if local:
        _remove_time_limits(connection, "SET LOCAL statement_timeout = 0", "SET LOCAL transaction_timeout = 0")
    else:
        _remove_time_limits(connection, "SET statement_timeout = 0", "SET transaction_timeout = 0")
    connection.execute(FIXED_SETTINGS, {"statement_ms_max": str(statement_ms_max), "local": local})
    (row,) = connection.execute(INHERITED_SETTINGS, {"local": local}).fetchall()
    return SessionFacts(*row[:2])


def read_backend_pid(connection: Connection[TupleRow]) -> int:
    """Return the backend's process id, and change nothing in a session that may be shared.

    All statements are one message, which is one transaction. Its time limits are removed first, since those of the role
    could end it.
    """
    if connection.info.server_version >= TRANSACTION_TIMEOUT_VERSION:
        cursor = connection.execute(
            "SET LOCAL statement_timeout = 0; SET LOCAL transaction_timeout = 0; SELECT pg_catalog.pg_backend_pid()"
        )
    else:
        cursor = connection.execute("SET LOCAL statement_timeout = 0; SELECT pg_catalog.pg_backend_pid()")
    while cursor.nextset():
        pass
    (backend,) = cursor.fetchall()[0]
    return int(backend)


def _remove_time_limits(connection: Connection[TupleRow], statement: LiteralString, transaction: LiteralString) -> None:
    connection.execute(statement)
    if connection.info.server_version >= TRANSACTION_TIMEOUT_VERSION:
        connection.execute(transaction)


# Every setting that can change a byte, an error or the time of a statement of this service or of its migrations.
# tests/integration/test_session_settings.py shows of all others that they cannot.
FIXED_SETTINGS: LiteralString = """
SELECT pg_catalog.set_config(name, value, %(local)s)
FROM (VALUES
    ('statement_timeout', %(statement_ms_max)s),
    ('lock_timeout', '0'),
    ('idle_session_timeout', '0'),
    -- a transaction whose client is lost must not keep the feed locked
    ('idle_in_transaction_session_timeout', %(statement_ms_max)s),
    -- in any other, a statement that waited for a lock would not see what was committed meanwhile
    ('default_transaction_isolation', 'read committed'),
    ('default_transaction_deferrable', 'off'),
    ('DateStyle', 'ISO, YMD'),
    ('IntervalStyle', 'postgres'),
    ('TimeZone', 'UTC'),
    ('timezone_abbreviations', 'Default'),
    ('extra_float_digits', '1'),
    ('bytea_output', 'hex'),
    ('standard_conforming_strings', 'on'),
    ('escape_string_warning', 'on'),
    ('backslash_quote', 'safe_encoding'),
    ('array_nulls', 'on'),
    ('transform_null_equals', 'off'),
    ('quote_all_identifiers', 'off'),
    ('row_security', 'on'),
    ('client_min_messages', 'warning'),
    ('exit_on_error', 'off'),
    ('check_function_bodies', 'on'),
    ('default_table_access_method', 'heap'),
    -- the compilation costs more than any of our statements
    ('jit', 'off'),
    ('debug_parallel_query', 'off'), ('force_parallel_mode', 'off'),  -- its name before PostgreSQL 16
    ('plan_cache_mode', 'auto')
) AS wanted (name, value)
WHERE pg_catalog.current_setting(name, true) IS NOT NULL
"""

# Settings whose source decides whether they are changed.
INHERITED_SETTINGS: LiteralString = f"""
SELECT {STANDBYS},
       pg_catalog.max(setting) FILTER (
           WHERE name = 'synchronous_commit' AND NOT is_inherited AND setting IN ('local', 'remote_write')),
       pg_catalog.count(pg_catalog.set_config(
           name,
           CASE name
               WHEN 'search_path' THEN 'public'
               WHEN 'default_transaction_read_only' THEN 'off'
               WHEN 'synchronous_commit' THEN CASE setting WHEN 'remote_apply' THEN setting ELSE 'on' END
               -- Every statement has an index. On a small table the planner would prefer to read all of it, and a
               -- prepared statement would keep that plan while the table grows.
               WHEN 'enable_seqscan' THEN 'off'
               ELSE boot_val  -- enable_…: any kind of plan
           END,
           %(local)s))
FROM (
    SELECT name, setting, boot_val, source,
           source IN ('global', 'database', 'user', 'database user') AS is_inherited  -- by ALTER DATABASE or ALTER ROLE
    FROM pg_catalog.pg_settings
) AS found
WHERE (name = 'search_path' AND source <> 'client')  -- given in DATABASE_URL
   -- that of the server itself is respected: it may not write now, for example because its disk is nearly full
   OR (name = 'default_transaction_read_only' AND is_inherited)
   -- Saved means on disk, and on that of a standby where the server names one. Where it names none, local and
   -- remote_write are the same as on. If it names one later, this session waits for it. Set in every session, which
   -- otherwise follows the server when its configuration is reloaded with a level that does not wait.
   OR name = 'synchronous_commit'
   OR pg_catalog.starts_with(name, 'enable_')
"""
