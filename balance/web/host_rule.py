"""The route of requests for hosts of other servers, before all others."""

from __future__ import annotations

from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.routing import Matcher

import protocol
from balance.access.authenticator import Authenticator, read_bearer
from balance.web.cors import HostPolicy


class HostNotServed(Matcher):
    """Matches every request, at any address, for a host of another server, unless it has a credential.

    A page that reaches this server by DNS rebinding has none; where one is needed, it gets nothing.
    """

    def __init__(self, hosts: HostPolicy, authenticator: Authenticator) -> None:
        self._hosts = hosts
        self._authenticator = authenticator

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        if self._hosts.serves(request.host) or self._authenticator.is_closed or self._has_credential(request):
            return None
        return {}

    def _has_credential(self, request: HTTPServerRequest) -> bool:
        try:
            credential = read_bearer(request.headers.get("Authorization"))
            caller = self._authenticator.authenticate(credential, str(request.remote_ip))
        except protocol.ServiceError:
            return False
        return caller.has_credential
