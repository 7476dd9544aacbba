"""HTTP: connections, requests, REST and the pages. The routes are in `balance.routes`.

The modules, from the socket inwards: `listener` (accepts connections, and closes slow ones), `http_connection` (reads
requests, with `request_head`, `request_target`, `chunked_reader`, `http_errors` and `lingering_close`), `save` (POST of
an update), `base` (what all other handlers share, with `cors` and `compression`), `snapshots` (lists and single reads),
`feed` (long polls and the latest snapshots), `stream` (opens a stream of events, which `stream_hub`, `event_stream` and
`sse` serve), `documents` and `pages`.
"""
