"""Entry point of the process, for `balance-server` and for `python server.py`.

Importing the service takes most of the start. So the first signal handlers are set before anything heavy is imported.
"""

from __future__ import annotations

import sys

from balance.process.stop_signals import exit_on_signals, ignore_signals


def main() -> int:
    """Run the command that the arguments of the process name; return the exit status."""
    exit_on_signals(status=1 if sys.argv[1:2] == ["migrate"] else 0)
    from balance import cli

    exit_status = cli.main(sys.argv[1:])
    ignore_signals()  # the interpreter takes a while to end, and another signal must not change the status
    return exit_status
