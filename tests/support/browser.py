"""The browser of the tests: Chromium from the packages of tests/js, run by a script of Node."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.example_clients import ExampleProcess
from tests.support.node import FOLDER, run_node

BROWSE_S_MAX = 120
# The package's own list names fixed folders and ignores TMPDIR; a browser that finds no font at all crashes.
FONTS = "<fontconfig><dir>{folder}/fonts</dir><cachedir>{folder}/fonts-cache</cachedir></fontconfig>"


def prepare(folder: Path) -> None:
    """Make a folder ready for the browser and its fonts to be unpacked in."""
    (folder / "fonts.conf").write_text(FONTS.format(folder=folder))


@asynccontextmanager
async def run_browser(script: str, *args: str, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a script of tests/js that drives the browser; kill both at the end of the block if they still run."""
    # For that runtime the package unpacks the libraries that a bare machine lacks beside its browser.
    folders = dict.fromkeys(("TMPDIR", "HOME", "FONTCONFIG_PATH"), str(folder))
    async with run_node(FOLDER / script, *args, env={"AWS_LAMBDA_JS_RUNTIME": "nodejs22.x", **folders}) as process:
        yield process


async def run_in_browser(script: str, *args: str, folder: Path) -> dict[str, Any]:
    """Run a script of tests/js that drives the browser; return the line of JSON that it prints."""
    async with run_browser(script, *args, folder=folder) as process:
        out, err = await asyncio.wait_for(process.communicate(), BROWSE_S_MAX)
    assert process.returncode == 0, err.decode()
    result: dict[str, Any] = json.loads(out)
    return result


class LivePage:
    """A page that a script of tests/js has opened; the script prints what it shows whenever that changes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._printed = ExampleProcess(process)

    @classmethod
    @asynccontextmanager
    async def open(cls, script: str, *args: str, folder: Path) -> AsyncIterator[LivePage]:
        """Open a page by a script that takes these arguments; close it at the end of the block."""
        async with run_browser(script, *args, folder=folder) as process:
            yield cls(process)

    async def shows(self, *parts: str) -> dict[str, Any]:
        """Wait until the page shows all of these texts at once; return what it shows. Fails on a problem."""
        name, shown = json.loads(await self._printed.line(*parts))
        assert name == "shown", shown
        return dict(shown)

    @property
    def shown(self) -> list[dict[str, Any]]:
        """All that the page has shown so far. Fails if it had a problem."""
        printed = [json.loads(line) for line in self._printed.lines]
        assert [what for name, what in printed if name == "problem"] == []
        return [what for _, what in printed]
