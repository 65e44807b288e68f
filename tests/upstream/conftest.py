"""The exceptions, and the table at the end of a run of transformers' common tests."""

import fnmatch
import tomllib
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest


HERE = Path(__file__).resolve().parent
OUTCOMES = ("passed", "failed", "excepted", "skipped")
EXCEPTIONS: list[dict[str, Any]] = tomllib.loads((HERE / "exceptions.toml").read_text(encoding="utf-8"))["exception"]
KINDS: dict[str, str] = {}  # id of a test -> what it is about
COUNTS: dict[str, Counter] = defaultdict(Counter)
EXCEPTED: dict[str, int] = {}  # id of a test -> number of its exception
SEEN: dict[int, set[str]] = defaultdict(set)  # number of an exception -> outcomes of its tests
MATCHED: set[str] = set()  # patterns that name a test


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect the tests that an exception names to fail: one that passes fails the run."""
    for item in items:
        if not item.path.is_relative_to(HERE):
            continue
        suite, (group, *rest) = item.path.stem.removeprefix("suite_"), item.nodeid.split("::")[1:]
        KINDS[item.nodeid] = f"{suite}: {group.split('_')[0]}" if suite == "models" else suite
        name = "::".join([group, *rest])
        for number, entry in enumerate(EXCEPTIONS):
            matching = [pattern for pattern in entry["tests"] if fnmatch.fnmatchcase(name, pattern)]
            if matching:
                MATCHED.update(matching)
                item.add_marker(pytest.mark.xfail(reason=entry["reason"], strict=True))
                EXCEPTED[item.nodeid] = number
                break


def pytest_runtest_logreport(report: Any) -> None:
    """Count the outcome of each test once."""
    if report.nodeid not in KINDS or (report.when != "call" and report.outcome == "passed"):
        return
    outcome = "excepted" if hasattr(report, "wasxfail") and report.outcome == "skipped" else report.outcome
    COUNTS[KINDS[report.nodeid]][outcome] += 1
    if report.nodeid in EXCEPTED:
        SEEN[EXCEPTED[report.nodeid]].add(outcome)


def _idle() -> list[dict[str, Any]]:
    """Return the exceptions whose tests ran and were all skipped."""
    return [EXCEPTIONS[number] for number, outcomes in SEEN.items() if outcomes == {"skipped"}]


def _unmatched(config: pytest.Config) -> list[str]:
    """Return the patterns that name no test, in a run of all of them."""
    suites = {path.name for path in HERE.glob("suite_*.py")}
    if config.option.keyword or {key.split("::")[0].split("/")[-1] for key in KINDS} != suites:
        return []
    return [pattern for entry in EXCEPTIONS for pattern in entry["tests"] if pattern not in MATCHED]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the outcomes by kind, and exceptions that are none."""
    if not COUNTS:
        return
    terminalreporter.section("transformers' common tests")
    terminalreporter.write_line(f"{'kind':<24}" + "".join(f"{outcome:>10}" for outcome in OUTCOMES))
    for kind, counts in [*sorted(COUNTS.items()), ("total", sum(COUNTS.values(), Counter()))]:
        terminalreporter.write_line(f"{kind:<24}" + "".join(f"{counts[outcome]:>10}" for outcome in OUTCOMES))
    for entry in _idle():
        terminalreporter.write_line(f"No test of this exception fails; take it out of exceptions.toml: {entry}")
    for pattern in _unmatched(terminalreporter.config):
        terminalreporter.write_line(f"This exception names no test; take it out of exceptions.toml: {pattern}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if an exception is none: the list may only shrink."""
    if (_idle() or _unmatched(session.config)) and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
