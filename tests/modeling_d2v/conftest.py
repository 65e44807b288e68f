"""What the tests of publishing share: a Hub and a checkpoint."""

import pytest
from hub_server import HubServer
from publishable_model import save_publishable


@pytest.fixture
def hub(monkeypatch):
    """A Hub that this process uses."""
    with HubServer() as server:
        server.connect(monkeypatch)
        yield server


@pytest.fixture
def publishable(tmp_path):
    """A pretraining model and its folder, which holds what is not for others too."""
    return save_publishable(tmp_path / "model"), tmp_path / "model"
