"""A progress bar on a terminal: nothing is written where stderr is a pipe or a file."""

from __future__ import annotations

import shutil
import sys
from contextlib import closing
from typing import Any


class ProgressBar:
    """A bar on stderr, from the first progress on."""

    def __init__(self, what: str, unit: str) -> None:
        """Show nothing yet."""
        self._what, self._unit = what, unit
        self._bar: Any = None

    def show(self, done: int, total: int) -> None:
        """Show that `done` of `total` units are done."""
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            from tqdm import tqdm  # late: only a command on a terminal needs it, and it takes a while to import

            columns, lines = shutil.get_terminal_size()  # tqdm shows nothing on a terminal of unknown size
            self._bar = tqdm(desc=self._what, unit=self._unit, unit_scale=True, leave=False, ncols=columns, nrows=lines)
        self._bar.total = max(done, total)
        self._bar.update(done - self._bar.n)
        if done >= total:
            self._bar.refresh()  # the last count, also of what took less than the time between two updates

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()


def progress_bar(what: str, unit: str) -> closing[ProgressBar]:
    """Return a progress bar for a `with` block, which removes it at its end."""
    return closing(ProgressBar(what, unit))
