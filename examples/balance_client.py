"""A bot that reports what it holds and watches what every bot holds, over Socket.IO.

    pip install -r requirements.txt
    python balance_client.py                            # sends an update every 5 seconds, until Ctrl-C
    python balance_client.py --count 3 --interval 1000  # sends three, a second apart, and ends

BALANCE_URL names the server; without it, the one on this machine is meant. Exit status: 0 when every update
was saved, 1 when the server refused one. To make it yours, write your own `read_balances`.
"""

import argparse
import itertools
import json
import logging
import os
import sys
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime

import socketio

ANSWER_S = 6  # the server answers within 5 seconds; after 6 there is no answer on its way
PING_S = 30

# Socket.IO's handlers run in threads of their own; a logger keeps the lines of several threads apart.
logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
say = logging.getLogger("bot").info

# An int keeps all its digits, a float 15 for certain: more are rounded here, before they are sent, and again
# when a snapshot is read. The server keeps every digit it is given. For a bot that needs them: with this
# repository on PYTHONPATH, `import protocol as json` above; then amounts may be Decimals, and those read are.
sio = socketio.Client(json=json, handle_sigint=False)  # Ctrl-C is handled at the end


def save(update: dict) -> bool:
    """Send an update until the server has answered it; tell whether it was saved.

    Saved exactly once, in two halves. Ours: without an answer we know nothing, neither that it was saved nor
    that it was not, and so send it again. The server's: an `id` that it has saved is not saved a second time.
    """
    while True:
        try:
            answer = sio.call("balance:update", update, timeout=ANSWER_S)
        except socketio.exceptions.SocketIOError:  # no answer in time, or no connection at the moment
            time.sleep(1)
            continue
        if answer["success"]:
            again = " (it was saved already)" if answer.get("duplicate") else ""
            say(f"saved {answer['id']} of {answer['timestamp']}{again}")
            return True
        say(f"error {answer['code']}: {answer['error']}")
        # Only a temporary refusal has `retryAfter`, in seconds: the same update, with the same id, may pass
        # then. Any other would be refused again and again: a person has to look at it, and the bot goes on.
        if "retryAfter" not in answer:
            return False
        time.sleep(answer["retryAfter"])


def read_balances() -> dict:
    """What the bot holds now. `ts` is the moment of reading, which stays true however late it arrives."""
    return {
        "id": new_id(),
        "ts": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "pid": os.getpid(),
        "onchain": {"rlb": 100074.99978, "usdt": 7656.36},
        "onsite": {"rlb": 101132.407627, "usd": 7646.96},
    }


def new_id() -> str:
    """A UUIDv7 (RFC 9562): it begins with the time, and ids that grow keep the server's index dense, however large."""
    now = f"{time.time_ns() // 1_000_000:012x}"
    return f"{now[:8]}-{now[8:]}-7{str(uuid.uuid4())[15:]}"


@sio.on("connected")
def on_connected(greeting: dict) -> None:
    say(f"connected as {greeting['socketId']}")


@sio.on("disconnect")
def on_disconnect(reason: str) -> None:
    say(f"disconnected: {reason}")  # the library connects again by itself: first after about a second


@sio.on("connect_error")
def on_connect_error(error: object) -> None:
    say(f"can not connect: {error}")


@sio.on("balance:snapshot")
def on_snapshot(snapshot: dict) -> None:
    """Every snapshot that anyone saves, this bot's own too.

    Two may change places here, each handler being a thread; `seq` has the order. It counts without a gap, and
    so shows what was saved while the connection was down: GET /api/balance/snapshot has that.
    """
    say(f"snapshot {json.dumps(snapshot)}")


@sio.on("pong")
def on_pong(pong: dict) -> None:
    say(f"pong {pong['timestamp']}")


def ping_for_ever() -> None:
    while True:
        time.sleep(PING_S)
        with suppress(socketio.exceptions.SocketIOError):  # not connected at the moment
            sio.emit("ping")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, help="how many updates to send; without it, no end")
    parser.add_argument("--interval", type=int, default=5000, help="milliseconds between them")
    options = parser.parse_args()

    # Not by polling: a polling client of this library does not come back after a restart of the server.
    url = os.environ.get("BALANCE_URL", "http://127.0.0.1:3000")
    sio.connect(url, socketio_path="/api/socket.io", transports=["websocket"], wait_timeout=10, retry=True)
    sio.start_background_task(ping_for_ever)

    # One update after the other: while the server is away nothing piles up, and the next one is read afresh.
    status = 0
    for sent in itertools.count(1):
        if not save(read_balances()):
            status = 1
        if sent == options.count:
            break
        time.sleep(options.interval / 1000)
    sio.shutdown()
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sio.shutdown()
        sys.exit(130)
