"""The order of the test files: with `--dist loadfile`, one worker would run a slow file alone if it came last."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.support.repository import ROOT

# Those of twelve seconds or more, about the slowest first.
SLOW_FILES = (
    "faults/test_fault_story.py",
    "faults/test_alarms.py",
    "integration/test_resuming_examples.py",
    "faults/test_failover.py",
    "integration/test_watch.py",
    "integration/test_life.py",
    "faults/test_attacks.py",
    "faults/test_database_faults.py",
    "integration/test_wrong_data_dir.py",
    "integration/test_access_examples.py",
    "integration/test_two_processes.py",
    "contract/test_openapi.py",
    "browser/test_balances_page.py",
    "integration/test_deploy_files.py",
    "integration/test_embedded.py",
    "faults/test_bounds.py",
    "integration/test_examples.py",
    "integration/test_resume.py",
    "faults/test_signals.py",
    "integration/test_bench.py",
    "browser/test_docs_pages.py",
    "faults/test_torture.py",
    "integration/test_library_bounds.py",
    "contract/test_validators.py",
    "integration/test_properties.py",
    "integration/test_tls.py",
    "integration/test_operator_walk.py",
)


def slow_first(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Return the tests with those of the slow files first; otherwise their order stays."""
    ranks = {ROOT / "tests" / name: rank for rank, name in enumerate(SLOW_FILES)}
    return sorted(items, key=lambda item: ranks.get(item.path, len(ranks)))
