"""The name under which this program was started, for help and error texts."""

from __future__ import annotations

import os
import sys

_INSTALLED = "balance-server"  # as pyproject.toml names it
_CHECKOUT = "server.py"

NAME = _INSTALLED if os.path.basename(sys.argv[0]) == _INSTALLED else _CHECKOUT
"""The first word of an error text."""

COMMAND = _INSTALLED if NAME == _INSTALLED else f"python {_CHECKOUT}"
"""What a user types to run it."""
