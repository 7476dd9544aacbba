"""A bot that reports its balances and watches the balances of every bot, over Socket.IO. It loses no reading and misses
no snapshot, also when the server, the network or this program itself is away for a while.

    pip install -r requirements.txt
    python balance_client.py                            # makes a reading every 5 seconds, until Ctrl-C
    python balance_client.py --count 3 --interval 1000  # makes three readings, a second apart, and exits

BALANCE_URL is the address of the server; the default is a server on this machine. BALANCE_TOKEN is the token, if the
server needs one. `--folder` (default: balance-state) has the two files that survive a restart: readings.jsonl and
position.json. Each process needs a folder of its own.
The exit status is 0 if every reading was saved, and 1 if the server rejected one, or the token. To report your own
balances, replace `read_balances`; to use those of others, replace `handle`.
"""

import argparse
import asyncio
import itertools
import json
import os
import sys
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import socketio

URL = os.environ.get("BALANCE_URL", "http://127.0.0.1:3000")
TOKEN = {"token": os.environ["BALANCE_TOKEN"]} if "BALANCE_TOKEN" in os.environ else {}
ANSWER_S = 6  # the server answers within 5 seconds, so that no answer is on its way after 6
PING_S = 30
RECONNECT_S = 1
REFUSED = ("unauthorized", "forbidden")  # by the token

# An int keeps all its digits, a float at least 15: more are rounded here before sending, and again when a snapshot
# is received. The server keeps every digit that it receives. A bot that needs more digits can put this repository
# on PYTHONPATH and `import protocol as json` above: then amounts may be Decimals, and received amounts are.


def read_balances() -> dict:
    """Return the balances. `ts` is the time at which they were read, so that a late reading is still true."""
    return {
        "id": new_id(),
        "ts": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "pid": os.getpid(),
        "onchain": {"rlb": 100074.99978, "usdt": 7656.36},
        "onsite": {"rlb": 101132.407627, "usd": 7646.96},
    }


def handle(snapshot: dict) -> None:
    """Use a snapshot: every one that any bot saves, this one included, in the order of `seq`."""
    log(f"snapshot {json.dumps(snapshot)}")


def new_id() -> str:
    """Return a UUIDv7 (RFC 9562). It begins with the time: ids that grow keep the index of the server's table dense."""
    now = f"{time.time_ns() // 1_000_000:012x}"
    return f"{now[:8]}-{now[8:]}-7{str(uuid.uuid4())[15:]}"


def log(line: str) -> None:
    print(line, flush=True)


def replace_file(path: Path, text: str) -> None:
    """Replace a file as a whole: whenever the process or the machine ends, it has the old text or the new one."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class Journal:
    """The readings that the server has not answered yet: each is a line of a file, on the disk before it is sent."""

    def __init__(self, path: Path) -> None:
        self.waiting: asyncio.Queue[dict] = asyncio.Queue()
        self._file = path.open("a+b")
        self._file.seek(0)
        whole = self._file.read().rpartition(b"\n")[0]  # the process was killed while it wrote what follows
        for line in whole.splitlines():
            self.waiting.put_nowait(json.loads(line))
        self._file.truncate(len(whole) + 1 if whole else 0)

    def add(self, reading: dict) -> None:
        self._file.write(f"{json.dumps(reading)}\n".encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.waiting.put_nowait(reading)

    def note_answer(self) -> None:
        """Note that the reading that was got last is answered, and empty the file when that is all of them.

        After a restart before that, all are sent again, which is safe: the server saves an `id` only once.
        """
        self.waiting.task_done()
        if self.waiting.empty():
            self._file.truncate(0)


class Refused(Exception):
    """The server refuses the token, and would refuse it again."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"refused: {code}: {text}: set BALANCE_TOKEN to a token of a writer")


class Bot:
    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(folder / "readings.jsonl")
        self.status = 0
        self._position_file = folder / "position.json"
        # The last snapshot that was handled: its `seq`, its `id`, and the epoch, which names the feed. The server sends
        # what comes after it. None at the first start: then the server begins with what is saved from now on.
        self._position = json.loads(self._position_file.read_text()) if self._position_file.exists() else None
        self._storing: asyncio.Task[None] | None = None
        self._epoch = ""
        self._refused: Refused | None = None
        self._sio = socketio.AsyncClient()

    async def stay_connected(self) -> None:
        """Connect again whenever the connection has ended, each time with the newest position."""
        async with aiohttp.ClientSession() as http:
            while True:
                self._sio = self._make_client(http)
                try:
                    # Without polling: after a restart of the server a polling client does not connect again.
                    await self._sio.connect(
                        URL,
                        auth={**(self._position or {}), **TOKEN},
                        transports=["websocket"],
                        socketio_path="/api/socket.io",
                        wait_timeout=10,
                    )
                    await self._sio.wait()
                except socketio.exceptions.ConnectionError as error:
                    if self._refused is not None:
                        raise self._refused from error
                    log(f"cannot connect: {error}")
                await asyncio.sleep(RECONNECT_S)

    def _make_client(self, http: aiohttp.ClientSession) -> socketio.AsyncClient:
        """Make a client for one connection: python-socketio does not notice one that is lost during its CONNECT.

        Its handlers are not coroutines, which could overtake each other: events are handled in their order.
        """
        client = socketio.AsyncClient(json=json, http_session=http, reconnection=False, handle_sigint=False)
        client.on("connect_error", self._on_connect_error)
        client.on("connected", self._on_connected)
        client.on("balance:snapshot", self._on_snapshot)
        client.on("disconnect", lambda reason: log(f"disconnected: {reason}"))
        client.on("pong", lambda pong: log(f"pong {pong['timestamp']}"))
        return client

    def _on_connect_error(self, error: object) -> None:
        """Note that the server has refused the token; any other error may pass."""
        code = error.get("data", {}).get("code") if isinstance(error, dict) else None
        if code in REFUSED:
            self._refused = Refused(code, error["message"])

    def _on_connected(self, greeting: dict) -> None:
        log(f"connected as {greeting['socketId']}")
        self._epoch, head, reason = greeting["epoch"], greeting["seq"], greeting.get("reason")
        last = self._position["after"] if self._position else None
        good_until = greeting.get("goodUntil", last)
        if greeting.get("recovered"):
            log(f"resumed after seq {last}")
        elif last is not None and good_until < last:
            # The database came back without its newest rows. Other snapshots have these numbers now: they come from
            # here on.
            log(f"lost: seq {good_until + 1} to {last} are gone ({reason}): forget what they were")
            self._move_to({"after": good_until, "epoch": self._epoch})
            self._resume()
        else:
            if last is not None:
                log(f"lost: cannot resume after seq {last} ({reason}), only after seq {head}")
            self._move_to({"after": head, "epoch": self._epoch})

    def _on_snapshot(self, snapshot: dict) -> None:
        if snapshot["seq"] != self._position["after"] + 1:
            log(f"gap: seq {snapshot['seq']} came after {self._position['after']}")  # a fault of the server
            self._resume()
            return
        handle(snapshot)
        self._move_to({"after": snapshot["seq"], "epoch": self._epoch, "id": snapshot["id"]})

    def _resume(self) -> None:
        """End the connection; the next one resumes after the position."""
        self._sio.on("balance:snapshot", lambda snapshot: None)  # what still comes on this one, comes again
        self._ending = asyncio.ensure_future(self._sio.disconnect())

    def _move_to(self, position: dict) -> None:
        """Store a position, after its snapshot was handled.

        If the process is killed between the two, that snapshot comes again after the restart: none is missed.
        """
        self._position = position
        if self._storing is None or self._storing.done():
            self._storing = asyncio.create_task(self._store_position())

    async def _store_position(self) -> None:
        """Store the newest position. Those that come while one is written are not stored, but for the last of them."""
        stored = None
        while stored is not self._position:
            stored = self._position
            await asyncio.to_thread(replace_file, self._position_file, json.dumps(stored))

    async def send_readings(self) -> None:
        """Send one reading at a time, so that the server saves them in the order in which they were made."""
        while True:
            if not await self._save(await self.journal.waiting.get()):
                self.status = 1
            self.journal.note_answer()

    async def _save(self, reading: dict) -> bool:
        """Send a reading until the server has answered it; return whether it was saved.

        Each reading is saved exactly once. Without an answer the client does not know whether it was saved, and sends
        it again. The server saves an `id` only once, so that sending it again is safe.
        """
        while True:
            try:
                answer = await self._sio.call("balance:update", reading, timeout=ANSWER_S)
            except socketio.exceptions.SocketIOError:  # no answer in time, or no connection at the moment
                await asyncio.sleep(RECONNECT_S)
                continue
            if answer["success"]:
                again = " (it was saved already)" if answer.get("duplicate") else ""
                log(f"saved {answer['id']} of {answer['timestamp']}{again}")
                return True
            if answer["code"] in REFUSED:
                raise Refused(answer["code"], answer["error"])  # the reading stays in the journal
            log(f"error {answer['code']}: {answer['error']}")
            # Only a temporary error has `retryAfter`, in seconds: the same reading, with the same id, may succeed then.
            # Any other error would be repeated: a person has to read it, and the bot goes on.
            if "retryAfter" not in answer:
                return False
            await asyncio.sleep(answer["retryAfter"])

    async def ping_forever(self) -> None:
        while True:
            await asyncio.sleep(PING_S)
            with suppress(socketio.exceptions.SocketIOError):  # not connected at the moment
                await self._sio.emit("ping")

    async def close(self) -> None:
        await self._sio.shutdown()
        if self._storing is not None:
            await self._storing


async def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, help="number of readings to make; without it, no limit")
    parser.add_argument("--interval", type=int, default=5000, help="milliseconds between them")
    parser.add_argument("--folder", type=Path, default="balance-state", help="what survives a restart")
    options = parser.parse_args()

    bot = Bot(options.folder)
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [bot.stay_connected(), bot.send_readings(), bot.ping_forever()]
            started = [tasks.create_task(one) for one in running]
            for made in itertools.count(1):
                bot.journal.add(read_balances())
                if made == options.count:
                    break
                await asyncio.sleep(options.interval / 1000)
            await bot.journal.waiting.join()
            await bot.close()
            for one in started:
                one.cancel()
    except* Refused as refused:
        print(refused.exceptions[0], file=sys.stderr)
        bot.status = 1
    return bot.status


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except KeyboardInterrupt:
        sys.exit(130)
