"""The estimate of a step's memory against what autograd really keeps."""

import pytest
import torch
from backbone_factory import KINDS, inputs_of, pretraining
from model_factory import MODALITIES, inputs_for, padded_inputs, version_config

from d2v_train.measuring.memory import activation_bytes, current_memory, free_memory, state_bytes
from modeling_d2v import Data2VecForPreTraining


WIDE = dict(hidden_size=64, intermediate_size=256, num_hidden_layers=4)
DROPOUT = dict(hidden_dropout=0.1, mlp_dropout=0.1, attention_dropout=0.1, activation_dropout=0.1)


def kept_bytes(model, inputs, mixed=False):
    """Bytes of the different storages that autograd keeps, but for parameters, their half copies and the input."""
    owners = [*model.parameters(), *model.buffers(), *inputs.values()]
    own = {tensor.untyped_storage().data_ptr() for tensor in owners}
    held = []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda tensor: held.append(tensor) or tensor, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=mixed),
    ):
        model(**inputs, step=0)
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in held}
    total = sum(size for place, size in storages.items() if place not in own)
    trained = sum(
        p.numel() for n, p in model.named_parameters() if p.requires_grad and p.ndim > 1 and "embed" not in n
    )
    return total - (2 * trained if mixed else 0)


def masked(model, inputs):
    """The inputs of a batch with the masks that the model draws."""
    with torch.no_grad():
        return {**inputs, "mask": model(**inputs, step=0).mask}


# In half precision the test counts the copies of the weights in the rough.
@pytest.mark.parametrize("mixed, tolerance", [(False, 1e-5), (True, 0.04)])
@pytest.mark.parametrize("version, settings", [("2.0", {}), ("2.0 pre-norm", DROPOUT), ("1.0", {}), ("1.0", DROPOUT)])
@pytest.mark.parametrize("modality", MODALITIES)
def test_activations_are_those_that_autograd_keeps(modality, version, settings, mixed, tolerance):
    model = Data2VecForPreTraining(version_config(version, modality, **WIDE, **settings)).train()
    inputs = masked(model, inputs_for(modality, batch=4))
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        estimate = activation_bytes(model, inputs)
    assert estimate == pytest.approx(kept_bytes(model, inputs, mixed), rel=tolerance)


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_activations_of_encoders_of_transformers(kind, batch):
    model = pretraining(kind).train()
    inputs = masked(model, inputs_of(kind, batch))
    torch.manual_seed(0)  # of layers that are left out at random
    real = kept_bytes(model, inputs)
    torch.manual_seed(0)
    assert activation_bytes(model, inputs) == pytest.approx(real, rel=0.01)


@pytest.mark.parametrize("modality", ["text", "audio"])
def test_shorter_samples_are_counted_as_the_longest(modality):
    model = Data2VecForPreTraining(version_config("2.0", modality, **WIDE)).train()
    inputs = masked(model, {name: value.flip(0) for name, value in padded_inputs(modality)[0].items()})
    real = kept_bytes(model, inputs)
    assert real <= activation_bytes(model, inputs) < 1.15 * real


def test_recomputation_keeps_one_block_and_the_inputs_of_the_others():
    model = Data2VecForPreTraining(version_config("2.0", "vision", **{**WIDE, "num_hidden_layers": 8})).train()
    inputs = masked(model, inputs_for("vision", batch=4))
    plain = activation_bytes(model, inputs)
    one_less = Data2VecForPreTraining(version_config("2.0", "vision", **{**WIDE, "num_hidden_layers": 7})).train()
    block = plain - activation_bytes(one_less, inputs)
    model.activation_checkpointing_enable()
    recomputed = kept_bytes(model, inputs)
    input_of_a_block = inputs["mask"][:, :, 0].numel() * 4 * WIDE["hidden_size"] * (~inputs["mask"][0, 0]).sum().item()
    assert activation_bytes(model, inputs) == pytest.approx(recomputed + block - input_of_a_block, rel=0.01)
    assert kept_bytes(model, inputs) == recomputed < plain / 4


def test_measuring_leaves_everything_as_it_was():
    model = pretraining("wav2vec2-conformer").train()
    inputs = masked(model, inputs_of("wav2vec2-conformer"))
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    before = {name: value.clone() for name, value in tensors.items() if value.is_floating_point()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16):
        activation_bytes(model, inputs)
        assert torch.equal(torch.rand(3), expected)
        after = dict([*model.named_parameters(), *model.named_buffers()])
        assert all(after[name] is tensors[name] and torch.equal(after[name], value) for name, value in before.items())
        assert model(**inputs, step=0).loss.isfinite()


def test_state_is_what_training_holds():
    model = Data2VecForPreTraining(version_config("2.0", "text"))
    teacher = sum(parameter.numel() for parameter in model.teacher.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters()) - teacher
    assert state_bytes(model) == {
        "weights": 4 * trained, "teacher": 4 * teacher, "gradients": 4 * trained, "optimizer": 8 * trained,
    }  # fmt: skip
    assert state_bytes(model, mixed=True, shards=2)["weights in half precision"] == trained
    assert state_bytes(model, shards=2)["gradients"] == 2 * trained
    assert current_memory(torch.device("cpu")) > 2**26


def test_free_memory_is_told_of_a_cpu_alone():
    assert 2**20 < free_memory(torch.device("cpu")) and free_memory(torch.device("cuda")) is None
