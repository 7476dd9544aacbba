"""Entry point of the process, for `balance-server` and for `python server.py`.

The imports take most of the time of a start, so the first signal handlers are set before them.
"""

from __future__ import annotations

import sys

from balance.process.stop_signals import exit_on_signals, ignore_signals


def main() -> int:
    """Run the command in the arguments of the process; return the exit status."""
    is_serving = len(sys.argv) < 2 or sys.argv[1] == "serve" or sys.argv[1].startswith("-")
    exit_on_signals(status=0 if is_serving else 1)  # any other command that was stopped is not done
    from balance import cli

    exit_status = cli.main(sys.argv[1:])
    ignore_signals()  # the interpreter takes a while to end, and another signal must not change the status
    return exit_status
