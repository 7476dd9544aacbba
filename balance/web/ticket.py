"""`POST /api/balance/ticket`: issue a ticket that opens one event stream (`balance.access.tickets`)."""

from __future__ import annotations

from balance.access.tickets import TICKET_S
from balance.auth import Operation
from balance.web.snapshots import RestHandler


class TicketHandler(RestHandler):
    """Issues tickets in the name of the caller."""

    operation = Operation.WATCH
    methods = ("POST", "OPTIONS")

    async def on_post(self) -> None:
        """Answer with a ticket. The body is ignored, since a browser may send an empty one or none."""
        ticket = self.authenticator.tickets.issue(self.context.caller)
        self.write_json({"success": True, "data": {"ticket": ticket, "expires_s": TICKET_S}})
