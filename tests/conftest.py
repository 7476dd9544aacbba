"""The fixtures of every test: a real PostgreSQL, a database of its own, a running service, and an empty log.

By default a PostgreSQL of the wheel is started once for the whole run. `TEST_POSTGRES_PROGRAMS` is the folder of the
programs of another installation to use instead, such as /usr/lib/postgresql/15/bin, also as root. `TEST_DATABASE_URL`
names a running server instead; its role must be allowed to create databases.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tornado.ioloop import IOLoop

from balance.storage.embedded import EmbeddedPostgres
from balance.storage.migrate import migrate
from tests.support import browser, contract
from tests.support.embedded import start_postgres
from tests.support.order import slow_first
from tests.support.packages import Environment, build_wheel
from tests.support.postgres import EMPTY, Postgres, execute, temporary_database
from tests.support.repository import ROOT
from tests.support.scratch import make_folder
from tests.support.service import Database, MakeService, Process, Service
from tests.support.shared_memory import remove_orphans
from tests.support.strategies import FAST

# The same examples in every run, and no folder of earlier ones in the tree.
hypothesis.settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("repeatable")
hypothesis.settings.register_profile(FAST, hypothesis.settings(), max_examples=20)

THREAD_S_MAX = 5.0  # a worker of the pool ends after its attempt to connect, which may take three seconds
TASK_S_MAX = 1.0  # a cancelled task needs some turns of the event loop to end

contract.install()


def pytest_configure(config: pytest.Config) -> None:
    """Give each run a folder of its own: otherwise two runs by root would use the embedded server's together."""
    if config.option.basetemp is None:
        config.option.basetemp = make_folder()
        config.add_cleanup(lambda: shutil.rmtree(config.option.basetemp, ignore_errors=True))
        remove_orphans()  # of runs that were killed: the machine may have no room for more
        config.add_cleanup(remove_orphans)
    if not config.getoption("numprocesses", None):  # in the process that runs the tests, not in that of pytest-xdist
        # With PYTHONDONTWRITEBYTECODE, each process that a test starts would compile the service again.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = f"{config.option.basetemp}/bytecode"
    config.option.loadscopereorder = False  # of pytest-xdist, which would run the files with few tests last
    asyncio.set_event_loop(None)  # otherwise Tornado makes one for the first test, which is never closed


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_auto_num_workers() -> int:
    """Run one worker more than there are cores: some tests wait for time to pass, and would leave a core idle."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run every coroutine test on the event loop of pytest-tornado, and the slow files first."""
    for item in items:
        if (
            isinstance(item, pytest.Function)
            and inspect.iscoroutinefunction(item.obj)
            and not item.get_closest_marker("gen_test")
        ):
            item.add_marker("gen_test")
    items[:] = slow_first(items)


def pytest_collection_finish() -> None:
    """Leave the tests and modules out of garbage collections: many tests collect, or look at all objects."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Name the errors of a group in the summary too: a shortened log has no more of what a test left open."""
    report = yield
    if call.excinfo and isinstance(group := call.excinfo.value, ExceptionGroup):
        report.longrepr.reprcrash.message += "".join(f"; {one.__cause__ or one!r}" for one in group.exceptions)
    return report


@pytest.fixture(scope="module", autouse=True)
def collect_garbage() -> Iterator[None]:
    """Collect garbage after each file: what its tests left open fails there, and not at random in a later file.

    What is left is in use until the end, and stays out of later collections.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the conninfo of a database from which others can be created."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    server = start_postgres(tmp_path_factory.mktemp("postgres"))
    yield server.url
    server.stop()


@pytest.fixture(scope="module")
def private_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """Start a PostgreSQL for one module, whose tests may stop, kill and freeze it."""
    server = Postgres(tmp_path_factory.mktemp("private"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a stopped data directory with the number 1 in it; a copy takes half the time of making one."""
    data = tmp_path_factory.mktemp("pristine")
    with EmbeddedPostgres.start(data) as server, psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE visits AS SELECT 1 AS n")
    return data


@pytest.fixture(scope="session")
def template(postgres: str) -> Iterator[str]:
    """Return the name of a migrated database; a copy of it is faster than a migration."""
    name = f"balance_template_{uuid.uuid4().hex}"
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0")
        migrate(make_conninfo(postgres, dbname=name))
        yield name
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def shared_database(postgres: str, template: str) -> Iterator[Database]:
    """Make a migrated database for the tests of one module: another for each test takes longer.

    If the module uses this fixture for each test, `database` is this one, without snapshots.
    """
    with temporary_database(postgres, template) as one:
        yield one


@pytest.fixture
def blank(postgres: str) -> Iterator[Database]:
    """Make a database without tables."""
    with temporary_database(postgres, "template0") as one:
        yield one


@pytest.fixture
def kathmandu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the machine in a time zone that is 5:45 hours before UTC."""
    with monkeypatch.context() as changed:
        changed.setenv("TZ", "Asia/Kathmandu")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def database(request: pytest.FixtureRequest, postgres: str, template: str) -> Iterator[Database]:
    """Make a migrated database for one test, or empty that of its module."""
    if "shared_database" in request.fixturenames:
        one: Database = request.getfixturevalue("shared_database")
        execute(one.url, EMPTY)
        yield one
        return
    with temporary_database(postgres, template) as one:
        yield one


@pytest.fixture
def io_loop(io_loop: IOLoop) -> Iterator[IOLoop]:
    """Check that the test leaves no task, which would be destroyed with the event loop, and logged in a later test."""
    yield io_loop
    left = io_loop.run_sync(_end_tasks, timeout=20)
    assert not left, f"tasks left running: {left}"


async def _end_tasks() -> list[str]:
    """Wait for the end of all other tasks; cancel those that do not end in time, and return their coroutines."""
    loop, current = asyncio.get_running_loop(), asyncio.current_task()
    deadline = loop.time() + TASK_S_MAX
    while (left := asyncio.all_tasks() - {current}) and (seconds := deadline - loop.time()) > 0:
        await asyncio.wait(left, timeout=seconds)
    coroutines = [str(task.get_coro()) for task in left]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    return coroutines


@pytest.fixture
def make_service(io_loop: IOLoop, database: Database) -> Iterator[MakeService]:
    """Start a service in this process, with settings that differ from the defaults by keyword."""
    services: list[Service] = []

    async def make(**settings: object) -> Service:
        settings.setdefault("database_url", database.url)
        services.append(await Service.start(**settings))
        return services[-1]

    threads = set(threading.enumerate())
    yield make
    for service in reversed(services):
        io_loop.run_sync(service.stop, timeout=20)
    started = [thread for thread in set(threading.enumerate()) - threads if not thread.name.startswith("asyncio")]
    for thread in started:
        thread.join(THREAD_S_MAX)
    leaked = [thread.name for thread in started if thread.is_alive()]
    assert not leaked, f"threads left running: {leaked}"


@pytest.fixture
def service(io_loop: IOLoop, make_service: MakeService) -> Service:
    """Start a service with the default settings."""
    return io_loop.run_sync(make_service)


@pytest.fixture(scope="module")
def tokens_read_often() -> Iterator[None]:
    """Let the services of a module read the tokens as often as its tests change them; by default it is once a second.

    tests/integration/test_access_examples.py and tests/browser/test_tickets.py keep the default.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("balance.access.refresh.REFRESH_S", 0.05)
        yield


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment in which the service is installed as a package."""
    return Environment(tmp_path_factory.mktemp("installation"), build_wheel(ROOT, tmp_path_factory.mktemp("wheel")))


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start `server.py` as a process of its own; processes that still run at the end are killed."""
    started: list[Process] = []

    def start(*arguments: str, **environment: str) -> Process:
        started.append(Process(arguments, environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture(scope="session")
def browser_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which the browser and its fonts are unpacked once, and store their files."""
    folder = tmp_path_factory.mktemp("browser")
    browser.prepare(folder)
    return folder


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder for pictures of the pages; with `--basetemp` it is kept, also when the tests pass."""
    return tmp_path_factory.mktemp("screenshots", numbered=False)


@pytest.fixture(autouse=True)
def silence(caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail on every warning and error that is logged, unless the test is marked `expects_log("part", …)`."""
    yield
    marker = request.node.get_closest_marker("expects_log")
    expected = marker.args if marker else ()
    records = [record for when in ("setup", "call", "teardown") for record in caplog.get_records(when)]
    noise = [
        record.getMessage()
        for record in records
        if record.levelno >= logging.WARNING
        # As root, the embedded PostgreSQL gets access to folders that pytest makes for their owner alone.
        and record.name != "balance.embedded.account"
        and not any(part in record.getMessage() for part in expected)
    ]
    assert not noise, f"logged: {noise}"
