"""Saves and reads a snapshot with the client of openapi-python-client; prints what was read: URL UPDATE."""

import json
import sys

from balance_snapshot_system_client import Client
from balance_snapshot_system_client.api.snapshots import get_snapshot, list_snapshots, save_snapshot
from balance_snapshot_system_client.models import BalanceUpdate

url, text = sys.argv[1:]
client = Client(base_url=url)
saved = save_snapshot.sync(client=client, body=BalanceUpdate.from_dict(json.loads(text)))
got = get_snapshot.sync(saved.data.id, client=client)
page = list_snapshots.sync(client=client, limit=1)
print(json.dumps([one.onsite.to_dict() for one in (saved.data, got.data, page.data[0])]))
