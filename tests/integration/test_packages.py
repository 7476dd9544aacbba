"""The packages install outside the tree and work there: the service, and the contract alone."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from zipfile import ZipFile

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import balance
from tests.support.http_client import request
from tests.support.packages import SOURCES, Environment, build_sdist, build_wheel
from tests.support.repository import ROOT
from tests.support.service import SNAPSHOTS, Process, Processes

UPDATE = {"onchain": {"rlb": 1, "usdt": 2}, "onsite": {"rlb": 3, "usd": 4}}
IMPORT_ALL = """
import pkgutil, sys, protocol
for module in pkgutil.walk_packages(protocol.__path__, "protocol."):
    __import__(module.name)
print(*{"tornado", "socketio", "psycopg", "balance"} & set(sys.modules))
import psycopg
"""
TYPED = {
    "balance": ("import balance.config\nreveal_type(balance.config.Config.read)", "-> balance.config.Config"),
    "protocol": ("import protocol\nreveal_type(protocol.names)", "-> list[str]"),
}


@pytest.fixture(scope="module", params=SOURCES)
def package(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    wheel = build_wheel(SOURCES["protocol"], tmp_path_factory.mktemp("wheel"))
    return Environment(tmp_path_factory.mktemp("contract"), wheel)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder to work in."""
    path = tmp_path / "empty"
    path.mkdir()
    return path


@pytest.fixture
def balance_server(processes: Processes, installation: Environment, folder: Path) -> Callable[..., Process]:
    """Start the installed `balance-server` in an empty folder."""

    def start(*arguments: str, **environment: str) -> Process:
        program = str(installation.programs / "balance-server")
        return processes(*arguments, program=program, cwd=str(folder), PYTHONPATH="", **environment)

    return start


@pytest.fixture
def empty_database(postgres: str) -> Iterator[str]:
    """The URL of a database without tables."""
    name = "balance_installed"
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0".encode())
        yield make_conninfo(postgres, dbname=name)
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


async def check_saves_and_reads(url: str) -> None:
    assert (await request(url, "POST", SNAPSHOTS, UPDATE)).status == 201
    (saved,) = (await request(url, "GET", SNAPSHOTS)).body["data"]
    assert saved["onchain"] == UPDATE["onchain"]


@pytest.mark.gen_test(timeout=90)
async def test_the_service_needs_nothing_but_an_empty_folder(balance_server: Processes, folder: Path) -> None:
    process = balance_server("--port=0")
    url = process.url()
    await check_saves_and_reads(url)
    for path in ("/api/docs", "/api/docs/events", "/api/docs/docs.css", "/api/protocol/v1/types.d.ts"):
        assert (await request(url, "GET", path)).status == 200, path
    assert process.terminate() == 0
    assert process.complaints == []
    assert f" {balance.__version__}: data in {folder / 'data'};" in process.stdout[1]
    assert os.listdir(folder) == ["data"]


@pytest.mark.gen_test(timeout=90)
async def test_the_service_migrates_a_database_and_serves_it(balance_server: Processes, empty_database: str) -> None:
    early = balance_server("--port=0", DATABASE_URL=empty_database)
    assert early.wait() == 1
    assert early.stderr[0].startswith("balance-server: ")
    assert early.stderr[0].endswith("run `balance-server migrate`")
    migration = balance_server("migrate", DATABASE_URL=empty_database)
    assert migration.wait() == 0, migration.stderr
    applied = [f"applied {file.name}" for file in sorted((ROOT / "sql").iterdir())]
    assert migration.stdout == [*applied, "the database is at this version"]
    process = balance_server("serve", "--port=0", DATABASE_URL=empty_database)
    await check_saves_and_reads(process.url())
    assert process.terminate() == 0
    assert process.stderr == []


def test_help_names_the_installed_command(balance_server: Processes) -> None:
    process = balance_server("--help")
    assert process.wait() == 0
    assert process.stdout[0].startswith("usage: balance-server [serve | migrate | new-epoch | ")


def test_the_contract_alone_works_from_the_shell(contract: Environment, folder: Path) -> None:
    shown = contract.run("balance-protocol", "--help", cwd=folder)
    assert shown.stdout.startswith("usage: balance-protocol ")
    update = '{"onchain": {"rlb": 1, "usdt": 2}, "onsite": {"rlb": 3, "usd": %s}}'
    good, bad = (
        contract.run("balance-protocol", "check", "balance_update", cwd=folder, input=update % usd)
        for usd in ("4", "-4")
    )
    assert (good.returncode, good.stderr) == (0, "")
    assert (bad.returncode, bad.stderr) == (1, "onsite.usd: must be at least 0\n")
    written = contract.run("balance-protocol", "write", "contract", cwd=folder)
    assert written.returncode == 0, written.stderr
    assert (folder / "contract" / "types.d.ts").read_bytes() == (ROOT / "protocol" / "types.d.ts").read_bytes()


def test_the_contract_alone_needs_no_library_of_the_service(contract: Environment, folder: Path) -> None:
    done = contract.run("python", "-c", IMPORT_ALL, cwd=folder)
    assert done.stdout == "\n"
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'psycopg'\n")


def test_a_type_checker_sees_the_types_of_an_installed_package(
    package: str, installation: Environment, contract: Environment, folder: Path
) -> None:
    environment = installation if package == "balance" else contract
    program, shown = TYPED[package]
    (folder / "program.py").write_text(program)
    checker = [sys.executable, "-m", "mypy", "--strict", "--python-executable", environment.python, "program.py"]
    done = subprocess.run(checker, cwd=folder, capture_output=True, text=True, check=False)
    assert shown in done.stdout, done
    assert done.returncode == 0, done.stdout


def test_a_wheel_has_every_file_of_its_packages(package: str, tmp_path: Path) -> None:
    wheel = build_wheel(SOURCES[package], tmp_path / "wheel")
    folders = [package, "protocol", *(["sql"] if package == "balance" else [])]
    files = {file.relative_to(ROOT) for folder in folders for file in (ROOT / folder).rglob("*") if file.is_file()}
    files = {file for file in files if "__pycache__" not in file.parts} - {Path("protocol/pyproject.toml")}
    wanted = {str("balance" / file if file.parts[0] == "sql" else file) for file in files}
    with ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == wanted


def test_an_sdist_gives_the_same_wheel(package: str, tmp_path: Path) -> None:
    sdist = build_sdist(SOURCES[package], tmp_path / "sdist")
    one, other = (
        ZipFile(build_wheel(source, tmp_path / name))
        for name, source in {"tree": SOURCES[package], "from-sdist": sdist}.items()
    )
    with one, other:
        contents = [{file.filename: file.CRC for file in archive.infolist()} for archive in (one, other)]
    assert contents[0] == contents[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("installs", "command"),
    [
        ([["."]], ["balance-server", "--help"]),
        ([["./protocol"]], ["balance-protocol", "list"]),
        ([["--require-hashes", "-r", "requirements.lock"], ["--no-deps", "."]], ["balance-server", "--help"]),
    ],
    ids=["service", "contract", "lock"],
)
def test_a_fresh_environment_gets_everything_from_the_index(
    installs: list[list[str]], command: list[str], folder: Path
) -> None:
    venv.create(folder, symlinks=True, with_pip=True)
    pip = [folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
    for arguments in installs:
        subprocess.run([*pip, "install", "--quiet", *arguments], cwd=ROOT, check=True)
    subprocess.run([*pip, "check"], cwd=folder, check=True)
    program, *arguments = command
    done = subprocess.run([folder / "bin" / program, *arguments], cwd=folder, capture_output=True, check=True)
    assert done.stdout != b""
