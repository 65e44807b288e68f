"""The grouping "global": latents that read all visible elements."""

import itertools

import pytest
import torch
from model_factory import inputs_for, padded_inputs, randomise, tiny_config, version_config
from transformers import AutoModel

from modeling_d2v import (
    Data2VecConfig,
    Data2VecForCTC,
    Data2VecForImageClassification,
    Data2VecForPreTraining,
    Data2VecModel,
)


PLAIN = {}
CELLS = {"latent_stride": 2, "decoder_type": "cross_attention"}
FLAT = {"anchors": False, "num_latents": 5, "decoder_type": "cross_attention"}
KINDS = {"plain": PLAIN, "cells": CELLS, "flat": FLAT}
MODALITIES = ("text", "vision", "audio")
CASES = [("1.0", PLAIN), ("1.0", CELLS), ("2.0", PLAIN), ("2.0", CELLS), ("2.0", FLAT)]


def config_of(modality: str, version: str = "2.0", **fields) -> Data2VecConfig:
    settings = {
        "front_end": "perceiver",
        "grouping": "global",
        "group_size": 160 if modality == "audio" else 4,
        "latent_size": 16,
        "latent_heads": 2,
        "fourier_bands": 4,
        "alibi": None,
        "mask_sampler": "random",
        "ema_scope": "all",
        "decoder_num_attention_heads": 2,
        "cls_loss_weight": 0.0,
        "mask_noise_std": 0.0,
        **({"relative_position_bias": False} if modality == "vision" else {}),
        **fields,
    }
    return version_config(version, modality, **{f"{modality}_config": settings})


def make(modality: str, version: str = "2.0", **fields) -> Data2VecForPreTraining:
    return randomise(Data2VecForPreTraining(config_of(modality, version, **fields))).eval()


def inputs_of(modality: str) -> dict[str, torch.Tensor]:
    return inputs_for(modality, size=16 if modality == "vision" else None)


def first_values(modality: str, group: int) -> torch.Tensor:
    """Bool of the input's shape: the elements of one group."""
    inputs = next(iter(inputs_of(modality).values()))
    inside = torch.zeros(inputs.shape, dtype=torch.bool)
    if modality == "vision":
        row, column = divmod(group, 8)
        inside[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = True
    else:
        size = 160 if modality == "audio" else 4
        inside[:, size * group : size * (group + 1)] = True
    return inside


@pytest.mark.parametrize(("version", "fields"), CASES)
@pytest.mark.parametrize("modality", MODALITIES)
def test_masked_elements_never_reach_the_student(modality, version, fields):
    model = make(modality, version, **fields)
    inputs = inputs_of(modality)
    ((name, values),) = inputs.items()
    with torch.no_grad():
        tokens = model(**inputs, step=0).mask.shape[2]
    mask = torch.zeros(2, 2, tokens, dtype=torch.bool)
    mask[..., 1:3] = True
    other = torch.where(first_values(modality, 1), values.flip(0) + (1 if modality == "text" else 0.5), values)
    if modality == "text":
        other = other.clamp(max=48)
    with torch.no_grad():
        one, two = model(**inputs, mask=mask), model(**{name: other}, mask=mask)
        seen = model(**{name: other}, mask=mask.roll(2, dims=2))
        before = model(**inputs, mask=mask.roll(2, dims=2))
    torch.testing.assert_close(one.predictions, two.predictions)
    assert not torch.allclose(one.targets, two.targets), "the teacher sees them"
    assert not torch.allclose(before.predictions, seen.predictions), "visible ones are read"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("modality", ["text", "audio"])
def test_padding_changes_nothing(modality, kind):
    model = make(modality, layer_target_norm="layer", **KINDS[kind])
    batch, alone = padded_inputs(modality)
    encoder = model.data2vec
    with torch.no_grad():
        together = encoder(**batch)
        whole = model(**batch, step=0)
        for i, single in enumerate(alone):
            own = encoder(**single)
            length = own.last_hidden_state.shape[1]
            assert together.attention_mask[i].sum() == length
            torch.testing.assert_close(
                together.last_hidden_state[i, :length], own.last_hidden_state[0], atol=1e-5, rtol=1e-4
            )
            torch.testing.assert_close(together.pooler_output[i], own.pooler_output[0], atol=1e-5, rtol=1e-4)
            rows = torch.arange(3)[:, None, None].expand_as(whole.mask)[whole.mask] == i
            extra = model.config.modality_config(modality).num_extra_tokens
            predicted = model(**single, mask=whole.mask[i : i + 1, :, : length - extra])
            torch.testing.assert_close(whole.predictions[rows], predicted.predictions, atol=1e-4, rtol=1e-3)
            torch.testing.assert_close(whole.targets[rows], predicted.targets, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("modality", MODALITIES)
def test_samples_and_masks_do_not_depend_on_each_other(modality, kind):
    """Rows whose masks leave different numbers of groups are filled up, which must not show."""
    model = make(modality, **KINDS[kind])
    inputs = inputs_of(modality)
    ((name, values),) = inputs.items()
    with torch.no_grad():
        tokens = model(**inputs, step=0).mask.shape[2]
        mask = torch.rand(2, 2, tokens) < torch.tensor([0.8, 0.2])[:, None, None]
        mask[..., 0], mask[..., 1] = True, False
        together = model(**inputs, mask=mask).predictions
        apart = [model(**{name: values[i : i + 1]}, mask=mask[i : i + 1, j : j + 1]).predictions
                 for i, j in itertools.product(range(2), range(2))]  # fmt: skip
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("version", "fields"), CASES)
@pytest.mark.parametrize("modality", MODALITIES)
def test_every_weight_has_a_gradient(modality, version, fields):
    model = make(modality, version, mean_target_norm="running", **fields).train()
    model(**inputs_of(modality), step=0).loss.backward()
    assert [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None] == []
    model.zero_grad()
    encoder = model.data2vec.train()
    encoder(**inputs_of(modality)).last_hidden_state.sum().backward()
    assert [name for name, weight in encoder.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("kind", KINDS)
def test_start_values_let_the_input_through(kind):
    """With N(0, 0.02), those of the blocks, constants would outweigh the input."""
    torch.manual_seed(0)
    for model in (config_of("vision", **KINDS[kind]), config_of("text", **KINDS[kind])):
        model = Data2VecForPreTraining(model).data2vec
        (encoder,) = model.modality_encoders.values()
        inputs = next(iter(inputs_of(encoder.modality).values()))
        features = model.local_features(encoder, inputs, None).features
        assert 0.5 < features.std() < 2
        with torch.no_grad():
            latents = encoder.reader(model.local_features(encoder, inputs, None), None, False)[0]
        between = latents.var(dim=0).mean() / latents.var()
        assert between > 0.002, "the same latent of different samples"


def test_an_anchored_latent_reads_what_is_near_from_the_start():
    torch.manual_seed(0)
    model = Data2VecModel(config_of("vision", latent_size=64, fourier_bands=8)).eval()
    encoder = model.modality_encoders["vision"]
    local = model.local_features(encoder, inputs_for("vision")["pixel_values"], None)
    reader = encoder.reader
    with torch.no_grad():
        key = reader.key(reader.key_norm(reader._elements(local)[0]))
        query = reader.query(reader.latent_norm(reader._latents(local, None, 2)))[0, reader.num_extra :]
        heads = query.unflatten(-1, (2, -1)), key[0].unflatten(-1, (2, -1))  # (L, H, c), (U, G, H, c)
        share = (torch.einsum("lhc,ughc->lhug", *heads) * 32**-0.5).flatten(2).softmax(dim=-1).unflatten(2, (256, 4))
    own = share.sum(dim=-1).mean(dim=1).diagonal().mean()
    assert own > 20 / 256, "far above the same attention to every group"


def test_cells_are_squares_of_groups_and_stretches_of_a_line():
    vision = make("vision", **CELLS).data2vec
    encoder = vision.modality_encoders["vision"]
    local = vision.local_features(encoder, torch.randn(1, 3, 12, 16), None)  # 6 x 8 groups
    cells, count = encoder.reader._cells(local)
    assert count == 12 and cells.view(6, 8)[:4, :4].tolist() == [[0, 0, 1, 1]] * 2 + [[4, 4, 5, 5]] * 2
    torch.testing.assert_close(encoder.reader.anchors(local)[1], local.coordinates[[2, 3, 10, 11]].mean(dim=0))
    text = make("text", **CELLS).data2vec
    encoder = text.modality_encoders["text"]
    local = text.local_features(encoder, torch.randint(4, 49, (1, 20)), None)  # 5 groups
    assert encoder.reader._cells(local)[0].tolist() == [0, 0, 1, 1, 2]


def test_content_of_a_group_is_that_of_its_cell_or_of_the_latents_that_attend_to_it():
    for kind in (CELLS, FLAT):
        model = make("text", **kind).data2vec
        encoder = model.modality_encoders["text"]
        local = model.local_features(encoder, torch.randint(4, 49, (2, 20)), None)
        latents = torch.randn(2, 5 if kind is FLAT else 3, 32)
        with torch.no_grad():
            content = encoder.to_tokens(local)(latents)
        assert content.shape == (2, 5, 32)
        if kind is CELLS:
            assert torch.equal(content, latents[:, [0, 0, 1, 1, 2]])
        else:  # means: within the range of the latents, and not the same everywhere
            assert (content <= latents.amax(dim=1, keepdim=True)).all()
            assert not torch.allclose(content[:, 0], content[:, 1])


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"latent_stride": 2}, "cross_attention"),
        ({"anchors": False}, "cross_attention"),
        ({**CELLS, "alibi": "fixed"}, "do without it"),
        ({**FLAT, "decoder_positions_all": True}, "do without it"),
        ({"grouping": "local"}, "grouping"),
        ({"latent_stride": 0}, "latent_stride"),
    ],
)
def test_what_needs_a_token_at_each_position_is_refused_without(fields, message):
    with pytest.raises(ValueError, match=message):
        config_of("vision", **fields)


def test_latents_without_a_place_cannot_be_replaced():
    with pytest.raises(ValueError, match="lie nowhere"):
        config_of("vision", "1.0", **FLAT)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_models_compute_the_same(kind, tmp_path):
    model = make("vision", mean_target_norm="running", **KINDS[kind])
    model.save_pretrained(tmp_path)
    inputs = inputs_of("vision")
    with torch.no_grad():
        wanted = model(**inputs, step=1)
        loaded = Data2VecForPreTraining.from_pretrained(tmp_path)
        found = loaded(**inputs, step=1)
        torch.testing.assert_close(found.loss, wanted.loss, rtol=0, atol=0)
        encoder = AutoModel.from_pretrained(tmp_path)
        assert torch.equal(encoder(**inputs).last_hidden_state, model.data2vec(**inputs).last_hidden_state)


def test_frames_and_classes_are_learned_through_any_latents():
    """Speech is transcribed at the rate of the groups, with spans of time hidden; images are classified."""
    for fields in KINDS.values():
        config = config_of("audio", **fields)
        config.audio_config.vocab_size = 7
        head = Data2VecForCTC(config).train()
        audio, _ = padded_inputs("audio")
        output = head(**audio, labels=torch.tensor([[1, 2, 3], [4, 5, -100], [1, -100, -100]]))
        assert output.logits.shape == (3, 38, 7) and output.loss.isfinite()
        output.loss.backward()
        config = config_of("vision", **fields)
        config.num_labels = 3
        head = Data2VecForImageClassification(config).train()
        output = head(**inputs_for("vision"), labels=torch.tensor([0, 2]))
        output.loss.backward()
        lacking = [name for name, weight in head.named_parameters() if weight.grad is None]
        assert output.logits.shape == (2, 3) and lacking == []


LAYOUTS = {
    "series": (dict(num_dims=1, group_size=8), (90,)),
    "a grid and a rest": (dict(num_dims=2, group_size=16), (13, 10)),
    "a curve": (dict(num_dims=2, group_size=12), (8, 12)),
    "cubes": (dict(num_dims=3, group_size=8), (4, 5, 6)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_of_any_shape_are_read(layout, kind):
    own, sides = LAYOUTS[layout]
    settings = {"grouping": "global", "mask_sampler": "random", "decoder_num_attention_heads": 2, **own, **KINDS[kind]}
    model = Data2VecForPreTraining(tiny_config("arrays", arrays_config=settings)).train()
    arrays = torch.randn(2, *sides, 3)
    output = model(array_values=arrays, step=0)
    output.loss.backward()
    assert output.loss.isfinite()
    groups = model.config.arrays_config.token_count(arrays.shape[1:])
    assert output.mask.shape[2] == groups
    assert model.data2vec(array_values=arrays).last_hidden_state.shape[1] == groups
