"""Saving and loading: other processes, without the package, from the meta device, across classes."""

import pytest
import torch
from model_factory import MODALITIES, inputs_for, randomise, tiny_config, version_config
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining

from modeling_d2v import Data2VecConfig, Data2VecForPreTraining, Data2VecModel


@pytest.fixture
def pretrained(tmp_path):
    """A pretraining checkpoint whose teacher differs from its student, and its folder."""
    model = Data2VecForPreTraining(tiny_config())
    randomise(model.data2vec)
    model.update_teacher(3)
    model.save_pretrained(tmp_path / "model")
    return model.eval(), tmp_path / "model"


def same(first: torch.nn.Module, second: torch.nn.Module) -> None:
    a, b = first.state_dict(), second.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_pretraining_checkpoint_round_trip(pretrained):
    model, folder = pretrained
    again = Data2VecForPreTraining.from_pretrained(folder)
    same(model, again)
    assert again.ema_step == 3
    assert not any(p.requires_grad for p in again.teacher.parameters())
    assert all(p.requires_grad for p in again.data2vec.parameters())
    for modality in MODALITIES:
        inputs = inputs_for(modality)
        torch.testing.assert_close(again(**inputs, step=1).loss, model(**inputs, step=1).loss)


def test_auto_classes_load_the_folder(pretrained):
    model, folder = pretrained
    assert isinstance(AutoConfig.from_pretrained(folder), Data2VecConfig)
    assert type(AutoModelForPreTraining.from_pretrained(folder)) is Data2VecForPreTraining
    encoder, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert type(encoder) is Data2VecModel
    assert not info["missing_keys"] and not info["unexpected_keys"]
    same(model.data2vec, encoder)


def test_a_plain_encoder_seeds_the_teacher(tmp_path):
    encoder = randomise(Data2VecModel(tiny_config()))
    encoder.save_pretrained(tmp_path)
    model, info = Data2VecForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert {name.split(".")[0] for name in info["missing_keys"]} <= {"teacher", "decoders", "ema_step"}
    same(model.data2vec, encoder)
    for name, parameter in model.teacher.named_parameters():
        assert torch.equal(parameter, encoder.get_parameter(name)), name
    assert model.ema_step == 0 and not any(p.requires_grad for p in model.teacher.parameters())


@pytest.mark.parametrize("version", ["2.0", "1.0"])
@pytest.mark.parametrize("modality", MODALITIES)
def test_nothing_is_left_uninitialised_after_loading(tmp_path, monkeypatch, version, modality):
    """Loading fills tensors made with `empty`; poisoned ones must all be overwritten, buffers too."""
    model = Data2VecForPreTraining(version_config(version, modality))
    randomise(model.data2vec)
    model.save_pretrained(tmp_path)
    encoder_only = tmp_path / "encoder"
    model.data2vec.save_pretrained(encoder_only)

    plain_empty_like = torch.empty_like

    def poisoned(*args, **kwargs):
        tensor = plain_empty_like(*args, **kwargs)
        return tensor.fill_(float("nan")) if tensor.is_floating_point() and not tensor.is_meta else tensor

    monkeypatch.setattr(torch, "empty_like", poisoned)
    for source in (tmp_path, encoder_only):
        again = Data2VecForPreTraining.from_pretrained(source)
        tensors = dict(again.named_parameters()) | dict(again.named_buffers())
        assert not [name for name, tensor in tensors.items() if tensor.is_meta or not torch.isfinite(tensor).all()]
        fresh = dict(model.named_buffers())
        for name, buffer in again.named_buffers():
            if name != "ema_step":
                torch.testing.assert_close(buffer, fresh[name], msg=name)
        assert torch.isfinite(again(**inputs_for(modality)).loss)


def test_poison_reaches_what_loading_leaves_alone(tmp_path, monkeypatch):
    """The test above must be able to fail: without `_init_weights`, buffers and missing tensors stay poisoned."""
    model = Data2VecForPreTraining(tiny_config("audio"))
    model.data2vec.save_pretrained(tmp_path)
    plain_empty_like = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: plain_empty_like(*a, **k).fill_(7.25))
    monkeypatch.setattr(Data2VecForPreTraining, "_init_weights", lambda self, module: None)
    monkeypatch.setattr(Data2VecModel, "_init_weights", lambda self, module: None)
    again = Data2VecForPreTraining.from_pretrained(tmp_path)
    assert (again.data2vec.modality_encoders["audio"].attention_bias.slopes == 7.25).all()


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_teacher_stays_in_float32_so_that_small_steps_count(tmp_path, modality):
    Data2VecForPreTraining(tiny_config(modality, ema_decay=0.9998, ema_end_decay=0.9998)).save_pretrained(tmp_path)
    model = Data2VecForPreTraining.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert model.data2vec.dtype == torch.bfloat16 and model.teacher.dtype == torch.float32
    out = model(**inputs_for(modality))
    out.loss.backward()
    assert torch.isfinite(out.loss)
    before = [p.clone() for p in model.teacher.parameters()]
    with torch.no_grad():
        for parameter in model.data2vec.parameters():
            parameter.add_(0.05)
    model.update_teacher(1)
    changed = sum((a != b).sum() for a, b in zip(before, model.teacher.parameters(), strict=True))
    assert changed > 0.95 * sum(p.numel() for p in before)


def test_a_borrowed_front_end_in_half_precision_serves_the_teacher():
    config = tiny_config("audio", audio_config={"ema_scope": "blocks"})
    model = Data2VecForPreTraining(config)
    model.data2vec.bfloat16()
    model.decoders.bfloat16()
    assert torch.isfinite(model(**inputs_for("audio")).targets).all()


def test_a_modality_added_on_loading_leaves_the_rest_of_the_teacher(tmp_path):
    model = Data2VecForPreTraining(tiny_config("audio"))
    randomise(model.data2vec)
    model.update_teacher(7)
    model.save_pretrained(tmp_path)
    wider = Data2VecForPreTraining.from_pretrained(tmp_path, config=tiny_config(("vision", "audio")))
    assert wider.ema_step == 7
    for name, parameter in model.teacher.named_parameters():
        assert torch.equal(wider.teacher.get_parameter(name), parameter), name
    name = "modality_encoders.vision.local_encoder.projection.weight"
    assert torch.equal(wider.teacher.get_parameter(name), wider.data2vec.get_parameter(name))
