"""The arguments of `server.py watch`, each checked before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from balance import cli

RULE, POST = "--rule=silent 5s", "--post=https://alarms.example.com/a-secret-path"


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the only line with which `watch` refuses arguments."""
    assert cli.main(["watch", *arguments]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert "a-secret-path" not in line
    return line.partition(": ")[2]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "watch: needs at least one --rule, such as --rule 'pid 7 silent 120s'"),
        (("--rule=x",), "--rule: 'x': expected an amount such as onchain.usdt, pid, sum, any or silent at character 1"),
        ((RULE,), "watch: needs --post, the URL to which alarms are sent"),
        ((RULE, RULE, POST), "--rule: 'silent 5s' is given twice"),
        ((RULE, "--post=ftp://example.com"), "--post: must be like https://example.com/path"),
        ((RULE, "--post=http://example.com:99999"), "--post: must be like https://example.com/path"),
        (
            (RULE, "--post=http://[::ffff:127.0.0.1]/"),
            "--post: ::ffff:127.0.0.1 is not a public address",
        ),
        ((RULE, "--post=http://169.254.169.254/"), "--post: 169.254.169.254 is not a public address"),
        ((RULE, "--post=http://alarms example/"), "--post: must be like https://example.com/path"),
        ((RULE, POST, "--url=x"), "--url: must be like http://127.0.0.1:3000"),
        ((RULE, POST, "--port=0"), "--port: must be that of a running server, which 0 is not"),
        ((RULE, POST, "--host=a]b"), "--host: must be like 127.0.0.1 or balance.example.com"),
        ((RULE, POST, "--token-file=none"), "--token-file: none: No such file or directory"),
        ((RULE, POST, "--secret-file=none"), "--secret-file: none: No such file or directory"),
        ((RULE, POST, "--state=/none/x"), "--state: /none/x: No such file or directory"),
        ((RULE, POST, "--state=."), "--state: .: is not a regular file"),
        ((RULE, POST, "--state="), "argument --state: must not be empty"),
        ((RULE, POST, "--format=x"), "argument --format: invalid choice: 'x'"),
        ((RULE, POST, "--rules=x"), "unrecognized arguments: --rules=x"),
    ],
)
def test_a_bad_argument_ends_it_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], reason: str
) -> None:
    assert refusal(capsys, *arguments).startswith(reason)


def test_a_secret_and_a_state_that_cannot_be_used_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    secret, state = tmp_path / "secret", tmp_path / "state"
    for text in ("hunter2", "whsec_hunter2", "whsec_aGk="):
        secret.write_text(text)
        line = refusal(capsys, RULE, POST, f"--secret-file={secret}")
        assert line.startswith(f"--secret-file: {secret}: is not whsec_ and base64")
        assert "hunter2" not in line
    for text in ('{"version": 99}', "[]", "{", "\xff"):
        state.write_text(text, "latin1")
        line = refusal(capsys, RULE, POST, f"--state={state}")
        assert line == f"--state: {state}: is not the state of a watch"


def test_help_names_the_rules(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["watch", "--help"])
    assert ended.value.code == 0
    assert "'onchain.usdt drops 10% in 1h'" in " ".join(capsys.readouterr().out.split())
