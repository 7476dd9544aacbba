"""Settings: a flag precedes a variable, a variable precedes the default; each is checked, with an error of one line."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from balance.config import Config
from balance.setting import ConfigError, flag, variable

NUMBERS = [one for one in fields(Config) if type(one.default) is int]


def refusal(*argv: str, **env: str) -> str:
    """Return the line with which these settings are refused."""
    with pytest.raises(ConfigError) as caught:
        Config.read(argv, env)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_flags_and_variables_every_setting_has_its_default() -> None:
    assert Config.read([], {}) == Config()


def test_a_flag_precedes_a_variable_and_that_precedes_the_default() -> None:
    assert Config.read([], {"BALANCE_PORT": "4000"}).port == 4000
    assert Config.read(["--port", "5000"], {"BALANCE_PORT": "4000"}).port == 5000


def test_an_empty_variable_of_any_setting_is_ignored() -> None:
    assert Config.read([], {variable(one): "" for one in fields(Config)}) == Config()


@pytest.mark.parametrize("one", fields(Config), ids=lambda one: one.name)
def test_an_empty_flag_is_refused_rather_than_taken_for_something_else(one) -> None:
    for argv in ([f"{flag(one)}="], [flag(one), ""]):
        assert refusal(*argv) == f"{flag(one)}: must not be empty; leave it out for its default"


def test_an_empty_data_folder_in_the_file_is_refused(tmp_path: Path) -> None:
    (file := tmp_path / "balance.toml").write_text('data_dir = ""\nkeep = ""\n')
    assert refusal(f"--config={file}") == f"--data-dir: must not be empty (file {file})"


def test_lists_are_separated_by_commas_and_origins_have_no_slash_at_the_end() -> None:
    config = Config.read(["--cors-origins", "https://a.example/, http://b.example:8080"], {})
    assert config.cors_origins == ("https://a.example", "http://b.example:8080")


def test_the_data_folder_is_a_path() -> None:
    assert Config.read(["--data-dir", "elsewhere"], {}).data_dir == Path("elsewhere")


@pytest.mark.parametrize("one", NUMBERS, ids=lambda one: one.name)
def test_a_number_out_of_its_range_is_refused_by_flag_and_by_variable(one) -> None:
    for value in (one.metadata["low"] - 1, one.metadata["high"] + 1):
        assert refusal(flag(one), str(value)).startswith(f"{flag(one)}: {value} is not between ")
        assert refusal(**{variable(one): str(value)}).startswith(f"{flag(one)}: {value} is not between ")


@pytest.mark.parametrize("one", NUMBERS, ids=lambda one: one.name)
def test_a_number_at_each_end_of_its_range_is_accepted(one) -> None:
    for value in (one.metadata["low"], one.metadata["high"]):
        assert getattr(Config.read([flag(one), str(value)], {}), one.name) == value


@pytest.mark.parametrize("text", ["abc", "1.5", "1e3", " 7", "٣", "9" * 30])
def test_a_value_that_is_not_a_whole_number_is_refused(text: str) -> None:
    assert refusal("--port", text) == f"--port: {text!r} is not a whole number"


def test_an_ipv6_address_in_brackets_and_a_scheme_that_is_not_of_http_get_a_hint() -> None:
    assert refusal("--host=[::1]") == "--host: '[::1]' has brackets: write the IPv6 address without them"
    assert refusal("--public-url=ftp://x").endswith(": it must begin with https:// or http://")
    for scheme in ("http", "https"):
        assert Config.read([f"--public-url={scheme}://x"], {}).public_url == f"{scheme}://x"


@pytest.mark.parametrize("origin", ["dashboard.example", "https://a.example/page", "ftp://a.example", "null"])
def test_a_value_that_is_not_an_origin_is_refused(origin: str) -> None:
    assert refusal("--cors-origins", origin).startswith(f"--cors-origins: {origin!r} is not an origin")


@pytest.mark.parametrize("argv", [["--nix", "1"], ["--por", "1"], ["--port"], ["serve"]])
def test_an_unknown_setting_is_refused(argv: list[str]) -> None:
    assert refusal(*argv)


def test_settings_never_change_and_do_not_show_the_password_of_the_database() -> None:
    config = Config(database_url="postgresql://bot:secret@db/balance")
    assert "secret" not in repr(config)
    with pytest.raises(FrozenInstanceError):
        config.port = 1  # type: ignore[misc]
