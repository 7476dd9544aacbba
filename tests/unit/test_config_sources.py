"""Where settings come from: flag, variable, file, default, in this order; each error is one line without a value."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from balance.config import Config
from balance.config_sources import CLIENT_VARIABLES
from balance.setting import ConfigError
from tests.support.repository import ROOT

SECRET = "hunter2-marked"


def refusal(*argv: str, **env: str) -> str:
    """Return the line with which these settings are refused."""
    with pytest.raises(ConfigError) as caught:
        Config.read(argv, env)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the path of a file with settings that a test may replace."""
    path = tmp_path / "balance.toml"
    path.write_text('port = 4000\nhosts = ["a.example", "b.example"]\ndata_dir = "elsewhere"\n')
    return path


def test_a_flag_precedes_a_variable_that_a_file_and_that_the_default(file: Path) -> None:
    config = Config.read(["--config", str(file)], {"BALANCE_DATA_DIR": "here"})
    assert (config.port, config.hosts, config.data_dir) == (4000, ("a.example", "b.example"), Path("here"))
    assert Config.read(["--port", "5000", "--config", str(file)], {"BALANCE_PORT": "6000"}).port == 5000
    assert Config.read([], {"BALANCE_PORT": "6000", "BALANCE_CONFIG": str(file)}).port == 6000


def test_sources_name_where_each_setting_comes_from(file: Path) -> None:
    sources = Config.read(["--config", str(file), "--host", "::1"], {"BALANCE_DATA_DIR": "here"}).sources
    assert sources["port"] == f"file {file}"
    assert sources["data_dir"] == "variable BALANCE_DATA_DIR"
    assert sources["host"] == "flag --host"
    assert sources["pool_max"] == "default"
    assert Config(port=1).sources["port"] == "default", "only `read` knows where they come from"


def test_an_unknown_variable_is_refused_with_the_nearest_name() -> None:
    assert refusal(BALANCE_PROT="1") == "BALANCE_PROT: is not a setting; did you mean BALANCE_PORT?"
    assert refusal(BALANCE_XYZZY=SECRET) == "BALANCE_XYZZY: is not a setting"
    assert Config.read([], {"BALANCE_XYZZY": "", "PROT": "1"}) == Config()


def test_the_variables_of_the_example_clients_are_not_settings_and_are_ignored() -> None:
    texts = [file.read_text() for file in (ROOT / "examples").iterdir() if file.suffix in (".js", ".py", ".sh")]
    found = {name for text in texts for name in re.findall(r"BALANCE_[A-Z_]+", text)}
    assert found == CLIENT_VARIABLES
    assert Config.read([], dict.fromkeys(found, SECRET)) == Config()
    assert refusal(BALANCE_TOKENS=SECRET).startswith("BALANCE_TOKENS: is not a setting")


@pytest.mark.parametrize(
    "name", ["BALANCE_SERVICE_HOST", "BALANCE_SERVICE_PORT_HTTP", "BALANCE_PORT_3000_TCP", "BALANCE_WEB_SERVICE_PORT"]
)
def test_a_variable_of_kubernetes_is_refused_with_the_remedy(name: str) -> None:
    assert refusal(**{name: "10.0.0.1"}).endswith("set enableServiceLinks: false")


def test_an_unknown_flag_is_refused_with_the_nearest_name() -> None:
    assert refusal("--prot=1") == "unrecognized arguments: --prot=1; did you mean --port?"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("prot = 1", "'prot' is not a setting; did you mean port?"),
        ("body-bytes-max = 1", "'body-bytes-max' is not a setting; did you mean body_bytes_max?"),
        ('config = "other.toml"', "'config' is not a setting"),
        ("[port]\nx = 1", "port: must be a whole number, a text or a list of texts"),
        ("port = 1.5", "port: must be a whole number, a text or a list of texts"),
        ("hosts = [1]", "hosts: must be a whole number, a text or a list of texts"),
        (f'database_url = "{SECRET}', "is not TOML: see"),
        (f"{SECRET}", "is not TOML: "),
        ("\udcff", "is not UTF-8"),
    ],
)
def test_a_file_that_is_not_settings_is_refused(file: Path, text: str, fault: str) -> None:
    file.write_bytes(text.encode(errors="surrogateescape"))
    assert refusal("--config", str(file)).startswith(f"--config: {file}: {fault}")


def test_a_bad_value_names_the_setting_and_its_source(file: Path) -> None:
    file.write_text("port = 70000")
    expected = "--port: 70000 is not between 0 and 65535"
    assert refusal("--config", str(file)) == f"{expected} (file {file})"
    assert refusal(BALANCE_PORT="70000") == f"{expected} (variable BALANCE_PORT)"
    assert refusal("--port=70000") == expected
    neither = "--allow-anonymous: 'maybe' is neither yes nor no"
    assert refusal("--allow-anonymous=maybe") == neither
    assert refusal(BALANCE_ALLOW_ANONYMOUS="maybe") == f"{neither} (variable BALANCE_ALLOW_ANONYMOUS)"
    assert refusal("--tls-key=x") == "--tls-cert, --tls-key: one is given without the other"
    assert refusal(BALANCE_LOG_FORMAT="xml") == (
        "--log-format: 'xml' is not one of text, json (variable BALANCE_LOG_FORMAT)"
    )


def test_a_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    assert refusal("--config", str(tmp_path / "no")) == f"--config: {tmp_path / 'no'}: No such file or directory"
    assert refusal(DATABASE_URL_FILE=str(tmp_path)).startswith(f"--database-url-file: {tmp_path}: ")


def test_the_url_of_the_database_may_be_in_a_file_of_its_own(tmp_path: Path, file: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text(f"postgresql://bot:{SECRET}@db/balance\n")
    config = Config.read([], {"DATABASE_URL_FILE": str(secret)})
    assert config.database_url == f"postgresql://bot:{SECRET}@db/balance"
    assert config.sources["database_url"] == f"file {secret}"
    assert SECRET not in repr(config)
    file.write_text('database_url = "postgresql://other/balance"')
    assert Config.read(["--config", str(file)], {"DATABASE_URL_FILE": str(secret)}).database_url == config.database_url
    given = Config.read(["--database-url", "postgresql://third/balance"], {"DATABASE_URL_FILE": str(secret)})
    assert given.database_url == "postgresql://third/balance"


def test_two_urls_of_the_database_from_one_source_are_refused(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://db/balance")
    both = {"DATABASE_URL": SECRET, "DATABASE_URL_FILE": str(tmp_path / "url")}
    assert refusal(**both) == "--database-url-file: --database-url is given too; leave one of them out"


@pytest.mark.parametrize("text", ["", "\n\n", f"{SECRET}\n{SECRET}"])
def test_a_file_that_is_not_one_line_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "url").write_text(text)
    assert refusal("--database-url-file", str(tmp_path / "url")).endswith("must have one line, the URL")
