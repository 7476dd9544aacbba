"""The Balance Snapshot System: saves the balances that trading bots report, and sends them to all watchers.

Where to begin: `cli` has the commands, `app` builds all parts, and `service` has the operations that both transports
call. `web` and `realtime` are the transports, `feed` commits and publishes, and `storage` is PostgreSQL.
"""

__version__ = "0.1.0"
