"""Groups of elements: how they are cut, padding on either side, every modality, and the cost."""

import pytest
import torch
from model_factory import FRONT_ENDS, PERCEIVER, front_end_config, inputs_for, padded_inputs, randomise, tiny_config
from torch.utils.flop_counter import FlopCounterMode

from modeling_d2v import Data2VecForPreTraining, Data2VecModel
from modeling_d2v.curves import curve_order
from modeling_d2v.perceiver_groups import cut_cubes, cut_curve


PERCEIVERS = [name for name in FRONT_ENDS if "perceiver" in name or name == "arrays"]
LAYOUTS = {
    "series": (dict(num_dims=1, group_size=8), (90,)),
    "squares": (dict(num_dims=2, group_size=16, mask_sampler="inverse_block"), (8, 12)),
    "squares and a rest": (dict(num_dims=2, group_size=16, mask_sampler="inverse_block"), (7, 10)),
    "stretches": (dict(num_dims=2, group_size=12), (8, 12)),
    "cubes": (dict(num_dims=3, group_size=8), (4, 5, 6)),
}


def array_model(layout, **own):
    settings, sides = LAYOUTS[layout]
    config = tiny_config("arrays", arrays_config={**settings, **own})
    return randomise(Data2VecModel(config)).eval(), torch.randn(2, *sides, 3)


def test_squares_are_cut_row_by_row():
    x = torch.arange(24).view(1, 4, 6, 1)
    groups = cut_cubes(x, 2)[0, ..., 0]
    assert groups[:3].tolist() == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]] and len(groups) == 6
    padded = cut_cubes(x[:, :3, :5], 2)[0, ..., 0]
    assert padded.shape == groups.shape and padded[-1].tolist() == [16, 0, 0, 0]


def test_stretches_follow_the_curve():
    x = torch.arange(64).view(1, 8, 8, 1)
    groups = cut_curve(x, 10)[0, ..., 0]
    assert groups.shape == (7, 10)
    assert groups.flatten()[:64].tolist() == curve_order((8, 8)).tolist()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_token_is_what_its_elements_are(layout):
    model, arrays = array_model(layout)
    local = model.modality_encoders["arrays"].local_encoder
    features = local(arrays, None).features
    assert features.shape[1] == local.settings.token_count(arrays.shape[1:])
    changed = arrays.clone()
    changed[(0, *[-1] * (arrays.dim() - 2))] += 1
    moved = (local(changed, None).features != features).any(dim=-1)
    assert moved.sum() == 1, "one element is read by one group"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pretraining_gives_every_weight_a_gradient(layout):
    settings, sides = LAYOUTS[layout]
    model = Data2VecForPreTraining(tiny_config("arrays", arrays_config={**settings, "mask_length": 2})).train()
    output = model(array_values=torch.randn(2, *sides, 3))
    output.loss.backward()
    assert output.loss.isfinite()
    lacking = [
        name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    assert lacking == []


@pytest.mark.parametrize("front_end", [name for name in PERCEIVERS if "vision" not in name])
@pytest.mark.parametrize("left", [False, True])
def test_padding_changes_nothing(front_end, left):
    model = randomise(Data2VecModel(front_end_config("2.0", front_end))).eval()
    batch, alone = padded_inputs(FRONT_ENDS[front_end][0])
    if left:
        batch = {name: value.flip(1) for name, value in batch.items()}
        alone = [{name: value.flip(1) for name, value in inputs.items()} for inputs in alone]
    output = model(**batch)
    for i, inputs in enumerate(alone):
        single = model(**inputs)
        length = single.last_hidden_state.shape[1]
        assert output.attention_mask[i].sum() == length
        torch.testing.assert_close(output.last_hidden_state[i, :length], single.last_hidden_state[0])
        torch.testing.assert_close(output.pooler_output[i], single.pooler_output[0])


def test_coordinates_do_not_depend_on_the_length():
    model = randomise(Data2VecModel(tiny_config("arrays"))).eval()
    local = model.modality_encoders["arrays"].local_encoder
    series = torch.randn(1, 96, 3)
    short, long = local(series[:, :48], None), local(series, None)
    torch.testing.assert_close(short.features, long.features[:, :6])
    torch.testing.assert_close(short.coordinates, long.coordinates[:6])


def test_equal_values_at_other_places_give_other_tokens():
    model = randomise(Data2VecModel(front_end_config("2.0", "vision perceiver"))).eval()
    tokens = model(pixel_values=torch.ones(1, 3, 32, 32)).last_hidden_state[0, 1:]
    assert (torch.cdist(tokens, tokens) + torch.eye(len(tokens)) > 1e-3).all()


@pytest.mark.parametrize("front_end", PERCEIVERS)
@pytest.mark.parametrize("version", ["2.0", "2.0 pre-norm", "1.0"])
def test_both_versions_train(front_end, version):
    own = {"relative_position_bias": False, "mask_sampler": "block"} if front_end == "vision perceiver" else {}
    modality = FRONT_ENDS[front_end][0]
    overrides = {f"{modality}_config": own if version == "1.0" else {}}
    model = Data2VecForPreTraining(front_end_config(version, front_end, **overrides)).train()
    output = model(**inputs_for(modality))
    output.loss.backward()
    assert output.loss.isfinite() and output.target_std > 0.05
    model.update_teacher()


@pytest.mark.parametrize("decoder", ["transformer", "cross_attention"])
def test_decoders_read_the_positions_of_groups(decoder):
    own = {**PERCEIVER, "decoder_type": decoder, "decoder_num_attention_heads": 4, "decoder_positions_masked": True}
    model = Data2VecForPreTraining(tiny_config("vision", vision_config={**own, "prenet_depth": 1}))
    assert model(**inputs_for("vision")).loss.isfinite()


def test_the_front_end_costs_as_much_for_each_element():
    local = Data2VecModel(tiny_config("arrays")).modality_encoders["arrays"].local_encoder
    counts = []
    for length in (1000, 2000, 4000):
        with FlopCounterMode(display=False) as counter:
            local(torch.randn(2, length, 3), None)
        counts.append(counter.get_total_flops())
    # Apart from the queries, which are computed once.
    assert counts[2] - counts[1] == 2 * (counts[1] - counts[0]) > counts[0]


def test_a_batch_without_gradient_checkpointing_and_with_it_is_the_same():
    config = front_end_config("2.0", "vision perceiver")
    model = randomise(Data2VecForPreTraining(config)).train()
    inputs = inputs_for("vision")
    plain = model(**inputs, step=0).loss
    model.activation_checkpointing_enable()
    torch.testing.assert_close(model(**inputs, step=0).loss, plain)
