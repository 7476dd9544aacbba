"""Socket.IO: events in, publish out.

The rooms, from the wire inwards: `handler` (the HTTP path), `engine` (Engine.IO sessions), `outbox` (what waits for
each), `server` (Socket.IO packets), `events` (what is answered), `watchers` (who is shown what); `short` is the short
way of a plain update, from its frame to `events`. All of it runs on the event loop.

python-socketio and its Tornado integration do the protocol. What they leave open (they accept before they refuse,
queue without a bound, and let some errors end in silence) is closed here, by overriding just that.
"""

from balance.realtime.events import Realtime
from balance.realtime.fast_update import ShortWay
from balance.realtime.handler import EngineHandler
from balance.realtime.server import SocketServer
from balance.realtime.watchers import Watchers

__all__ = ["EngineHandler", "Realtime", "ShortWay", "SocketServer", "Watchers"]
