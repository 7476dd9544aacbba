"""What a test that fails shows of the programs that it ran."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


@contextmanager
def noted(title: str, read_lines: Callable[[], Iterable[str]]) -> Iterator[None]:
    """Add the lines that there are at the end of a block that fails to its exception, as a note."""
    try:
        yield
    except Exception as error:
        error.add_note("\n".join([f"{title}:", *read_lines()]))
        raise
