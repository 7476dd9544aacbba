"""Who uses the server of a data directory: three locked files in it.

    door         locked by the process that is starting or stopping the server
    lock         locked (shared) by every process that uses the server; the last one to end stops it
    server.lock  locked by the server itself, which inherits the descriptor, as initdb does: a process that gets
                 this lock knows that nothing runs on PGDATA, whatever a process id in a file says

All are flocks: the kernel drops them however a process ends, so a kill leaves nothing to clean up.
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

POLL_S = 0.01  # neither a flock nor a server that is starting gives an event to wait on with a bound


class Interrupted(Exception):
    """The wait was given up, since the process is to stop."""


def wait_for(condition: Callable[[], bool], seconds: float, interrupt: threading.Event | None = None) -> bool:
    """Wait until the condition holds; return False when it did not within the time. Raises Interrupted."""
    deadline = time.monotonic() + seconds
    interrupt = interrupt or threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            return False
        if interrupt.wait(POLL_S):
            raise Interrupted
    return True


def try_lock(descriptor: int) -> bool:
    """Lock it for this process alone; False if another has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_lock(descriptor: int, seconds: float, interrupt: threading.Event | None = None) -> bool:
    """Lock it for this process alone; False when another had it all the time. Raises Interrupted."""
    return wait_for(lambda: try_lock(descriptor), seconds, interrupt)


@contextmanager
def opened(folder: int, name: str, *, create: bool = True) -> Iterator[int]:
    """Open a lock file; its close is also the end of a lock that only this descriptor holds."""
    descriptor = open_file(folder, name, os.O_RDWR | (os.O_CREAT if create else 0))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def door(folder: int, seconds: float, interrupt: threading.Event | None = None) -> Iterator[None]:
    """Be the only process that starts or stops the server."""
    with opened(folder, "door") as descriptor:
        if not wait_for_lock(descriptor, seconds, interrupt):
            raise EmbeddedError(f"another process has been starting or stopping it for {seconds} s")
        yield


def take_share(folder: int) -> int:
    """Become one of those that use the server; behind the door only, so that none comes while the last one goes."""
    descriptor = open_file(folder, "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def wait_for_end(folder: int) -> None:
    """Return when the server has ended, with all its processes. Not bounded, and not to be interrupted.

    Shared: any number of processes wait, and all of them are woken.
    """
    with opened(folder, "server.lock", create=False) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
