"""A progress bar on a terminal: nothing is written where stderr is a pipe or a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Bar:
    """A progress bar, or none."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def show(self, done: int, total: int) -> None:
        """Show that `done` of `total` units are done."""
        if self._bar is not None:
            self._bar.total = max(done, total)
            self._bar.update(done - self._bar.n)


@contextmanager
def progress_bar(what: str, unit: str) -> Iterator[Bar]:
    """Show a progress bar on stderr during the block if that is a terminal."""
    if not sys.stderr.isatty():
        yield Bar(None)
        return
    from tqdm import tqdm  # late: only a command on a terminal needs it, and it is slow to import

    with tqdm(desc=what, unit=f" {unit}", unit_scale=True, leave=False, dynamic_ncols=True) as bar:
        yield Bar(bar)
