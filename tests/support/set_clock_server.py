"""Runs server.py with a clock that a test sets: CLOCK_FILE has the difference in seconds, as a double.

Only what the service reads by `time.time` and `time.time_ns` follows it. libfaketime cannot be used instead: it makes
`time.sleep` of Python fail.
"""

import mmap
import os
import runpy
import struct
import time
from pathlib import Path

from tests.support.repository import ROOT

with Path(os.environ["CLOCK_FILE"]).open("rb") as file:
    difference = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
clock_ns = time.time_ns


def time_ns() -> int:
    """Return the nanoseconds since 1970 by the clock of the test."""
    return clock_ns() + int(struct.unpack("d", difference)[0] * 1_000_000_000)


time.time_ns = time_ns
time.time = lambda: time_ns() / 1_000_000_000
runpy.run_path(str(ROOT / "server.py"), run_name="__main__")
