"""Print every snapshot by long poll, from the position in a file: python follow.py position.json"""

import json
import os
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

url = os.environ.get("BALANCE_URL", "http://127.0.0.1:3000")
headers = {"Authorization": f"Bearer {os.environ['BALANCE_TOKEN']}"} if "BALANCE_TOKEN" in os.environ else {}
file = Path(sys.argv[1]) if any(sys.argv[1:2]) else sys.exit("usage: python follow.py position.json")
position = json.loads(file.read_text()) if file.exists() else {"last": 0, "epoch": ""}
while True:
    try:
        query = f"after={position['last']}&epoch={position['epoch']}" if position["last"] else "after=0"
        page = json.load(urlopen(Request(f"{url}/api/balance/feed?wait=30&{query}", headers=headers), timeout=60))
    except OSError as error:
        if isinstance(error, HTTPError) and error.code in (401, 403):  # the same request would be refused again
            sys.exit(f"refused: {error.read().decode()}: set BALANCE_TOKEN to a token that may read")
        time.sleep(1)
        if isinstance(error, HTTPError) and error.code in (409, 410):
            lost = json.load(error)
            position["last"] = lost.get("goodUntil") or lost.get("first", 1) - 1
            position["epoch"] = lost.get("epoch", position["epoch"])
            print(f"lost: {lost['error']}, going on after {position['last']}", flush=True)
        continue
    assert [one["seq"] for one in page["data"]] == list(range(position["last"] + 1, page["feed"]["last"] + 1)), page
    print(*map(json.dumps, page["data"]), sep="\n", end="\n" * bool(page["data"]), flush=True)
    position = page["feed"]
    (new := file.with_suffix(".tmp")).write_text(json.dumps(position)) and new.replace(file)
