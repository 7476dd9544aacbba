"""What PostgreSQL is started with: on the command line, where no file and no ALTER SYSTEM overrides it.

The rest of postgresql.conf and postgresql.auto.conf is the operator's: memory, connections, checkpoints. A setting of a
role or a database beats these; the service sets what matters to it in each of its sessions.
"""

from __future__ import annotations

SOCKET_NAME = ".s.PGSQL.5432"

SETTINGS = {
    # "Saved" means on the disk: these are the defaults, and what the service promises rests on them.
    "fsync": "on",
    "full_page_writes": "on",  # a page torn by a loss of power is repaired
    "synchronous_commit": "on",  # COMMIT returns after the flush
    "zero_damaged_pages": "off",  # damage is an error, never rows that are gone
    "ignore_checksum_failure": "off",
    "data_sync_retry": "off",  # a flush that failed may have dropped what it was to write
    "restart_after_crash": "on",
    "synchronous_standby_names": "",  # no commit waits for a standby that does not exist
    "default_transaction_read_only": "off",
    "listen_addresses": "",  # no TCP: the folder of the socket decides who comes in
    "port": "5432",  # part of the socket's name
    "timezone": "UTC",
    "log_timezone": "UTC",
    "cluster_name": "balance",  # how `ps` names it
    # The log is the descriptor that we bound in size (see `server_log`).
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_checkpoints": "off",  # a line every five minutes that asks nothing of the operator
    # Balances are private: no statement, no parameter and no row stands in the log, whatever fails or takes long.
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
