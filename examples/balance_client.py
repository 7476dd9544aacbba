"""A bot that reports its balances and watches the balances of every bot, over Socket.IO.

    pip install -r requirements.txt
    python balance_client.py                            # sends an update every 5 seconds, until Ctrl-C
    python balance_client.py --count 3 --interval 1000  # sends three updates, a second apart, and exits

BALANCE_URL is the address of the server; the default is a server on this machine. The exit status is 0 if every
update was saved, and 1 if the server rejected one. To report your own balances, replace `read_balances`.
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

ANSWER_S = 6  # the server answers within 5 seconds, so that no answer is on its way after 6
PING_S = 30

# Each handler of Socket.IO runs in a thread of its own; a logger does not mix the lines of several threads.
logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
log = logging.getLogger("bot").info

# An int keeps all its digits, a float at least 15: more are rounded here before sending, and again when a snapshot
# is received. The server keeps every digit that it receives. A bot that needs more digits can put this repository
# on PYTHONPATH and `import protocol as json` above: then amounts may be Decimals, and received amounts are.
sio = socketio.Client(json=json, handle_sigint=False)  # Ctrl-C is handled at the end of this file


def save(update: dict) -> bool:
    """Send an update until the server has answered it; return whether it was saved.

    Each update is saved exactly once. Without an answer the client does not know whether the update was saved, and
    sends it again. The server saves an `id` only once, so that sending it again is safe.
    """
    while True:
        try:
            answer = sio.call("balance:update", update, timeout=ANSWER_S)
        except socketio.exceptions.SocketIOError:  # no answer in time, or no connection at the moment
            time.sleep(1)
            continue
        if answer["success"]:
            again = " (it was saved already)" if answer.get("duplicate") else ""
            log(f"saved {answer['id']} of {answer['timestamp']}{again}")
            return True
        log(f"error {answer['code']}: {answer['error']}")
        # Only a temporary error has `retryAfter`, in seconds: the same update, with the same id, may succeed then.
        # Any other error would be repeated: a person has to read it, and the bot goes on.
        if "retryAfter" not in answer:
            return False
        time.sleep(answer["retryAfter"])


def read_balances() -> dict:
    """Return the balances. `ts` is the time at which they were read, so that a late update is still true."""
    return {
        "id": new_id(),
        "ts": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "pid": os.getpid(),
        "onchain": {"rlb": 100074.99978, "usdt": 7656.36},
        "onsite": {"rlb": 101132.407627, "usd": 7646.96},
    }


def new_id() -> str:
    """Return a UUIDv7 (RFC 9562). It begins with the time: ids that grow keep the index of the server's table dense."""
    now = f"{time.time_ns() // 1_000_000:012x}"
    return f"{now[:8]}-{now[8:]}-7{str(uuid.uuid4())[15:]}"


@sio.on("connected")
def on_connected(greeting: dict) -> None:
    log(f"connected as {greeting['socketId']}")


@sio.on("disconnect")
def on_disconnect(reason: str) -> None:
    log(f"disconnected: {reason}")  # the library reconnects by itself: first after about a second


@sio.on("connect_error")
def on_connect_error(error: object) -> None:
    log(f"cannot connect: {error}")


@sio.on("balance:snapshot")
def on_snapshot(snapshot: dict) -> None:
    """Print every snapshot that any bot saves, this one included.

    Two snapshots may be printed in the wrong order, because each handler runs in a thread; `seq` is the order. It has
    no gaps and so reveals what was saved while the connection was down: GET /api/balance/snapshot returns that.
    """
    log(f"snapshot {json.dumps(snapshot)}")


@sio.on("pong")
def on_pong(pong: dict) -> None:
    log(f"pong {pong['timestamp']}")


def ping_forever() -> None:
    while True:
        time.sleep(PING_S)
        with suppress(socketio.exceptions.SocketIOError):  # not connected at the moment
            sio.emit("ping")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, help="number of updates to send; without it, no limit")
    parser.add_argument("--interval", type=int, default=5000, help="milliseconds between them")
    options = parser.parse_args()

    # Without polling: a polling client of this library does not reconnect after a restart of the server.
    url = os.environ.get("BALANCE_URL", "http://127.0.0.1:3000")
    sio.connect(url, socketio_path="/api/socket.io", transports=["websocket"], wait_timeout=10, retry=True)
    sio.start_background_task(ping_forever)

    # One update at a time: while the server is away no backlog grows, and the next update has current balances.
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
