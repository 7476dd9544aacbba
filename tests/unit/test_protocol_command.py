"""The command `python -m protocol`, which needs no server."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

import protocol
from protocol import dumps
from protocol.__main__ import main
from tests.support.repository import ROOT
from tests.support.strategies import UPDATE


def python(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run this Python at the top of the repository."""
    return subprocess.run(
        [sys.executable, *arguments],
        check=False,
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        cwd=ROOT,
        env={"PYTHONIOENCODING": "utf-8", "PYTHONDONTWRITEBYTECODE": "1", **environment},
        timeout=30,
    )


def test_protocol_does_not_depend_on_the_service():
    code = (
        "import sys, protocol, protocol.__main__\n"
        "print({name.partition('.')[0] for name in sys.modules}"
        " & {'balance', 'tornado', 'socketio', 'engineio', 'psycopg', 'psycopg_pool'})"
    )
    assert python("-c", code).stdout == "set()\n"


def test_list_prints_the_names_of_all_schemas():
    done = python("-m", "protocol", "list")
    assert (done.returncode, done.stdout.split()) == (0, protocol.names())


def test_show_prints_the_file_of_a_schema():
    done = python("-m", "protocol", "show", "amount")
    assert (done.returncode, done.stdout) == (0, (ROOT / "protocol/schemas/amount.json").read_text())
    assert json.loads(done.stdout)["title"] == "Amount"


def test_check_reads_a_file_or_standard_input(tmp_path):
    file = tmp_path / "update.json"
    file.write_text(dumps(UPDATE))
    for arguments, stdin in (((str(file),), ""), (("-",), dumps(UPDATE)), ((), dumps(UPDATE))):
        done = python("-m", "protocol", "check", "balance_update", *arguments, stdin=stdin)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("stdin", "error"),
    [
        ("{}", "onchain: is required"),
        ("{", "payload: is not valid JSON"),
        (dumps({**UPDATE, "é\n": 1}), '"\\u00e9\\n": is not a known field'),
    ],
)
def test_check_prints_the_error_and_exits_with_status_1(stdin, error):
    done = python("-m", "protocol", "check", "balance_update", stdin=stdin)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", error + "\n")


@pytest.mark.parametrize(
    "arguments", [(), ("dance",), ("show",), ("show", "nothing"), ("check", "amount", "no/such/file")]
)
def test_wrong_usage_exits_with_status_2(arguments):
    done = python("-m", "protocol", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: python -m protocol" in done.stderr


@pytest.mark.parametrize("command", [("check", "amount"), ("write",), ("diff",), ("diff", "protocol/schemas")])
def test_an_empty_name_of_a_file_or_folder_is_wrong_usage(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([*command, ""])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(": must not be empty\n")
    assert list(tmp_path.iterdir()) == []


def test_diff_prints_what_a_change_breaks(tmp_path):
    new = tmp_path / "new"
    shutil.copytree(ROOT / "protocol/schemas", new)
    (new / "pong.json").write_text((new / "pong.json").read_text().replace('["timestamp"]', "[]"))
    done = python("-m", "protocol", "diff", "protocol/schemas", str(new))
    line = "breaks receivers: pong: timestamp: was required, is optional\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, line, "")
    same = python("-m", "protocol", "diff", "protocol/schemas", "protocol/schemas")
    assert (same.returncode, same.stdout, same.stderr) == (0, "", "")
    missing = python("-m", "protocol", "diff", "protocol/schemas", "nowhere")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr.endswith("error: nowhere: No such file or directory\n")


def test_a_closed_input_is_wrong_usage():
    program = f"exec {sys.executable} -m protocol check amount <&-"
    done = subprocess.run(["bash", "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("error: -: it is closed\n")


@pytest.mark.parametrize("command", ["list", "show balance_update", "write {}"])
def test_an_output_that_is_not_read_or_cannot_be_written_has_no_traceback(command, tmp_path):
    for output, error in (
        ("| true", ""),
        ("> /dev/full", "python -m protocol: error: standard output: No space left on device\n"),
    ):
        program = f"exec {sys.executable} -m protocol {command.format(tmp_path)}"
        line = f"(sleep 0.1; {program}) {output}; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stderr) == (2, error)
