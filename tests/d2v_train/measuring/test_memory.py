"""The estimate of a step's memory against what autograd really keeps."""

import pytest
import torch
from model_factory import FRONT_ENDS, front_end_config, inputs_for, version_config

from d2v_train.measuring.flops import StepFlops
from d2v_train.measuring.memory import Activations, current_memory, free_memory, state_bytes
from modeling_d2v import Data2VecForPreTraining


WIDE = dict(hidden_size=64, intermediate_size=256, num_hidden_layers=4)
DROPOUT = dict(hidden_dropout=0.1, mlp_dropout=0.1, attention_dropout=0.1, activation_dropout=0.1)


def kept_bytes(model, inputs, mixed):
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


@pytest.mark.parametrize("mixed, tolerance", [(False, 0.03), (True, 0.14)])
@pytest.mark.parametrize("version, settings", [("2.0", {}), ("2.0 pre-norm", DROPOUT), ("1.0", {}), ("1.0", DROPOUT)])
@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_activations_are_those_that_autograd_keeps(front_end, version, settings, mixed, tolerance):
    modality, _ = FRONT_ENDS[front_end]
    config = front_end_config(version, front_end, **WIDE, **settings)
    model = Data2VecForPreTraining(config).train()
    inputs = inputs_for(modality, batch=4)
    with torch.no_grad():
        inputs["mask"] = model(**inputs, step=0).mask
    shape = StepFlops(config).shape(modality, inputs)
    estimate = Activations(config, mixed)(modality, shape)
    assert estimate == pytest.approx(kept_bytes(model, inputs, mixed), rel=tolerance)


def test_recomputation_keeps_the_inputs_of_the_blocks():
    config = version_config("2.0", "vision", **{**WIDE, "num_hidden_layers": 8})
    shape = StepFlops(config).shape("vision", {**inputs_for("vision"), "mask": torch.rand(2, 4, 16) < 0.5})
    plain, short = (Activations(config, recompute=recompute).parts("vision", shape) for recompute in (False, True))
    assert short["blocks"] < plain["blocks"] / 4 and short["decoder"] == plain["decoder"]


def test_accelerators_keep_less():
    config = version_config("2.0", "audio", **WIDE, **DROPOUT)
    shape = StepFlops(config).shape("audio", {**inputs_for("audio"), "mask": torch.rand(2, 3, 18) < 0.5})
    assert Activations(config, on_cpu=False)("audio", shape) < Activations(config)("audio", shape)


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
