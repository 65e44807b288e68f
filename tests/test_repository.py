"""Properties of the repository as a whole: layering, optional dependencies, documents, build files."""

import ast
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from modeling_d2v.remote_code import TRAVELLING_FILES


ROOT = Path(__file__).resolve().parents[1]
PACKAGE = sorted((ROOT / "modeling_d2v").rglob("*.py"))
FLAT = sorted((ROOT / "modeling_d2v").glob("*.py"))
TRAVELLING = [ROOT / "modeling_d2v" / name for name in TRAVELLING_FILES]
RECIPES = sorted((ROOT / "recipes").rglob("*.py"))
PROGRAMS = sorted((ROOT / "recipes" / "d2v_train" / "programs").glob("[!_]*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
BUILD_FILES = [
    ROOT / name for name in ("setup.py", "MANIFEST.in", "pyproject.toml", "Makefile", "constraints.txt", ".ci/run")
]
CONFIGS = sorted((ROOT / "recipes" / "d2v_train" / "configs").glob("*.yaml"))

# Import name -> distribution, where they differ.
DISTRIBUTIONS = {"PIL": "pillow", "markdown_it": "markdown-it-py", "sklearn": "scikit-learn", "yaml": "pyyaml"}
OPTIONAL = {"PIL", "jiwer", "kenlm", "matplotlib", "onnx", "onnxruntime", "peft", "soundfile", "soxr"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def absolute_imports(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and top-level package of each absolute import below a node."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name.split(".")[0]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.append((node.lineno, node.module.split(".")[0]))
    return found


def unguarded_imports(tree: ast.Module) -> list[tuple[int, str]]:
    """Imports that run when the module is imported, and outside `try`."""
    return [
        entry
        for node in tree.body
        if not isinstance(node, ast.Try | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        for entry in absolute_imports(node)
    ]


def imported_files(tree: ast.Module) -> list[Path]:
    """Files of d2v_train that a file imports, wherever: a program may do so when it runs only."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "d2v_train":
            module = (ROOT / "recipes").joinpath(*node.module.split("."))
            candidates = [module.with_suffix(".py"), *(module / f"{alias.name}.py" for alias in node.names)]
            found += [candidate for candidate in candidates if candidate.is_file()]
    return found


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def setup_lists() -> tuple[list[str], dict[str, list[str]]]:
    """The requirements in setup.py, without running it."""
    values = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in parse(ROOT / "setup.py").body
        if isinstance(node, ast.Assign)
    }
    return values["REQUIRED"], values["EXTRAS"]


def distribution(requirement: str) -> str:
    """Name of the distribution in a requirement, as the index writes it."""
    return re.match(r"[\w-]+", requirement)[0].lower().replace("_", "-")


def distributions(requirements: list[str]) -> set[str]:
    """Names of the distributions in requirements, with those of the extras of this package itself."""
    found = set()
    for requirement in requirements:
        if own := re.fullmatch(r"modeling-d2v\[([\w,]+)\]", requirement):
            found |= distributions([entry for extra in own[1].split(",") for entry in setup_lists()[1][extra]])
        else:
            found.add(distribution(requirement))
    return found


def code_blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)


def test_the_folders_are_where_these_tests_look():
    assert {"setup.py", "modeling_data2vec.py"} <= {path.name for path in [*PACKAGE, *BUILD_FILES]}
    # Below what there is by a fifth: a folder that is not found any more shows, a file that is merged does not.
    assert len(PACKAGE) >= 40 and len(RECIPES) >= 80 and len(TESTS) >= 100
    assert len(PROGRAMS) >= 12 and len(CONFIGS) >= 24 and len(DOCUMENTS) >= 8


def test_files_that_travel_lie_flat():
    assert set(TRAVELLING_FILES) < {path.name for path in FLAT}


def test_relative_imports_have_one_level_and_an_existing_file():
    """The scanner of transformers reads the text, docstrings included: so does this test."""
    found = 0
    for path in TRAVELLING:
        text = path.read_text(encoding="utf-8")
        lines = re.findall(r"^\s*(?:from\s+(\.[\w.]*)\s+import|import\s+(\.\S+))", text, re.M)
        for source in (first or second for first, second in lines):
            assert re.fullmatch(r"\.\w+", source), f"{name(path)} imports from {source}; write `from .name import X`."
            assert path.with_name(f"{source[1:]}.py").is_file(), f"{name(path)} imports from {source}: no such file."
        found += len(lines)
    assert found > len(TRAVELLING)


def test_what_travels_imports_neither_the_training_nor_itself_by_name():
    forbidden = {"d2v_train", "modeling_d2v", "tests"}
    imported = [(name(path), *entry) for path in TRAVELLING for entry in absolute_imports(parse(path))]
    assert [entry for entry in imported if entry[2] in forbidden] == []


def test_the_package_needs_required_dependencies_only():
    """transformers imports what a travelling file names, even inside functions; only `try` is exempt."""
    required = distributions(setup_lists()[0])
    assert required == {"huggingface-hub", "numpy", "safetensors", "torch", "transformers"}
    for path in PACKAGE:
        tree = parse(path)
        guarded = {entry for node in ast.walk(tree) if isinstance(node, ast.Try) for entry in absolute_imports(node)}
        for line, module in set(absolute_imports(tree)) - guarded:
            known = (
                module == "modeling_d2v"
                or module in sys.stdlib_module_names
                or module.replace("_", "-").lower() in required
            )
            assert known, f"{name(path)}:{line} imports {module}, which setup.py does not require."


def test_what_trains_needs_one_extra():
    required, extras = setup_lists()
    names = distributions(required + extras["train"])
    own = {"modeling_d2v", "d2v_train", "clone"} | sys.stdlib_module_names
    for path in RECIPES:
        for line, module in unguarded_imports(parse(path)):
            imported = DISTRIBUTIONS.get(module, module).lower().replace("_", "-")
            assert module in own or imported in names, f"{name(path)}:{line} imports {module}: add it to `train`."


def test_an_error_of_a_missing_library_names_an_extra_that_brings_it():
    extras, found = setup_lists()[1], 0
    for path in RECIPES:
        for module, extra in re.findall(r'\bneed\("([\w.]+)", "(\w+)"\)', path.read_text(encoding="utf-8")):
            library = module.split(".")[0]
            assert DISTRIBUTIONS.get(library, library) in distributions(extras[extra]), f"{name(path)}: {module}"
            found += 1
    assert found >= 5


@pytest.mark.parametrize("program", PROGRAMS, ids=name)
def test_programs_start_without_optional_dependencies(program):
    pending, seen = [program], set()
    while pending:
        path = pending.pop()
        seen.add(path)
        tree = parse(path)
        offending = [entry for entry in unguarded_imports(tree) if entry[1] in OPTIONAL]
        assert offending == [], f"{name(path)}: import these where they are used, with an error that names the extra."
        pending += [path for path in imported_files(tree) if path not in seen]


def test_every_import_is_declared():
    required, extras = setup_lists()
    declared = distributions(required + sum(extras.values(), []))
    own = {"modeling_d2v", "d2v_train", "clone", "tests"} | {path.stem for path in TESTS}
    imported = {module for path in PACKAGE + RECIPES + TESTS for _, module in absolute_imports(parse(path))}
    third_party = imported - own - set(sys.stdlib_module_names)
    names = {DISTRIBUTIONS.get(module, module).lower().replace("_", "-") for module in third_party}
    assert sorted(names - declared) == []


def test_every_requirement_is_pinned():
    pins = re.findall(r"^([\w.-]+)==\d[\w.]*$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    required, extras = setup_lists()
    wanted = distributions(required + sum(extras.values(), []))
    assert sorted(wanted - {pin.lower().replace("_", "-") for pin in pins}) == []


def public_definitions(path: Path) -> set[str]:
    """Names of the functions, classes and constants that a file defines at its top level."""
    found = set()
    for node in parse(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {entry for entry in found if not entry.startswith("_")}


# The model cannot import what trains, and what trains from the ground up cannot import the model.
DEFINED_TWICE = {"draft_of"}


def test_a_public_name_is_defined_in_one_file():
    places = {}
    apart = ("programs", "builtin_files")
    library = [path for path in (ROOT / "recipes" / "d2v_train").rglob("*.py") if path.parent.name not in apart]
    for path in PACKAGE + library:
        # One file for each modality of transformers, with the same parts.
        file = re.sub(r"(conversion/hf)/(audio|text|vision)\b", r"\1/*", name(path))
        for entry in public_definitions(path) - {"logger"}:
            places.setdefault(entry, set()).add(file)
    assert {entry for entry, files in places.items() if len(files) > 1} == DEFINED_TWICE


def test_files_stay_readable():
    lines = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE + RECIPES + TESTS}
    assert {path: count for path, count in lines.items() if count >= 500} == {}


def test_no_path_of_one_machine():
    folders = "|".join(("home", "root", "Users", "work", "mnt", "private"))
    found = {
        name(path): re.findall(rf"(?<![\w./])/(?:{folders})/\w+", path.read_text(encoding="utf-8"))
        for path in PACKAGE + RECIPES + TESTS + DOCUMENTS + BUILD_FILES + CONFIGS
    }
    assert {path: folders for path, folders in found.items() if folders} == {}


def test_test_folders_are_no_packages():
    # An __init__.py would make tests/d2v_train a package named like the folder that it tests.
    assert [name(path) for path in TESTS if path.name == "__init__.py"] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_python_in_documents_compiles(path):
    for block in code_blocks(path, "python"):
        # That it does not raise is the assertion.
        compile(block, name(path), "exec")


def test_readme_is_short_and_shows_python():
    readme = ROOT / "README.md"
    assert len(readme.read_text(encoding="utf-8").splitlines()) < 300
    assert len(code_blocks(readme, "python")) >= 2


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_files_and_targets_named_in_commands_exist(path):
    for line in "\n".join(code_blocks(path, "bash")).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for word in words:
            if re.match(r"(recipes|benchmarks|tests|modeling_d2v)/", word):
                assert (ROOT / word).is_file(), f"{name(path)} runs {word}, which does not exist."
        if words[:1] == ["make"]:
            assert set(words[1:]) <= make_targets(), f"{name(path)} names a target that the Makefile lacks: {line}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_files_named_in_prose_exist(path):
    prose = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    named = re.findall(r"`((?:modeling_d2v|recipes|tests|benchmarks)/[\w./-]*|[A-Z_]+\.md|LICENSE)`", prose)
    assert [entry for entry in named if not (ROOT / entry).exists()] == []


def make_targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


def test_make_targets():
    assert {"demo", "test", "test-all", "quality", "style", "clean"} <= make_targets()


def test_continuous_integration_runs_the_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text(encoding="utf-8")


def test_licence_and_card():
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "CC-BY-NC" in (ROOT / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_there_is_a_small_configuration_for_each_modality():
    assert {f"tiny_{run}" for run in ("joint", "vision", "audio", "text", "series")} <= {path.stem for path in CONFIGS}


def test_configurations_are_yaml_mappings():
    """Pretraining has sections; options of fine-tuning are flat, and read in the tests of their programs."""
    for path in CONFIGS:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert isinstance(tree, dict), name(path)
        pretraining = bool({"text", "vision", "audio", "arrays"} & set(tree))
        assert pretraining == ("model" in tree) == ("optim" in tree) != ("learning_rate" in tree), name(path)
