"""The closed table of errors that a client may receive, on either transport.

Each class is one code. The first sentence of its docstring is the message that is sent when the raiser gives no reason.
A code is never removed and never changes its meaning. `schemas/error_code.json` lists the same codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

PROBLEM_TYPES = "https://balance-snapshot.example/v1/errors/"
"""What the type of problem details begins with: an identifier, at which nothing is served (RFC 2606)."""

CHALLENGE = 'Bearer realm="balance"'


class ServiceError(Exception):
    """The base of all errors that are sent to clients."""

    code: ClassVar[str]
    """The code, for a program."""
    status: ClassVar[int]
    """The HTTP status of the error on REST."""
    temporary: ClassVar[bool] = False
    """Whether the same request may succeed later."""
    example: ClassVar[tuple[Any, ...]] = ()
    """The arguments of a typical error, for the documents; without them the example is the default message."""
    retry_after_s: int | None = None
    """Seconds to wait before the next attempt; set on each temporary error and on no other."""
    fields: Mapping[str, Any] = {}
    """What the payload has beside the fields of every error."""
    challenge: str | None = None
    """The header WWW-Authenticate of an error about a credential (RFC 6750, section 3); None for all others."""

    def __init__(self, reason: str | None = None, path: str | None = None) -> None:
        """Set `reason`, why the request failed, for a person, and `path`, the dotted path in the payload."""
        super().__init__(reason, path)
        self.reason = reason or self.message()
        self.path = path

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.path else self.reason

    def body(self) -> dict[str, Any]:
        """Return the payload to send: {"success": False, "error": text, "code": code}, and the fields of the class."""
        return {"success": False, "error": str(self), "code": self.code, **self.fields}

    def body_with_wait(self) -> dict[str, Any]:
        """Return the payload for a transport without headers: with `retryAfter` if the error is temporary."""
        body = self.body()
        if self.retry_after_s is not None:
            body["retryAfter"] = self.retry_after_s
        return body

    def problem(self) -> dict[str, Any]:
        """Return the payload as problem details (RFC 9457), with the fields of `body` beside their own."""
        return {
            "type": f"{PROBLEM_TYPES}{self.code}",
            "title": self.message(),
            "status": self.status,
            "detail": str(self),
            **self.body(),
        }

    @classmethod
    def as_example(cls) -> dict[str, Any]:
        """Return the payload of a typical error of this class."""
        return cls(*cls.example).body()

    @classmethod
    def message(cls) -> str:
        """Return the default message: the first sentence of the class docstring, without its full stop."""
        return (cls.__doc__ or cls.code).split("\n")[0].split(". ")[0].rstrip(".")


class MalformedJson(ServiceError, ValueError):
    """The payload is not valid JSON.

    A ValueError too, because Engine.IO's packet decoder expects a JSON module to raise one.
    """

    code = "malformed_json"
    status = 400
    example = ("is not valid JSON", "payload")


class InvalidPayload(ServiceError):
    """The payload does not fit its schema."""

    code = "invalid_payload"
    status = 400
    example = ("must be at least 0", "onchain.rlb")


class Conflict(ServiceError):
    """Another snapshot was already saved under this id."""

    code = "conflict"
    status = 409
    example = ("another snapshot has this id", "id")


class PositionUnknown(ServiceError):
    """The position is not one of this feed."""

    code = "position_unknown"
    status = 409
    example = ("diverged", "3f0c8b52-6a1d-4e7b-9d53-0c2f7a9be614", 1000, 990)

    def __init__(
        self, reason: Literal["other_feed", "diverged", "ahead"], epoch: str, head: int, good_until: int | None = None
    ) -> None:
        """Set why the position is not good, the epoch and the last seq of the feed, and the last good seq if known."""
        path, text = {
            "other_feed": ("epoch", "is not one of this feed"),
            "diverged": ("after", "is of another history of this feed"),
            "ahead": ("after", f"is past the end of the feed, seq {head}"),
        }[reason]
        fields: dict[str, Any] = {"reason": reason, "epoch": epoch, "head": head}
        if good_until is not None:
            text += f"; what was seen up to seq {good_until} is good"
            fields["goodUntil"] = good_until
        super().__init__(text, path)
        self.fields = fields


class PositionPruned(ServiceError):
    """Snapshots after the position are no longer kept."""

    code = "position_pruned"
    status = 410
    example = (500,)

    def __init__(self, first: int) -> None:
        """Set the seq of the first snapshot that is kept."""
        super().__init__(f"is too old: the first snapshot that is kept has seq {first}", "after")
        self.fields = {"first": first}


class Unauthorized(ServiceError):
    """A token is required: send it as Authorization: Bearer, or as auth.token of Socket.IO.

    The path is that of the credential that was sent, `token` or `ticket`; without one there is no path.
    """

    code = "unauthorized"
    status = 401
    example = ("is revoked", "token")

    def __init__(self, reason: str | None = None, path: str | None = None) -> None:
        """Set the reason and the path; with a path, the challenge names the fault of the credential."""
        super().__init__(reason, path)
        fault = f', error="invalid_token", error_description="{self}"' if path is not None else ""
        self.challenge = CHALLENGE + fault


class Forbidden(ServiceError):
    """This request is not allowed."""

    code = "forbidden"
    status = 403
    example = ("pages of this origin may not call; see --cors-origins", "Origin")

    def __init__(self, reason: str | None = None, path: str | None = None, *, scope: str | None = None) -> None:
        """Set the reason, the path, and the scope that the credential would need, if one that has it would do."""
        super().__init__(reason, path)
        if scope is not None:
            self.challenge = f'{CHALLENGE}, error="insufficient_scope", error_description="{self}", scope="{scope}"'


class NotFound(ServiceError):
    """There is nothing at this address."""

    code = "not_found"
    status = 404


class MethodNotAllowed(ServiceError):
    """This address does not support this method."""

    code = "method_not_allowed"
    status = 405


class PayloadTooLarge(ServiceError):
    """The payload is too large."""

    code = "payload_too_large"
    status = 413
    example = ("is larger than 16384 bytes", "payload")


class UnsupportedMediaType(ServiceError):
    """The content type must be application/json."""

    code = "unsupported_media_type"
    status = 415
    example = ("must be application/json", "Content-Type")


class MisdirectedRequest(ServiceError):
    """The request names a host that this server does not serve."""

    code = "misdirected_request"
    status = 421
    example = ("'snapshots.example' is not a host of this server; see --hosts", "Host")


class RequestTimeout(ServiceError):
    """The request did not arrive in time."""

    code = "request_timeout"
    status = 408
    example = ("did not arrive in time", "payload")


class HeadersTooLarge(ServiceError):
    """The header section of the request is too large."""

    code = "headers_too_large"
    status = 431
    example = ("must be at most 16384 bytes", "head")


class RateLimited(ServiceError):
    """A client does something too often, or has too many connections. Nothing was done."""

    code = "rate_limited"
    status = 429
    example = ("20 updates a second are allowed for one token or address",)
    temporary = True
    retry_after_s = 1

    def __init__(
        self,
        reason: str | None = None,
        path: str | None = None,
        *,
        wait_s: int = 1,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Set the seconds to wait, and the headers that describe the limit and what is left of it."""
        super().__init__(reason, path)
        self.retry_after_s = wait_s
        self.headers = headers or {}


class Busy(ServiceError):
    """The server is overloaded; try again soon."""

    code = "busy"
    status = 503
    example = ("64 reads wait already",)
    temporary = True
    retry_after_s = 1


class Unavailable(ServiceError):
    """The database cannot be reached; try again soon."""

    code = "unavailable"
    status = 503
    example = ("the database did not answer in time",)
    temporary = True
    retry_after_s = 1


class InternalError(ServiceError):
    """An unexpected error occurred in the server."""

    code = "internal_error"
    status = 500


ERRORS: dict[str, type[ServiceError]] = {error.code: error for error in ServiceError.__subclasses__()}
"""Each error by its code."""
