"""Saves and reads a snapshot with the client of openapi-generator; prints what was read: URL UPDATE."""

import json
import sys

from openapi_client import ApiClient, BalanceUpdate, Configuration, SnapshotsApi
from openapi_client.exceptions import NotFoundException

url, text = sys.argv[1:]
with ApiClient(Configuration(host=url)) as client:
    api = SnapshotsApi(client)
    update = BalanceUpdate.from_json(text)
    saved = api.save_snapshot(update)
    got = api.get_snapshot(saved.data.id)
    page = api.list_snapshots(limit=1)
    print(json.dumps([one.onsite.to_dict() for one in (saved.data, got.data, page.data[0])]))
    again = api.save_snapshot(BalanceUpdate.from_dict({**json.loads(text), "id": saved.data.id, "ts": got.data.ts}))
    assert (saved.success, saved.duplicate, again.duplicate) == (True, None, True)
    missing = None
    try:
        api.get_snapshot("00000000-0000-4000-8000-000000000000")
    except NotFoundException as error:
        missing = error.data
    assert (missing.success, missing.code) == (False, "not_found")
