"""Examples of the bodies of responses that no schema describes."""

from __future__ import annotations

from protocol import codec, registry

_TOKENS = registry.schema("position_token")["examples"]
STREAM = f"""\
retry: 1734
id: {_TOKENS[1]}
event: connected
data: {codec.dumps(registry.schema("stream_connected")["examples"][0])}

id: {_TOKENS[0]}
event: balance:snapshot
data: {codec.dumps(registry.schema("snapshot")["examples"][0])}

event: ping
data: {codec.dumps(registry.schema("stream_ping")["examples"][0])}

"""
LINE = codec.dumps(registry.schema("snapshot")["examples"][0]) + "\n"
CSV = """\
id,seq,ts,pid,onchain.rlb,onchain.usdt,onsite.rlb,onsite.usd,further\r
019a5bb2-4a1b-7c3e-9f10-2b6d8e4f7a51,1,2025-11-07T00:45:08.603Z,1132978,100074.99978,7656.36,101132.407627,7646.96,\r
"""
# Without `$id` and `$ref`: tools that read OpenAPI resolve them even within an example.
A_SCHEMA = {"title": "Amount", "type": "number", "minimum": 0}


METRICS = """\
# HELP balance_database_up 1 if the database can be reached and read
# TYPE balance_database_up gauge
balance_database_up 1.0
"""
