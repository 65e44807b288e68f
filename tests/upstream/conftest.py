"""The exceptions, and the table at the end of a run of transformers' common tests."""

import fnmatch
import sys
import tomllib
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest


HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE))

EXCEPTIONS = tomllib.loads((HERE / "exceptions.toml").read_text(encoding="utf-8"))["exception"]
COUNTS: dict[str, Counter] = defaultdict(Counter)
USED: dict[int, set[str]] = defaultdict(set)  # number of the exception -> outcomes of its tests
EXCEPTED: dict[str, int] = {}  # id of the test -> number of its exception


def name_of(item: pytest.Item) -> str:
    """Return "Class::test" of a test."""
    return "::".join(item.nodeid.split("::")[1:])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect the tests that an exception names to fail: one that passes fails the run."""
    for item in items:
        if not item.path.is_relative_to(HERE):
            continue
        name = name_of(item)
        for number, entry in enumerate(EXCEPTIONS):
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in entry["tests"]):
                item.add_marker(pytest.mark.xfail(reason=entry["reason"], strict=True))
                EXCEPTED[item.nodeid] = number
                break


def pytest_runtest_logreport(report: Any) -> None:
    """Count the outcome of each test once, by kind."""
    if report.when != "call" and report.outcome == "passed":
        return
    outcome = report.outcome
    if hasattr(report, "wasxfail"):
        outcome = "excepted" if report.outcome == "skipped" else "failed"
    kind = report.nodeid.split("suite_")[1].split(".")[0]
    group = report.nodeid.split("::")[1].split("_")[0]
    COUNTS[f"{kind}: {group}" if kind == "models" else kind][outcome] += 1
    if report.nodeid in EXCEPTED:
        USED[EXCEPTED[report.nodeid]].add(outcome)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the outcomes by kind."""
    if not COUNTS:
        return
    outcomes = ("passed", "failed", "excepted", "skipped")
    total = sum(COUNTS.values(), Counter())
    terminalreporter.section("transformers' common tests")
    terminalreporter.write_line(f"{'kind':<24}" + "".join(f"{outcome:>10}" for outcome in outcomes))
    for kind, counts in [*sorted(COUNTS.items()), ("total", total)]:
        terminalreporter.write_line(f"{kind:<24}" + "".join(f"{counts[outcome]:>10}" for outcome in outcomes))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if it met an exception of which no test failed: the list may only shrink."""
    idle = [number for number, outcomes in USED.items() if outcomes <= {"skipped"}]
    for number in idle:
        print(f"\nNo test of this exception fails any more; take it out of exceptions.toml: {EXCEPTIONS[number]}")
    if idle and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
