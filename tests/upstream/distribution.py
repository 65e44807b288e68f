"""The source distribution of transformers, whose common tests run here unchanged.

`fetch` downloads it; `common` imports one of its test modules. The distribution holds the common tests alone: the few
names that they import from other folders of transformers' repository are made here.
"""

import importlib
import importlib.metadata
import subprocess
import sys
import tarfile
import types
from pathlib import Path

import numpy as np
from PIL import Image


CACHE = Path(__file__).resolve().parents[2] / ".upstream"
PACKAGE = "transformers_tests"
# Imported by the common tests, and no dependency of transformers.
REQUIREMENTS = ("parameterized",)


def version() -> str:
    """Return the version of the installed transformers, whose tests are run."""
    return importlib.metadata.version("transformers")


def folder() -> Path:
    """Return the folder of the test files."""
    return CACHE / f"transformers-{version()}" / "tests"


def fetch() -> None:
    """Download and unpack the distribution and what its tests need, unless they are there."""
    pip = [sys.executable, "-m", "pip", "--quiet"]
    site = CACHE / "site"
    if not site.exists():
        subprocess.run([*pip, "install", "--no-deps", "--target", str(site), *REQUIREMENTS], check=True)
    if (folder() / "__init__.py").exists():
        return
    wanted = f"transformers=={version()}"
    subprocess.run(
        [*pip, "download", "--no-deps", "--no-binary", "transformers", "--dest", str(CACHE), wanted], check=True
    )
    with tarfile.open(CACHE / f"transformers-{version()}.tar.gz") as archive:
        archive.extractall(CACHE, filter="data")
    # In the repository the tests are a package; the distribution leaves this file out.
    (folder() / "__init__.py").touch()


def common(name: str) -> types.ModuleType:
    """Import a module of the common tests, such as "test_modeling_common".

    Raises:
        FileNotFoundError: The distribution was not fetched.
    """
    if PACKAGE not in sys.modules:
        if not (folder() / "__init__.py").exists():
            raise FileNotFoundError(f"{folder()} does not exist. Run `make test-upstream`, which downloads it.")
        sys.path.append(str(CACHE / "site"))
        _register(PACKAGE, __path__=[str(folder())])
        _register_neighbours()
    return importlib.import_module(f"{PACKAGE}.{name}")


def _register(name: str, **contents: object) -> None:
    module = types.ModuleType(name)
    vars(module).update(contents)
    sys.modules[name] = module


def _register_neighbours() -> None:
    """Make what the common tests import from files outside the distribution."""

    class ExportTesterMixin:
        """Stands for the tests of exporters, which are no common tests."""

    class GenerationTesterMixin:
        """Stands for the tests of text generation; no model here generates."""

    for package in ("exporters", "generation", "utils"):
        _register(f"{PACKAGE}.{package}", __path__=[])
    _register(f"{PACKAGE}.exporters.test_export", ExportTesterMixin=ExportTesterMixin)
    _register(f"{PACKAGE}.generation.test_utils", GenerationTesterMixin=GenerationTesterMixin)
    # Fields of every configuration, each with a value that is not its default.
    fields = {
        "return_dict": False,
        "output_hidden_states": True,
        "output_attentions": True,
        "dtype": "float16",
        "chunk_size_feed_forward": 5,
        "architectures": ["SomeModel"],
        "id2label": {0: "first"},
        "label2id": {"first": 0},
        "problem_type": "regression",
    }
    _register(f"{PACKAGE}.utils.test_configuration_utils", config_common_kwargs=fields)
    _register("fetch_hub_objects_for_ci", url_to_local_path=_local_file)


def _local_file(url: str, **options: object) -> str:
    """Return a picture of the kind that the address names, where transformers keeps copies of files of the Hub."""
    if not url.endswith((".jpg", ".png")):
        return url
    path = CACHE / "pictures" / Path(url).name
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(0).integers(0, 150, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return str(path)


if __name__ == "__main__":
    fetch()
