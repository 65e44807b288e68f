"""Code that travels beside the weights."""

import json
import subprocess
import sys

import pytest
import torch
from model_factory import HIDE_PACKAGE, randomise, tiny_config
from safetensors.torch import load_file

from modeling_d2v import Data2VecForPreTraining
from modeling_d2v.remote_code import TRAVELLING_FILES


@pytest.fixture
def pretrained(tmp_path):
    """A pretraining checkpoint whose teacher differs from its student, and its folder."""
    own = {"norms": "per_modality", "feed_forward": "per_modality", "modality_embedding": True, "qk_norm": True}
    model = Data2VecForPreTraining(tiny_config(**own))
    randomise(model.data2vec)
    model.update_teacher(3)
    model.save_pretrained(tmp_path / "model")
    return model.eval(), tmp_path / "model"


def test_files_and_weights_that_are_saved(pretrained):
    model, folder = pretrained
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", *TRAVELLING_FILES} <= names
    assert set(load_file(folder / "model.safetensors")) == set(model.state_dict())
    config = json.loads((folder / "config.json").read_text())
    assert set(config["auto_map"]) >= {"AutoConfig", "AutoModel", "AutoModelForPreTraining"}
    assert config["architectures"] == ["Data2VecForPreTraining"]


WITHOUT_PACKAGE = (
    HIDE_PACKAGE
    + """
import sys, torch
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining
folder, again = sys.argv[1:3]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
encoder = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
model = AutoModelForPreTraining.from_pretrained(folder, trust_remote_code=True).eval()
values = torch.linspace(-1, 1, 8000).sin().view(2, 4000)
out = dict(features=encoder(input_values=values).pooler_output, loss=model(input_values=values, step=1).loss)
model.save_pretrained(again)
torch.save(out, again + "/out.pt")
"""
)


def test_round_trip_where_the_package_is_not_importable(pretrained, tmp_path):
    """Twice: a model that was itself loaded with remote code must carry the code on when it is saved again."""
    model, folder = pretrained
    source = folder
    for i in range(2):
        target = tmp_path / f"again{i}"
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_PACKAGE, str(source), str(target)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / f"hf{i}")},
        )
        assert done.returncode == 0, done.stderr[-2000:]
        out = torch.load(target / "out.pt", weights_only=True)
        values = torch.linspace(-1, 1, 8000).sin().view(2, 4000)
        torch.testing.assert_close(out["features"], model.data2vec(input_values=values).pooler_output)
        torch.testing.assert_close(out["loss"], model(input_values=values, step=1).loss)
        source = target


def test_fresh_process_with_the_package_installed(pretrained, tmp_path, project_root):
    model, folder = pretrained
    script = (
        "import sys, torch, modeling_d2v; from transformers import AutoModel;"
        "m = AutoModel.from_pretrained(sys.argv[1]); print(type(m).__module__);"
        "torch.save(m(pixel_values=torch.ones(1, 3, 32, 32)).pooler_output, sys.argv[2])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(tmp_path / "out.pt")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(project_root)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "modeling_d2v.modeling_data2vec"
    expected = model.data2vec(pixel_values=torch.ones(1, 3, 32, 32)).pooler_output
    torch.testing.assert_close(torch.load(tmp_path / "out.pt", weights_only=True), expected)
