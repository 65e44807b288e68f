"""Drafts of what is published: the weights that are chosen, and no other file."""

import json

import pytest
import torch
from head_factory import make_head
from model_factory import inputs_for, randomise, tiny_config
from safetensors.torch import load_file

from modeling_d2v import Data2VecForPreTraining
from modeling_d2v.remote_code import TRAVELLING_FILES
from modeling_d2v.sharing.publishing import stage


@pytest.mark.parametrize("weights", ["student", "teacher", "all"])
def test_weights_by_choice(publishable, tmp_path, weights):
    model, folder = publishable
    stage(folder, tmp_path / "out", "user/name", weights=weights)
    found = load_file(tmp_path / "out" / "model.safetensors")
    if weights == "all":
        expected = model.state_dict()
    else:
        expected = dict(model.data2vec.state_dict())
        if weights == "teacher":
            expected |= dict(model.teacher.named_parameters())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_student_and_teacher_differ(publishable):
    model, _ = publishable
    student, teacher = (model.trained_encoder(weights) for weights in ("student", "teacher"))
    values = inputs_for("vision")
    assert (student(**values).pooler_output - teacher(**values).pooler_output).abs().max() > 1e-3
    assert student is model.data2vec and all(p.requires_grad for p in teacher.parameters())


def test_what_the_teacher_borrows_is_the_students():
    model = Data2VecForPreTraining(tiny_config("text", text_config={"ema_scope": "blocks"}))
    randomise(model)
    encoder = model.trained_encoder("teacher")
    for name, parameter in encoder.named_parameters():
        owner = model.teacher if name.startswith("encoder.") else model.data2vec
        assert torch.equal(parameter, owner.get_parameter(name)), name


def test_only_what_loading_needs_is_published(publishable, tmp_path):
    made = stage(publishable[1], tmp_path / "out", "user/name")
    wanted = {"README.md", "config.json", "model.safetensors", "processor_config.json", *TRAVELLING_FILES}
    assert set(made.files) == wanted == {path.name for path in (tmp_path / "out").iterdir()}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["Data2VecModel"]


def test_a_checkpoint_inside_a_run_has_a_teacher_too(publishable, tmp_path):
    model, folder = publishable
    model.config.architectures = None
    (folder / "config.json").write_text(model.config.to_json_string())
    stage(folder, tmp_path / "out", "user/name", weights="teacher")
    found = load_file(tmp_path / "out" / "model.safetensors")
    name = "encoder.blocks.0.mlp.fc1.weight"
    assert torch.equal(found[name], model.teacher.get_parameter(name))


def test_half_precision_stays_half(tmp_path):
    make_head("Data2VecForImageClassification").half().save_pretrained(tmp_path / "model")
    stage(tmp_path / "model", tmp_path / "out", "user/name", license="mit")
    assert {x.dtype for x in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.float16}
