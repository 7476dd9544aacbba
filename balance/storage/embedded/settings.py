"""The settings of the embedded PostgreSQL: on its command line, so that no file and no ALTER SYSTEM overrides them.

All others in postgresql.conf and postgresql.auto.conf are the operator's: memory, connections, checkpoints. A setting
of a role or a database overrides these; the service sets those that matter to it in each of its sessions.
"""

from __future__ import annotations

SOCKET_NAME = ".s.PGSQL.5432"

SETTINGS = {
    # "Saved" means on disk. These are defaults of PostgreSQL, and the promises of the service depend on them.
    "fsync": "on",
    "full_page_writes": "on",  # a page torn by a loss of power is repaired
    "synchronous_commit": "on",  # COMMIT returns after the flush
    "zero_damaged_pages": "off",  # damage is an error, never rows that are gone
    "ignore_checksum_failure": "off",
    "data_sync_retry": "off",  # a failed flush may have dropped the data that it had to write
    "restart_after_crash": "on",
    "synchronous_standby_names": "",  # no commit waits for a standby that does not exist
    "default_transaction_read_only": "off",
    "listen_addresses": "",  # no TCP: the permissions of the socket's folder decide which user may connect
    "port": "5432",  # part of the socket's name
    "timezone": "UTC",
    "log_timezone": "UTC",
    "cluster_name": "balance",  # its name in `ps`
    # The log is the descriptor that the server inherits, whose file is limited in size (see `server_log`).
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_checkpoints": "off",  # a line every five minutes on which no operator has to act
    # Balances are private: no statement, parameter or row is logged, whatever fails or lasts long.
    "log_statement": "none",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",  # without DETAIL and CONTEXT, which quote rows
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_min_duration_statement": "-1",
    "log_min_duration_sample": "-1",
    "log_transaction_sample_rate": "0",
    "debug_print_parse": "off",
    "debug_print_rewritten": "off",
    "debug_print_plan": "off",
    "shared_preload_libraries": "",  # auto_explain and others log statements
    "session_preload_libraries": "",
    "local_preload_libraries": "",
}
