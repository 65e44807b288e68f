"""Shared blocks in which modalities have norms and feed-forward parts of their own, and what else tells them apart."""

import logging

import pytest
import torch
import transformers
from model_factory import MODALITIES, inputs_for, randomise, relative_error, tiny_config
from peft import LoraConfig, get_peft_model

from modeling_d2v import (
    Data2VecConfig,
    Data2VecForImageClassification,
    Data2VecForPreTraining,
    Data2VecModel,
)
from modeling_d2v.conversion.hf.export import to_transformers


OWN = {"norms": "per_modality", "feed_forward": "per_modality"}
EVERYTHING = {**OWN, "modality_embedding": True, "qk_norm": True}


def spread(state, config):
    """Weights of shared blocks, as those of a model in which every modality has the same ones."""
    own = Data2VecModel(config).state_dict()
    for name in own:
        parts = [part for part in name.split(".") if part not in MODALITIES]
        shared = ".".join(parts) if name.startswith("encoder.") else name
        own[name] = state[shared]
    return own


@torch.no_grad()
@pytest.mark.parametrize("norm_first", [False, True])
def test_equal_parts_compute_what_shared_ones_do(norm_first):
    shared = randomise(Data2VecModel(tiny_config(norm_first=norm_first))).eval()
    assert not any(part in name for name in shared.encoder.state_dict() for part in MODALITIES)
    config = tiny_config(norm_first=norm_first, **OWN)
    own = Data2VecModel(config).eval()
    own.load_state_dict(spread(shared.state_dict(), config))
    for modality in MODALITIES:
        batch = inputs_for(modality)
        assert torch.equal(own(**batch).last_hidden_state, shared(**batch).last_hidden_state)
    before = own(**inputs_for("audio")).last_hidden_state
    own.encoder.blocks[0].norm1["vision"].bias[0] += 5
    own.encoder.blocks[1].mlp["text"].fc2.bias[0] += 5
    assert torch.equal(own(**inputs_for("audio")).last_hidden_state, before)
    for modality in ("vision", "text"):
        batch = inputs_for(modality)
        assert relative_error(own(**batch).last_hidden_state, shared(**batch).last_hidden_state) > 1e-3


def test_a_modality_trains_its_own_parts_and_what_is_shared():
    model = randomise(Data2VecForPreTraining(tiny_config(norm_first=True, **EVERYTHING))).train()
    model(**inputs_for("audio"), step=1).loss.backward()
    trained = {name for name, value in model.data2vec.encoder.named_parameters() if value.grad is not None}
    assert {name.split(".")[-2] for name in trained if "norm" in name} == {"audio", "q_norm", "k_norm"}
    others = {name for name, _ in model.data2vec.encoder.named_parameters()} - trained
    assert others and all((set(MODALITIES) - {"audio"}) & set(name.split(".")) for name in others)
    shared = model.data2vec.encoder.shared_parameters()
    assert shared.keys() == {name for name in trained if "audio" not in name.split(".")} != set()
    assert model.data2vec.modality_encoders["audio"].modality_embedding.grad.abs().sum() > 0


def test_prenet_and_decoder_serve_one_modality():
    vision = {"decoder_type": "transformer", "decoder_num_attention_heads": 2, "prenet_depth": 1}
    model = Data2VecForPreTraining(tiny_config(("vision", "audio"), vision_config=vision, **OWN))
    outside = [
        name for name, _ in model.named_parameters() if ".encoder." not in name and not name.startswith("teacher")
    ]
    assert any("prenet.0.norm1.weight" in name for name in outside)
    assert any("decoders.vision.blocks.0.mlp.fc1.weight" in name for name in outside)


def test_the_teacher_follows_every_part():
    model = Data2VecForPreTraining(tiny_config(("vision", "audio"), **EVERYTHING))
    randomise(model.data2vec)
    model.update_teacher(1)
    moved = dict(model.teacher.named_parameters())
    for name in ("blocks.0.norm1.audio.weight", "blocks.1.mlp.vision.fc1.bias", "blocks.1.attention.q_norm.weight"):
        student = model.data2vec.encoder.get_parameter(name)
        assert 0 < relative_error(moved[f"encoder.{name}"], student) < 1
    assert torch.isfinite(model(**inputs_for("vision"), step=1).targets).all()


def test_gradient_checkpointing_changes_nothing():
    losses = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model = randomise(Data2VecForPreTraining(tiny_config(**EVERYTHING))).train()
        if checkpointed:
            model.activation_checkpointing_enable()
        loss = model(**inputs_for("vision"), step=1).loss
        loss.backward()
        losses.append((loss.item(), model.data2vec.encoder.blocks[0].mlp["vision"].fc1.weight.grad.clone()))
    assert losses[0][0] == losses[1][0] and torch.equal(losses[0][1], losses[1][1])


@pytest.mark.slow
def test_blocks_of_several_modalities_compile_without_a_graph_break():
    model = randomise(Data2VecModel(tiny_config(**EVERYTHING)))
    batches = [inputs_for(modality) for modality in MODALITIES]
    expected = [model(**batch).last_hidden_state for batch in batches]
    model.encoder = torch.compile(model.encoder, fullgraph=True, backend="aot_eager")
    for batch, before in zip(batches, expected, strict=True):
        torch.testing.assert_close(model(**batch).last_hidden_state, before, rtol=1e-4, atol=1e-5)


# -- saving, heads, adapters, export


def test_a_head_takes_its_modality_of_a_joint_checkpoint(tmp_path, caplog):
    joint = randomise(Data2VecForPreTraining(tiny_config(norm_first=True, **EVERYTHING))).eval()
    joint.save_pretrained(tmp_path / "joint")
    again = Data2VecForPreTraining.from_pretrained(tmp_path / "joint").eval()
    assert again.state_dict().keys() == joint.state_dict().keys()
    assert torch.equal(again(**inputs_for("text"), step=1).loss, joint(**inputs_for("text"), step=1).loss)
    transformers.logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        head = Data2VecForImageClassification.from_pretrained(tmp_path / "joint", num_labels=3).eval()
    transformers.logging.disable_propagation()
    assert "UNEXPECTED" not in caplog.text
    assert [name for name in head.data2vec.encoder.state_dict() if "audio" in name or "text" in name] == []
    levels = [model(**inputs_for("vision"), output_hidden_states=True).hidden_states
              for model in (head.data2vec, joint.data2vec)]  # fmt: skip
    assert all(torch.equal(one, other) for one, other in zip(*levels, strict=True))
    head.save_pretrained(tmp_path / "head")
    saved = Data2VecForImageClassification.from_pretrained(tmp_path / "head").eval()
    assert torch.equal(saved(**inputs_for("vision")).logits, head(**inputs_for("vision")).logits)


def test_lora_adapts_the_feed_forward_parts_of_every_modality():
    model = Data2VecModel(tiny_config(("vision", "audio"), **OWN))
    adapted = get_peft_model(model, LoraConfig(r=2, init_lora_weights=False, **model.lora_settings()))
    names = {name.partition(".lora_A")[0] for name, value in adapted.named_parameters() if value.requires_grad}
    for end in ("mlp.vision.fc1", "mlp.audio.fc2", "attention.qkv"):
        assert sum(name.endswith(f"encoder.blocks.1.{end}") for name in names) >= 1
    assert torch.isfinite(adapted(**inputs_for("audio")).last_hidden_state).all()


def test_one_modality_is_exported_to_transformers():
    v1 = {"masked_tokens": "replaced", "audio_config": {"alibi": None, "prenet_depth": 0, "conv_pos_width": 5}}
    model = randomise(Data2VecModel(tiny_config(("text", "audio"), **v1, **OWN))).eval()
    exported, unused, _ = to_transformers(model, modality="text")
    batch = inputs_for("text")
    torch.testing.assert_close(
        exported(**batch).last_hidden_state, model(**batch).last_hidden_state, rtol=1e-4, atol=1e-5
    )
    assert {entry.reason for entry in unused} == {"belongs to audio, which is not exported"}
    assert any(entry.name == "encoder.blocks.0.mlp.audio.fc1.weight" for entry in unused)
    for field in ("qk_norm", "modality_embedding"):
        with pytest.raises(ValueError, match=f"{field} is True"):
            to_transformers(Data2VecModel(tiny_config("text", masked_tokens="replaced", **{field: True})))


# -- the vector of the modality, norms of queries and keys, the configuration


@torch.no_grad()
def test_the_vector_is_added_to_all_tokens_that_enter_the_blocks():
    model = randomise(Data2VecModel(tiny_config("vision", modality_embedding=True))).eval()
    encoder, batch = model.modality_encoders["vision"], inputs_for("vision")
    first = model(**batch, output_hidden_states=True).hidden_states[0]
    vector = encoder.modality_embedding.clone()
    encoder.modality_embedding.zero_()
    without = model(**batch, output_hidden_states=True).hidden_states[0]
    assert vector.abs().min() > 0 and torch.allclose(first, without + vector, atol=1e-6)


def test_a_new_vector_is_small():
    vector = Data2VecModel(tiny_config("text", modality_embedding=True)).modality_encoders["text"].modality_embedding
    assert 0 < vector.std() < 0.05


@torch.no_grad()
def test_normed_queries_and_keys_do_not_grow_with_their_weights():
    outputs = {}
    for qk_norm in (False, True):
        model = randomise(Data2VecModel(tiny_config("text", qk_norm=qk_norm))).eval()
        attention, x = model.encoder.blocks[0].attention, torch.randn(2, 7, 32)
        before = attention(x)[0]
        attention.qkv.weight[:64] *= 100
        attention.qkv.bias[:64] *= 100
        outputs[qk_norm] = relative_error(attention(x)[0], before)
    assert outputs[True] < 1e-2 < 0.1 < outputs[False]


def test_settings_that_mean_nothing_are_errors():
    with pytest.raises(ValueError, match="`norms` is 'own'.*'shared', 'per_modality'"):
        Data2VecConfig(norms="own")
    with pytest.raises(ValueError, match="norms without weights"):
        Data2VecConfig(norms="per_modality", norm_affine=False)
