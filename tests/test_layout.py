"""The layout holds: rooms import downwards only, and what travels imports nothing that stays."""

import ast
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[1]
HOUSE = ROOT / "recipes" / "d2v_train"
MODEL = ROOT / "modeling_d2v"
# Room -> the rooms that it may import, besides itself. Every room but `support` may import modeling_d2v.
ALLOWED = {
    "support": "",
    "options": "support",
    "engine": "support options",
    "data": "support options",
    "inputs": "support data",
    "batching": "support options data inputs",
    "models": "options data inputs",
    "measuring": "support batching",
    "runs": "support options measuring",
    "health": "support options engine data",
    "probing": "support options engine data inputs batching models measuring",
    "publishing": "support options inputs models runs",
    "converting": "support inputs",
    "finetuning": "support options data inputs batching models publishing",
    "pretraining": "support options engine data inputs batching models measuring runs health probing publishing",
    "programs": "*",
}
FILES = sorted(HOUSE.glob("*/**/*.py"))
FLAT = sorted(MODEL.glob("*.py"))
FOLDERS = sorted(MODEL.glob("*/**/*.py"))


def module_name(path: Path) -> str:
    """Dotted name of a file."""
    base = HOUSE.parent if path.is_relative_to(HOUSE) else ROOT
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    """Modules that a file imports anywhere in it, also below TYPE_CHECKING and inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = module_name(path).split(".")[: -node.level] if node.level else []
            module = ".".join([*package, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def circles(files: list[Path]) -> list[list[str]]:
    """Groups of files that import one another, in a circle of any length."""
    names = {module_name(path): path for path in files}
    direct = {name: imported(path) & names.keys() - {name} for name, path in names.items()}
    reached = {}
    for name in names:
        pending, seen = list(direct[name]), set()
        while pending:
            other = pending.pop()
            if other not in seen:
                seen.add(other)
                pending += direct[other]
        reached[name] = seen
    groups = {tuple(sorted({name} | {other for other in reached[name] if name in reached[other]})) for name in names}
    return sorted(list(group) for group in groups if len(group) > 1)


def test_every_room_has_its_line():
    assert {path.name for path in HOUSE.iterdir() if (path / "__init__.py").exists()} == set(ALLOWED)


def test_the_table_has_no_circle():
    done: set[str] = set()
    while rest := set(ALLOWED) - done:
        free = {room for room in rest if set(ALLOWED[room].split()) <= done or rest == {room}}
        assert free, f"These rooms need each other: {sorted(rest)}"
        done |= free


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(HOUSE).as_posix())
def test_a_room_imports_only_what_it_may(path):
    room = path.relative_to(HOUSE).parts[0]
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("d2v_train.")} & set(ALLOWED)
    allowed = set(ALLOWED) if ALLOWED[room] == "*" else {room, *ALLOWED[room].split()}
    assert rooms <= allowed, f"{room} may not import {sorted(rooms - allowed)}; see ALLOWED"


def test_rooms_import_by_whole_names():
    relative = [
        f"{path}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == [], "write the whole name, `from d2v_train...`"


def test_support_knows_nothing_of_data2vec():
    offending = {
        path.name for path in HOUSE.glob("support/*.py") if any("modeling_d2v" in name for name in imported(path))
    }
    assert offending == set()


def test_no_files_import_one_another_in_a_circle():
    assert circles(FILES) == []


def test_the_one_circle_of_the_model_is_the_wanted_one():
    # The configuration names every travelling file, so that transformers copies all of them; see remote_code.py.
    found = circles(FLAT)
    assert len(found) <= 1
    assert all("modeling_d2v.configuration_data2vec" in group for group in found)


@pytest.mark.parametrize("path", [path for path in FLAT if path.name != "__init__.py"], ids=lambda path: path.name)
def test_what_travels_imports_nothing_that_stays(path):
    staying = {module_name(other) for other in FOLDERS}
    assert imported(path) & staying == set()


@pytest.mark.parametrize("path", FOLDERS, ids=lambda path: path.relative_to(MODEL).as_posix())
def test_a_folder_of_the_model_imports_downwards(path):
    folder = path.relative_to(MODEL).parent.as_posix()
    other = {"conversion/fairseq": "conversion.hf", "conversion/hf": "conversion.fairseq"}.get(folder)
    upwards = {"conversion": ("conversion.fairseq", "conversion.hf", "sharing")}.get(folder, ())
    forbidden = tuple(f"modeling_d2v.{name}" for name in (*upwards, *([other] if other else [])))
    assert [name for name in sorted(imported(path)) if forbidden and name.startswith(forbidden)] == []
