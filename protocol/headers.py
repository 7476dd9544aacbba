"""The table of the response headers that matter to clients, and the request header of every operation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Header:
    """One header of responses."""

    description: str
    """What it has, for a person."""
    is_always_sent: bool = True
    """Whether each response that may have it has it."""
    is_number: bool = False


REQUEST_ID = "X-Request-Id"
RATE_LIMIT = ("RateLimit-Policy", "RateLimit")
HEADERS: dict[str, Header] = {
    "Content-Disposition": Header("The name of the file in which a browser stores the response (RFC 6266)."),
    "ETag": Header(
        "The version of the document (RFC 9110, section 8.8.3). Send it in If-None-Match with the next request."
    ),
    "Location": Header("The path of the snapshot."),
    "RateLimit": Header(
        "What is left of the limit: `r`, and the seconds `t` after which all of it is available again "
        "(draft-ietf-httpapi-ratelimit-headers-11). In each response to a save if the server limits saves, and in each "
        "`rate_limited`.",
        is_always_sent=False,
    ),
    "RateLimit-Policy": Header(
        "The limit: its name, and its quota `q` in a window of `w` seconds. With `RateLimit`.",
        is_always_sent=False,
    ),
    "Retry-After": Header("Seconds to wait before sending the same request again.", is_number=True),
    "WWW-Authenticate": Header(
        "Which credential is needed, and what is wrong with the one sent (RFC 6750, section 3). Always with "
        "`unauthorized`; with `forbidden` if a credential with the scope that it names would do.",
        is_always_sent=False,
    ),
    REQUEST_ID: Header("Names the request in the log of the server: the id that was sent with it, or a new one."),
}
"""Each response header, with its meaning."""
REQUEST_ID_SENT = (
    "Names the request in the log of the server and in its response: 1 to 128 letters, digits and `._-`. Any other is "
    "ignored."
)
