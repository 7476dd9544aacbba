"""The three locked files of a data directory, by which processes agree on its server.

    control.lock  held by the process that is starting or stopping the server
    lock          held (shared) by every process that uses the server; the last one to end stops the server
    server.lock   held by the server itself, and by initdb, which inherit the descriptor: a process that acquires this
                  lock knows that nothing runs on PGDATA, whatever the process id in a file is

All are flocks: the kernel releases them however a process ends, so that a kill leaves nothing to clean up.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from balance.storage.embedded.files import EmbeddedError, open_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONTROL = "control.lock"
SHARES = "lock"
SERVER = "server.lock"
POLL_S = 0.01  # there is no event with a time limit for a flock, nor for a server that is starting


class Interrupted(Exception):
    """The wait was ended, because the process stops."""


def wait_for(condition: Callable[[], bool], seconds: float, interrupt: threading.Event | None = None) -> bool:
    """Wait until the condition is true; return False if it is not within the time. Raises Interrupted."""
    deadline = time.monotonic() + seconds
    interrupt = interrupt or threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            return False
        if interrupt.wait(POLL_S):
            raise Interrupted
    return True


def try_lock(descriptor: int) -> bool:
    """Lock a file exclusively; return False if another process holds a lock on it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_lock(descriptor: int, seconds: float, interrupt: threading.Event | None = None) -> bool:
    """Lock a file exclusively; return False if another process holds it all the time. Raises Interrupted."""
    return wait_for(lambda: try_lock(descriptor), seconds, interrupt)


@contextmanager
def opened(folder: int, name: str, *, create: bool = True) -> Iterator[int]:
    """Open a lock file for the block; a lock that only this descriptor holds is released at the end."""
    descriptor = open_file(folder, name, os.O_RDWR | (os.O_CREAT if create else 0))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def control(folder: int, seconds: float, interrupt: threading.Event | None = None) -> Iterator[None]:
    """Be the only process that starts or stops the server. Raises EmbeddedError and Interrupted."""
    with opened(folder, CONTROL) as descriptor:
        if not wait_for_lock(descriptor, seconds, interrupt):
            raise EmbeddedError(f"another process has been starting or stopping its server for {seconds} s")
        yield


def acquire_share(folder: int) -> int:
    """Become a process that uses the server; return the descriptor of the lock.

    Only inside `control`, so that no process joins while the last one stops the server.
    """
    descriptor = open_file(folder, SHARES, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def wait_for_end(folder: int) -> None:
    """Return when the server and all its processes have ended; neither bounded nor interruptible.

    The lock is shared: any number of processes wait, and all of them are woken.
    """
    with opened(folder, SERVER, create=False) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
