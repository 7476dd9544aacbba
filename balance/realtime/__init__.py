"""Socket.IO: events come in, snapshots go out.

The modules, from the socket inwards: `handler` (the HTTP path, with `handshake` and `polling`), `frames` and
`connection` (a WebSocket), `transport` and `engine` (Engine.IO sessions), `session` (the state of one client), `server`
(Socket.IO packets), `events` (how each event is answered), `watchers` (what is sent to those that have joined).
`fast_update` is the fast path of a plain update, from its frame to `events`. All of it runs on the event loop.

python-engineio, python-socketio and Tornado implement the protocols. They accept before they reject, queue without a
limit, and leave some errors without an answer. Only what does so is overridden here (docs/library-pitfalls.md).
"""

from balance.realtime.engine import Engine
from balance.realtime.events import EventHandlers
from balance.realtime.handler import EngineHandler
from balance.realtime.server import SocketServer
from balance.realtime.watchers import Watchers

__all__ = ["Engine", "EngineHandler", "EventHandlers", "SocketServer", "Watchers"]
