"""What every test relies on: no network, fixed seeds, few threads, a Hugging Face cache of its own."""

import atexit
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]

# These variables are read when the libraries are imported, so they are set before any test module is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# A fresh cache in each process: code loaded with trust_remote_code would otherwise pass from one run, or one
# pytest-xdist worker, to the next.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="d2v_tests_")
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from accelerate.state import AcceleratorState, GradientState  # noqa: E402


torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Seeds every global generator with 0 before each test, so that the order of tests does not matter."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps its engine in the process; each run starts with a new one."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The folder that holds setup.py."""
    return ROOT


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The shared data folder, for tests marked `shared`: D2V_SHARED, or `shared` beside the project root."""
    path = Path(os.environ.get("D2V_SHARED", ROOT.parent / "shared"))
    if not path.is_dir():
        raise FileNotFoundError(
            f"The shared data folder {path} does not exist. Set D2V_SHARED to it, or leave these tests out with "
            '-m "not shared".'
        )
    return path
