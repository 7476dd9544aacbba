"""The TCP connections between a service and its database, which can lose an answer or go silent."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg.conninfo import make_conninfo

from tests.support.postgres import part_of_url
from tests.support.service import Database
from tests.support.waiting import until_one_ends

SAVES = re.compile(rb"INSERT INTO balance_snapshot|\0insert\0")  # the text, or the name of the prepared statement


class Link:
    """The TCP connections between a service and its database, which can lose an answer or go silent."""

    def __init__(self, database: Database) -> None:
        self._url = database.url
        self._path = f"{part_of_url(database, 'host')}/.s.PGSQL.{part_of_url(database, 'port')}"
        self._carrying: set[asyncio.Task[None]] = set()
        self.swallows_next_answer_to_save = False
        self.silent: set[asyncio.StreamReader] = set()  # what arrives from these ends is dropped
        self.ends: list[asyncio.StreamReader] = []  # of all connections

    async def __aenter__(self) -> str:
        """Listen, and return the URL of the database over this link."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        return make_conninfo(self._url, host="127.0.0.1", port=str(port))

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._carrying:
            task.cancel()
        if self._carrying:
            await asyncio.wait(self._carrying)
        await self._server.wait_closed()

    def go_silent(self) -> None:
        """Keep the present connections open and pass nothing on them; new ones work."""
        self.silent.update(self.ends)

    def _accept(self, from_service: asyncio.StreamReader, to_service: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._carry(from_service, to_service))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _carry(self, from_service: asyncio.StreamReader, to_service: asyncio.StreamWriter) -> None:
        try:
            from_database, to_database = await asyncio.open_unix_connection(self._path)
        except OSError:  # the database does not run
            to_service.close()
            return
        self.ends += [from_service, from_database]
        is_saving = False

        async def forth() -> None:
            nonlocal is_saving
            while data := await from_service.read(65536):
                if self.swallows_next_answer_to_save and SAVES.search(data):
                    self.swallows_next_answer_to_save, is_saving = False, True
                if from_service not in self.silent:
                    to_database.write(data)

        async def back() -> None:
            while (data := await from_database.read(65536)) and not is_saving:
                if from_database not in self.silent:
                    to_service.write(data)
            if from_database in self.silent:  # its end is not passed on either
                await asyncio.Future()

        try:
            await until_one_ends(forth(), back())
        finally:
            for end in (to_service, to_database):
                end.close()


class LinkThread:
    """A link in a thread of its own, for the services that outlive the event loop of one test."""

    def __init__(self, database: Database) -> None:
        self._loop = asyncio.new_event_loop()
        self._link = Link(database)
        self._thread = threading.Thread(target=self._loop.run_forever, name="database-link", daemon=True)
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._link.__aenter__(), self._loop).result(10)

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Forget the present connections at the beginning of the block, as a firewall does; new ones work."""
        self._loop.call_soon_threadsafe(self._link.go_silent)
        yield

    def close(self) -> None:
        """Close every connection."""
        asyncio.run_coroutine_threadsafe(self._link.__aexit__(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
