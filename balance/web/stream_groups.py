"""The live streams of server-sent events by their filter, so that a snapshot is sent to those that want it."""

from __future__ import annotations

from collections.abc import Iterable

from balance.web.event_stream import EventStream


class Group:
    """The live streams with one filter."""

    __slots__ = ("sent_at", "streams")

    def __init__(self) -> None:
        self.streams: dict[EventStream, None] = {}
        self.sent_at = 0.0
        """When something was last sent to all of them."""


class GroupsOfPid:
    """The groups whose filter has a pid. A pid of one group only has no container: clients may have many pids each."""

    def __init__(self) -> None:
        self._groups: dict[int | None, Group | dict[Group, None]] = {}

    def __len__(self) -> int:
        return len(self._groups)

    def add(self, pid: int, group: Group) -> None:
        """Add a group that does not have the pid yet."""
        found = self._groups.setdefault(pid, group)
        if isinstance(found, dict):
            found[group] = None
        elif found is not group:
            self._groups[pid] = {found: None, group: None}

    def remove(self, pid: int, group: Group) -> None:
        """Remove a group that has the pid."""
        found = self._groups[pid]
        if isinstance(found, dict):
            del found[group]
        if found is group or not found:
            del self._groups[pid]

    def find(self, pid: int | None) -> Iterable[Group]:
        """Return the groups of a pid."""
        found = self._groups.get(pid, ())
        return (found,) if isinstance(found, Group) else found
