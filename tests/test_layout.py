"""The layout holds: rooms import downwards only, what travels imports nothing that stays, tests lie beside sources."""

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
    "inspection": "support data inputs batching models probing",
    "alignment": "support options engine data inputs batching models probing inspection",
    "publishing": "support options inputs models runs",
    "converting": "support inputs",
    "finetuning": "support options data inputs batching models publishing",
    "pretraining": "support options engine data inputs batching models measuring runs health probing publishing",
    "programs": "*",
}
# Sources without a test file of their own -> the one that covers them. This list may only shrink.
COVERED = {
    "modeling_d2v/backbone_inputs.py": "modeling_d2v/test_backbone_configuration.py",
    "modeling_d2v/conversion/fairseq/settings_v1.py": "modeling_d2v/conversion/fairseq/test_settings.py",
    "d2v_train/finetuning/classification.py": "d2v_train/programs/test_finetune_audio_classification.py",
    "d2v_train/finetuning/images/arguments.py": "d2v_train/programs/test_finetune_image_classification.py",
    "d2v_train/finetuning/images/data.py": "d2v_train/programs/test_finetune_image_classification.py",
    "d2v_train/finetuning/images/task.py": "d2v_train/programs/test_finetune_image_classification.py",
    "d2v_train/finetuning/speech/classification.py": "d2v_train/programs/test_finetune_audio_classification.py",
    "d2v_train/finetuning/speech/ctc.py": "d2v_train/programs/test_finetune_ctc.py",
    "d2v_train/finetuning/speech/ctc_task.py": "d2v_train/programs/test_finetune_ctc.py",
    "d2v_train/finetuning/texts/arguments.py": "d2v_train/finetuning/texts/test_data.py",
    "d2v_train/finetuning/texts/task.py": "d2v_train/programs/test_finetune_glue.py",
    "d2v_train/alignment/conclusions.py": "d2v_train/alignment/test_study.py",
    "d2v_train/options/sections.py": "d2v_train/options/test_run.py",
    "d2v_train/pretraining/dry_run_table.py": "d2v_train/pretraining/test_dry_run.py",
    "d2v_train/pretraining/session.py": "d2v_train/programs/test_pretrain.py",
    "d2v_train/probing/observers.py": "d2v_train/probing/test_pictures.py",
    "d2v_train/publishing/backbone.py": "d2v_train/models/test_backbones.py",
    "d2v_train/publishing/export.py": "d2v_train/programs/test_pretrain.py",
}
# Test files that no single source owns: several models against a reference, or a program as a whole.
WHOLE = {
    "d2v_train/finetuning/test_kill_matrix.py",
    "d2v_train/options/test_published_recipes.py",
    "d2v_train/pretraining/test_continued_pretraining.py",
    "d2v_train/pretraining/test_kill_matrix.py",
    "d2v_train/programs/test_mistakes.py",
    "modeling_d2v/test_backbone_equality.py",
    "modeling_d2v/test_full_size.py",
    "modeling_d2v/test_hub.py",
    "modeling_d2v/test_peft.py",
    "modeling_d2v/test_pipelines.py",
    "modeling_d2v/test_reference_configurations.py",
    "modeling_d2v/test_reference_v1.py",
    "modeling_d2v/test_reference_v2.py",
    "modeling_d2v/test_save_load.py",
    "test_joint_learning.py",
    "test_layout.py",
    "test_packaging.py",
    "test_repository.py",
}
TESTS = ROOT / "tests"
FILES = sorted(HOUSE.glob("*/**/*.py"))
FLAT = sorted(MODEL.glob("*.py"))
FOLDERS = sorted(MODEL.glob("*/**/*.py"))


# Path of each source, counted from the folder that holds its package -> the test file of that path.
SOURCES = {
    path.relative_to(base).as_posix(): (path.relative_to(base).parent / f"test_{path.name}").as_posix()
    for base, paths in ((HOUSE.parent, FILES), (ROOT, [*FLAT, *FOLDERS]))
    for path in paths
    if path.name != "__init__.py" and "builtin_files" not in path.parts
}
TEST_FILES = {path.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")}


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


def test_a_source_has_its_test_file_or_says_what_covers_it():
    lacking = sorted(source for source, test in SOURCES.items() if test not in TEST_FILES and source not in COVERED)
    assert lacking == [], "write a test file of the same path below tests/"


def test_what_covers_a_source_exists():
    assert COVERED.keys() <= SOURCES.keys(), "the source is gone: take its line out"
    assert set(COVERED.values()) <= TEST_FILES


def test_the_list_of_sources_without_tests_of_their_own_shrinks():
    assert [source for source in COVERED if SOURCES[source] in TEST_FILES] == [], "take these lines out of COVERED"


def test_a_test_file_belongs_to_a_source():
    """`test_NAME.py` to `NAME.py` of the same folder, as does `test_NAME_ASPECT.py`."""
    owned = {test.removesuffix(".py") for test in SOURCES.values()}
    strangers = {
        test
        for test in TEST_FILES - WHOLE
        if not any(test.removesuffix(".py") == own or test.startswith(f"{own}_") for own in owned)
    }
    assert sorted(strangers) == [], "rename, or name it in WHOLE"
    assert WHOLE <= TEST_FILES
