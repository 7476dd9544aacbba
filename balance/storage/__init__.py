"""PostgreSQL: the tables, the connections, the migrations and the embedded server.

The modules: `store` (SQL on the tables), `pool` (lends connections, and aborts hung ones), `session` (one connection),
`connect` (the URL, the settings of each session, and what an error means), `startup_check`, `migrate`, `outage` (logs
an outage once), and the package `embedded`. Errors of psycopg do not leave this package, except those of rejected rows.
"""
