"""protocol/types.d.ts has the types of the schemas and events, and `tsc --strict` finds the errors of a client.

tests/js/typed-client.ts does all that a client may do, and compiles. Each row of `WRONG` changes one line of it. The
compiler must find an error in that line and in no other, so that no row passes or fails for another reason.
"""

from __future__ import annotations

import difflib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import protocol
from tests.support.node import FOLDER, node, node_modules
from tests.support.typescript import COMMAND, FILE, generate

TSC_S_MAX = 60
CLIENT = FOLDER / "typed-client.ts"
STRICT = {
    "strict": True,
    "noEmit": True,
    "skipLibCheck": False,  # so that types.d.ts is checked as well
    "target": "es2022",
    "lib": ["es2022", "dom", "dom.iterable"],
    "types": [],
    "typeRoots": [],
}
# The module resolution of Node and the one of bundlers; socket.io-client has different declarations for them.
RESOLUTIONS = {"node16": "node16", "bundler": "esnext"}

# The mistake; a text that is once in the client; the text that replaces it; the error of tsc in that line.
WRONG = [
    ("a misspelt field of an update", "  pid: 1132978,", "  pdi: 1132978,", "TS2353"),
    ("a misspelt field in emit", "{ onchain: { rlb: 1,", "{ tss: '', onchain: { rlb: 1,", "TS2353"),
    (
        "a misspelt field in emitWithAck",
        "(1000).emitWithAck('balance:update', update)",
        "(1000).emitWithAck('balance:update', { ...update, tss: '' })",
        "TS2353",
    ),
    ("an amount as a string", "usdt: 7656.36", "usdt: '7656.36'", "TS2322"),
    ("an amount of another asset as a string", "'other.asset': 0.5", "'other.asset': '0.5'", "TS2322"),
    ("a required asset left out", "{ rlb: 101132.407627, usd: 7646.96 }", "{ rlb: 101132.407627 }", "TS2741"),
    ("a ledger left out", ", onsite: { rlb: 0, usd: 0 } }", " }", "TS2741"),
    ("a ledger left out in emit", ", onsite: { rlb: 3, usd: 4 } }", " }", "TS2345"),
    ("a moment as a Date", "ts: new Date().toISOString()", "ts: new Date()", "TS2322"),
    ("an id that is a number", "{ id: null, ts", "{ id: 7, ts", "TS2322"),
    ("an unknown error code", "'rate_limited'", "'rate_limit'", "TS2820"),
    ("a field of auth", "{} satisfies ConnectAuth", "{ surprise: '' } satisfies ConnectAuth", "TS2353"),
    (
        "an event that no server sends",
        "('balance:ack', (ack) => console.log(ack.id, ack.timestamp))",
        "('balance:saved', () => {})",
        "TS2345",
    ),
    (
        "an event that only clients send",
        "('balance:ack', (ack) => console.log(ack.id, ack.timestamp))",
        "('balance:update', () => {})",
        "TS2345",
    ),
    ("an event that no client sends", "  socket.emit('ping');", "  socket.emit('pang');", "TS2345"),
    ("an event that only the server sends", "  socket.emit('ping');", "  socket.emit('pong');", "TS2345"),
    (
        "an update that is a number",
        "socket.emit('balance:update', update)",
        "socket.emit('balance:update', 7)",
        "TS2345",
    ),
    ("no update", "socket.emit('balance:update', update)", "socket.emit('balance:update')", "TS2345"),
    (
        "a number instead of a callback",
        "volatile.emit('balance:update', update)",
        "volatile.emit('balance:update', update, 7)",
        "TS2345",
    ),
    (
        "a callback of another event",
        "socket.emit('ping', (pong) => console.log(reportPong(pong)))",
        "socket.emit('ping', (reply) => console.log(report(reply)))",
        "TS2345",
    ),
    (
        "a listener for another payload",
        "(ack) => console.log(ack.id, ack.timestamp)",
        "(ack: Snapshot) => console.log(ack.id)",
        "TS2345",
    ),
    (
        "no callback where a callback is required",
        "  andBack.volatile.emit('ping')",
        "  retrying.volatile.emit('ping')",
        "TS2554",
    ),
    ("a field that a snapshot does not have", "snapshot.ts, pid", "snapshot.timestamp, pid", "TS2339"),
    ("a pid that may be null as a number", "pid: number | null =", "pid: number =", "TS2322"),
    ("a field that an acknowledgement does not have", "ack.id, ack.timestamp", "ack.id, ack.ts", "TS2339"),
    ("a field that an error does not have", "console.log(error.code, ", "console.log(error.timestamp, ", "TS2339"),
    (
        "a reply that may be a refusal in a callback",
        "smallest, (reply) => console.log(report(reply))",
        "smallest, (reply) => console.log(reply.timestamp)",
        "TS2339",
    ),
    ("a reply that may be a refusal after a timeout", "error ?? report(late)", "error ?? late.timestamp", "TS2339"),
    (
        "a reply that may be a refusal of emitWithAck",
        "known, reply.success ? reply.timestamp : reply.error",
        "known, reply.timestamp",
        "TS2339",
    ),
    (
        "a reply with success and failure exchanged",
        "reply.success ? reply.timestamp : reply.error",
        "reply.success ? reply.error : 0",
        "TS2339",
    ),
    ("an answer of REST that is a refusal", "Error(`${saved.code}: ${saved.error}`)", "Error(saved.message)", "TS2339"),
    ("an answer of REST that may be a refusal", "got.success ? [got.data] : []", "[got.data]", "TS2322"),
    ("a position without a number", "{ after: last, epoch }", "{ after: `${last}`, epoch }", "TS2322"),
    ("an offset as a number", "offset?.length", "offset?.size", "TS2339"),
    (
        "a field that may be missing as a number",
        "greeting.goodUntil ?? 0",
        "greeting.goodUntil + 0",
        "TS18048",
    ),
    ("an unknown reason", "=== 'diverged'", "=== 'lost'", "TS2367"),
    ("an answer of the feed that may be a refusal", "!part.success ? part.goodUntil : ", "", "TS2339"),
    ("a word that is not now", "after: 'now',", "after: 'end',", "TS2322"),
    ("a newest snapshot that may be missing", "latest.data.newest?.seq", "latest.data.newest.seq", "TS18047"),
    ("an event that no stream has", "StreamEvents['bye']", "StreamEvents['end']", "TS2339"),
    ("an unknown parameter of the list", "{ limit: 10, from: ", "{ limit: 10, since: ", "TS2353"),
    ("a cursor that may be null as a string", "next: string | null =", "next: string =", "TS2322"),
]


def tsc(folder: Path, clients: dict[str, str], resolution: str) -> dict[str, list[tuple[int, str]]]:
    """Compile clients by name; return the errors in each, as line and code. Fail on any other error."""
    files = {f"tests/js/{name}.ts": code for name, code in clients.items()}
    options = STRICT | {"moduleResolution": resolution, "module": RESOLUTIONS[resolution]}
    files["tsconfig.json"] = json.dumps({"compilerOptions": options, "files": list(files)})
    files["protocol/types.d.ts"] = FILE.read_text("utf-8")
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    (folder / "tests" / "js" / "node_modules").symlink_to(node_modules())
    done = subprocess.run(
        [node(), node_modules() / "typescript" / "bin" / "tsc", "--project", folder, "--pretty", "false"],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        timeout=TSC_S_MAX,
        check=False,
    )
    found: dict[str, list[tuple[int, str]]] = {name: [] for name in clients}
    # The details of an error follow in lines that are indented.
    for line in re.findall(r"^\S.*", done.stdout + done.stderr, re.MULTILINE):
        error = re.match(r"tests/js/(.+)\.ts\((\d+),\d+\): error (TS\d+): ", line)
        assert error, f"not in a client: {done.stdout}{done.stderr}"
        found[error[1]].append((int(error[2]), error[3]))
    assert (done.returncode == 0) == (not any(found.values())), f"tsc ended with {done.returncode}"
    return found


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> list[list[tuple[int, str]]]:
    """The errors in each of `WRONG`, all compiled at once."""
    code = CLIENT.read_text("utf-8")
    clients = {f"wrong-{number}": code.replace(right, wrong) for number, (_, right, wrong, _) in enumerate(WRONG)}
    return list(tsc(tmp_path_factory.mktemp("wrong"), clients, "bundler").values())


def test_the_types_are_those_of_the_current_schemas_and_events() -> None:
    written = FILE.read_text("utf-8")
    wanted = generate()
    diff = difflib.unified_diff(written.splitlines(), wanted.splitlines(), "as it is", "as it should be", lineterm="")
    assert written == wanted, f"generate protocol/types.d.ts again: {COMMAND}\n" + "\n".join(diff)


def test_every_schema_is_one_type_under_its_title_and_the_events_come_last() -> None:
    exported = re.findall(r"^export (?:interface|type) (\w+)", FILE.read_text("utf-8"), re.MULTILINE)
    titles = [protocol.schema(name)["title"] for name in protocol.names()]
    assert exported == [
        *titles,
        *("AcknowledgedEvents", "ClientToServerEvents", "ServerToClientEvents", "StreamEvents"),
    ]


def test_every_description_in_the_schemas_is_a_comment() -> None:
    text = FILE.read_text("utf-8")
    found = [description for name in protocol.names() for description in descriptions(protocol.schema(name))]
    assert len(found) > 100, "they are found by their keyword"
    assert [description for description in found if f" * {description}\n" not in text] == []


def descriptions(schema: Any) -> Iterator[str]:
    """Every description in a schema, at any depth."""
    for key, value in schema.items() if isinstance(schema, dict) else ():
        if key == "description" and isinstance(value, str):
            yield value
        elif key != "examples":
            yield from descriptions(value)


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_a_correct_client_compiles(resolution: str, tmp_path: Path) -> None:
    assert tsc(tmp_path, {"right": CLIENT.read_text("utf-8")}, resolution) == {"right": []}


@pytest.mark.parametrize("number", range(len(WRONG)), ids=[name for name, *_ in WRONG])
def test_a_client_does_not_compile_with(number: int, errors: list[list[tuple[int, str]]]) -> None:
    _, right, _, code = WRONG[number]
    before, *after = CLIENT.read_text("utf-8").split(right)
    assert len(after) == 1, f"{right!r} is {len(after)} times in {CLIENT}"
    assert set(errors[number]) == {(before.count("\n") + 1, code)}
