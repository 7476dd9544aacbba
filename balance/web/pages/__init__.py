"""The pages on which people read and try the contract: REST at /api/docs, the Socket.IO events at /api/docs/events.

They are rendered once, from the tables and schemas of `protocol`, as documents like those of the contract. They load
nothing from another server and have no inline script or style, so that `HEADERS` can forbid both. Swagger UI shows
REST; its files are those of the package flask-swagger-ui, which is not imported, because it would import Flask.

All pages, also that of `balances_page`, have the head and the header of layout.html and the design of design.css.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from tornado.template import Loader

from balance.web.pages.events import groups
from protocol import ERRORS
from protocol.documents import Document
from protocol.events import (
    CONNECT,
    HANDSHAKE_ERRORS,
    NAMESPACE,
    SOCKET_PATH,
)
from protocol.limits import Limits
from protocol.operations import ASYNCAPI, CONTRACT, DOCS, OPENAPI

EVENTS_PAGE = f"{DOCS}/events"
ROOT = "/"
"""The address of the page of the balances."""
HTML = "text/html; charset=utf-8"


def page_headers(*, images: str, styles: str = "") -> dict[str, str]:
    """Return the headers of each page and its files, which permit further sources of images and styles."""
    policy = (
        "default-src 'none'",
        "script-src 'self'",
        f"style-src 'self' {styles}".rstrip(),
        f"img-src 'self' {images}",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    return {
        "Content-Security-Policy": "; ".join(policy),
        "Referrer-Policy": "same-origin",  # with no-referrer, some browsers send `Origin: null`, which may not call
        "Cross-Origin-Opener-Policy": "same-origin",  # a page that opens this one in a window gets no reference to it
        "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    }


# style-src needs no 'unsafe-inline': React sets styles in the DOM, which the policy does not restrict.
HEADERS = page_headers(images="data:")  # the icons in the style sheet of Swagger UI
"""Headers of each page of the documentation and its files."""

FOLDER = Path(__file__).parent
LANGUAGES = {".mjs": "JavaScript", ".py": "Python", ".ts": "TypeScript"}
MEDIA_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".png": "image/png"}


class Snippet(NamedTuple):
    """A program of protocol/guide, for a reader to copy."""

    language: str
    file: str
    text: str


@cache
def pages(limits: Limits) -> dict[str, Document]:
    """Return the pages and their files, by address. Raises LookupError if Swagger UI is not installed."""
    dist = _swagger_ui()
    files = {path.name: path for path in FOLDER.iterdir() if path.suffix in MEDIA_TYPES}
    files |= {name: dist / name for name in ("swagger-ui-bundle.js", "swagger-ui.css")}
    files["favicon.png"] = dist / "favicon-32x32.png"
    found = [
        Document(f"{DOCS}/{name}", name, MEDIA_TYPES[path.suffix], path.read_bytes()) for name, path in files.items()
    ]
    found += [
        Document(DOCS, "rest.html", HTML, _render("rest.html", DOCS, limits)),
        Document(EVENTS_PAGE, "events.html", HTML, _render("events.html", EVENTS_PAGE, limits)),
    ]
    return {document.path: document for document in found}


def _swagger_ui() -> Path:
    """Return the folder with the files of Swagger UI."""
    return package_folder("flask_swagger_ui", f"{DOCS} needs flask-swagger-ui") / "dist"


def package_folder(name: str, need: str) -> Path:
    """Return the folder of an installed package, which is not imported. `need` begins the LookupError."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise LookupError(f"{need}, which is not installed: see requirements.txt")
    return Path(spec.submodule_search_locations[0])


def render(name: str, address: str, prefix: str, **values: Any) -> bytes:
    """Render the page at an address from a template of `FOLDER`, with what layout.html uses."""
    pages_of_header = {"balances_page": prefix + ROOT, "rest_page": prefix + DOCS, "events_page": prefix + EVENTS_PAGE}
    return Loader(str(FOLDER)).load(name).generate(here=prefix + address, prefix=prefix, **pages_of_header, **values)


def _render(name: str, address: str, limits: Limits) -> bytes:
    prefix = limits.prefix
    return render(
        name,
        address,
        prefix,
        contract=prefix + CONTRACT,
        openapi=prefix + OPENAPI,
        asyncapi=prefix + ASYNCAPI,
        snippets=list(_snippets(prefix)),
        groups=groups(),
        connect=CONNECT,
        handshake_errors=HANDSHAKE_ERRORS,
        errors=ERRORS.values(),
        socket_path=prefix + SOCKET_PATH,
        namespace=NAMESPACE,
        limits=limits,
    )


def _snippets(prefix: str) -> Iterator[Snippet]:
    """Yield the programs; the page puts the address of the server into them, with the prefix, but not into a path."""
    folder = resources.files("protocol") / "guide"
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        suffix = Path(file.name).suffix
        if suffix in LANGUAGES:
            text = file.read_text("utf-8").replace(f"'{SOCKET_PATH}'", f"'{prefix}{SOCKET_PATH}'")
            yield Snippet(LANGUAGES[suffix], file.name, text)
