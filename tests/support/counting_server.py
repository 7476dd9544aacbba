"""`server.py` with counters that a soak compares and that are not visible from outside.

Prints one line of JSON at each SIGUSR1: asyncio's tasks, Engine.IO's sessions, the objects that the garbage collector
tracks after a collection, and the entries of the dicts, lists and sets among them.
"""

import asyncio
import gc
import json
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from balance import cli
from balance.realtime.engine import Engine
from balance.snapshot import EncodedSnapshot


def count(*_: object) -> None:
    gc.collect()
    # The feed keeps its newest snapshots, up to a limit that a short run does not reach.
    things = [one for one in gc.get_objects() if not isinstance(one, EncodedSnapshot)]
    sessions = sum(len(thing.sockets) for thing in things if isinstance(thing, Engine))
    counted = {
        "tasks": len(asyncio.all_tasks()),
        "sessions": sessions,
        "objects": len(things),
        "entries": sum(len(thing) for thing in things if type(thing) in (dict, list, set)),
    }
    print(json.dumps(counted), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, count)
    sys.exit(cli.main(sys.argv[1:]))
