# Commands for work on this repository; `just` lists them. They use the environment that README.md sets up for tests.

python := ".venv/bin/python"

[private]
default:
    @just --list

# lint, format, types and the tests that need no database; property tests try a fifth of the examples that `test` tries
check:
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/mypy
    {{python}} -m pytest tests/unit -n auto --dist loadfile -p no:schemathesis --hypothesis-profile=fast

# all tests but the long ones, one worker more than there are cores; arguments go to pytest
test *arguments:
    {{python}} -m pytest -n auto --dist loadfile {{arguments}}

# the long tests: soak, repeated kills, large tables
slow *arguments:
    {{python}} -m pytest -m slow {{arguments}}

# this service next to the Node server that it replaces: CPU, rates, memory
bench *arguments:
    {{python}} -m bench {{arguments}}

# mutation tests, which take long: does a test fail when the code is changed? arguments are groups of tests/mutants.toml
mutants *arguments:
    {{python}} -m tests.support.mutants {{arguments}}

# write constraints.txt and requirements.lock from the ranges of the requirements; --upgrade: with the newest versions
lock *arguments:
    .ci/lock {{arguments}}

# write protocol/types.d.ts from the schemas and the table of events
types:
    {{python}} -m tests.support.typescript

# write the alert rules, the dashboard and the list of docs/monitoring/ from the table of metrics
monitoring:
    {{python}} -m tests.support.monitoring
