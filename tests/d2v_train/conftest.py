"""What the tests of several rooms share because it takes long to make: a saved model, an uploaded run."""

import shutil

import pytest
from hub_server import HubServer
from probed_model import save_model
from uploaded_run import train


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory):
    """Folder of a tiny model with random weights for all modalities, with its tokenizer."""
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def shared_hub():
    with HubServer() as server:
        yield server


@pytest.fixture
def hub(shared_hub, monkeypatch):
    """A Hub that this process uses; each test has repositories of its own names."""
    shared_hub.connect(monkeypatch)
    return shared_hub


@pytest.fixture(scope="session")
def finished(shared_hub, tmp_path_factory):
    """A run that was uploaded when it ended."""
    with pytest.MonkeyPatch.context() as patch:
        shared_hub.connect(patch)
        return train(tmp_path_factory.mktemp("runs") / "digits", "hub.push=true", "seed=5")


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the run."""
    return shutil.copytree(finished, tmp_path / "digits")
