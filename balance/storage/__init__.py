"""PostgreSQL: the tables, the connections, the migrations and the embedded server.

The modules: `store` and `append` (SQL on the tables), `feed_store` (reads of the feed), `epochs`, `server_probe` (which
history a server has), `pool` (lends connections, and aborts hung ones), `database_session` (one connection),
`session_settings`, `connect` (the URL, and what an error means), `startup_check`, `migrate`, `outage` (logs an outage
once), and the package `embedded`. Errors of psycopg do not leave this package, except those of rejected rows.
"""
