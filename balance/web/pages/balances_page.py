"""The page at `/`: the balances now and over time, live. Its files are those of the folder `balances`.

The charts are drawn by Plotly's JavaScript, a file of the package plotly, which is not imported. The page follows
`page_headers`: nothing is loaded from another server, and no script or style is inline.
"""

from __future__ import annotations

import re
from functools import cache

from balance.web.pages import FOLDER, HTML, MEDIA_TYPES, ROOT, package_folder, page_headers, render
from protocol.documents import Document

BALANCES = "/balances"
"""The addresses of the files begin with this."""
MODULES = FOLDER / "balances"
PAGE_HEADERS = page_headers(
    images="data: blob:",  # those that Plotly makes
    styles="'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='",  # of an empty element, to which Plotly adds rules
)
"""Headers of the page and its files."""
# A part of Plotly for maps, which are not used, inserts a style sheet unless there is an element with its id. The
# policy would refuse it with an error in the console.
STYLE_ID = re.compile(rb'getElementById\("([0-9a-f]{64})"\)')


@cache
def balances(prefix: str) -> dict[str, Document]:
    """Return the page and its files, by address. Raises LookupError if Plotly is not installed."""
    plotly = package_folder("plotly", f"{ROOT} needs plotly") / "package_data" / "plotly.min.js"
    files = {path.name: path for path in sorted(MODULES.iterdir()) if path.suffix in MEDIA_TYPES}
    modules = [name for name in files if name.endswith(".js")]
    scripts = plotly.read_bytes()
    ready_styles = [name.decode() for name in STYLE_ID.findall(scripts)]
    found = [
        Document(f"{BALANCES}/{name}", name, MEDIA_TYPES[path.suffix], path.read_bytes())
        for name, path in files.items()
    ]
    used = {"files": prefix + BALANCES, "modules": modules, "ready_styles": ready_styles}
    page = render("balances/index.html", ROOT, prefix, **used)
    found.append(Document(f"{BALANCES}/plotly.js", "plotly.js", MEDIA_TYPES[".js"], scripts))
    found.append(Document(ROOT, "index.html", HTML, page))
    return {document.path: document for document in found}
