"""The modalities' gradients in the shared blocks: known angles, and runs that they leave as they are."""

import contextlib
import math
from types import SimpleNamespace

import pytest
import torch
from tiny_run import DROPOUT, assert_same_weights, losses, pretrain, pretrain_two, tiny, write_config
from torch import nn

from d2v_train.batching.batches import MicroBatch
from d2v_train.measuring.gradients import COSINE, NORM, GradientComparison
from d2v_train.support.jsonl import read_log
from d2v_train.support.processes import ONE_PROCESS


class Linear(nn.Module):
    """The loss of a batch is the inner product of its vector with the weights: its gradient is the vector."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.own = nn.Parameter(torch.zeros(3))
        self.register_buffer("passes", torch.zeros(()))
        self.student = SimpleNamespace(encoder=self)

    def shared_parameters(self):
        return {"weight": self.weight}

    def forward(self, vector, mask, step, num_items, num_rows):
        self.passes += 1
        assert num_items == 6 and num_rows == 4
        return SimpleNamespace(loss=self.weight @ vector + self.own.sum())


class Steps:
    """Turns of given vectors, each in two micro-batches of half of it."""

    def __init__(self, vectors):
        self.vectors = vectors
        keys = {name: SimpleNamespace(keys=lambda turn: turn) for name in vectors}
        self.plan = SimpleNamespace(sizes=vectors, turns=keys, turns_before=lambda step, name: step)

    def micro_batches(self, modality, samples, step):
        half = torch.tensor(self.vectors[modality][samples - step]) / 2
        mask = torch.tensor([[[True, False]], [[True, True]]])
        return [MicroBatch(modality, {"vector": half, "mask": mask}, 4)] * 2


def compare(vectors, model=None, **options):
    model = Linear() if model is None else model
    observer = GradientComparison(1, Steps(vectors), ONE_PROCESS, contextlib.nullcontext, **options)
    return observer.look(model, 5)


def test_known_norms_and_angles():
    model = Linear()
    found = compare({"vision": [[3.0, 0, 0], [0, 4.0, 0]], "audio": [[1.0, 0, 0], [1.0, 0, 0]]}, model)
    expected = {
        f"audio/{NORM}": 1.0,
        f"audio/{COSINE}": 1.0,
        f"vision/{NORM}": 2.5,
        f"vision/{COSINE}": 0.0,
        f"{COSINE}/audio_vision": 0.5,
    }
    assert found == pytest.approx(expected) and list(found) == list(expected)
    assert model.weight.grad is None and model.own.grad is None and model.passes == 0


def test_opposite_gradients_weights_and_scales():
    vectors = {"text": [[2.0, 0, 0]] * 2, "audio": [[-1.0, 0, 0]] * 2}
    found = compare(vectors, weights={"text": 0.5}, loss_scale=lambda: 1024.0)
    assert found[f"{COSINE}/audio_text"] == pytest.approx(-1) and found[f"text/{NORM}"] == pytest.approx(1)


def test_gradients_without_an_angle_are_left_out():
    found = compare({"text": [[0.0, 0, 0]] * 2, "audio": [[math.inf, 0, 0]] * 2, "vision": [[1.0, 0, 0]] * 2})
    assert found == pytest.approx({f"text/{NORM}": 0.0, f"vision/{NORM}": 1.0, f"vision/{COSINE}": 1.0})


@pytest.mark.parametrize("schedule", ["alternate", "mixed"])
def test_a_run_is_the_same_with_and_without(tmp_path, schedule):
    config = write_config(tmp_path, tiny("vision", "audio", schedule=schedule, accumulate=2))
    options = [DROPOUT, "gradient_checkpointing=true", "model.norms=per_modality",
               "model.vision_config.mean_target_norm=running"]  # fmt: skip
    pretrain(config, tmp_path / "plain", *options)
    pretrain(config, tmp_path / "watched", *options, "logging.gradients_every=2")
    found = {key: value for key, value in losses(tmp_path / "watched").items() if "shared" not in key[1]}
    assert losses(tmp_path / "plain") == found != {}
    assert_same_weights(tmp_path / "plain", tmp_path / "watched")
    log = read_log(tmp_path / "watched" / "log.jsonl")
    assert [line["step"] for line in log if f"{COSINE}/audio_vision" in line] == [0, 2, 4, 6]
    assert all(-1 <= line[f"{COSINE}/audio_vision"] <= 1 and line[f"audio/{NORM}"] > 0 for line in log[::2])


def compared(folder):
    return {
        (line["step"], name): value
        for line in read_log(folder / "log.jsonl")
        for name, value in line.items()
        if "shared_gradient" in name
    }


def test_processes_and_micro_batches_make_no_difference(tmp_path):
    config = write_config(tmp_path, tiny("vision", "audio", max_steps=2, schedule="mixed", audio={"batch_size": 4}))
    options = ["logging.gradients_every=1"]
    pretrain(config, tmp_path / "one", *options)
    pretrain(config, tmp_path / "cut", *options, "accumulate=2")
    pretrain_two(config, tmp_path / "two", *options)
    one = compared(tmp_path / "one")
    assert len(one) == 3 * 5
    assert compared(tmp_path / "cut") == pytest.approx(one, rel=1e-3, abs=1e-5)
    assert compared(tmp_path / "two") == pytest.approx(one, rel=1e-3, abs=1e-5)


def test_the_norm_is_that_of_the_step(tmp_path):
    """Of a model whose trained parameters all lie in the shared blocks, with one modality."""
    config = write_config(tmp_path, tiny("vision", max_steps=1))
    gradients = {}

    def note(run, batches):
        run.train_step_(batches)
        shared = run.inner.student.encoder.shared_parameters().values()
        gradients[run.step] = torch.cat([parameter.grad.flatten() for parameter in shared])
        return True

    from d2v_train.pretraining.training import Pretraining

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pretraining, "train_step_", Pretraining.train_step, raising=False)
        patch.setattr(Pretraining, "train_step", note)
        pretrain(config, tmp_path / "run", "logging.gradients_every=1", "optim.lr=1e-12", "max_steps=2")
    first = read_log(tmp_path / "run" / "log.jsonl")[0]
    # The first comparison takes the batches of the two steps, at weights that hardly move.
    cosine = torch.nn.functional.cosine_similarity(gradients[1], gradients[2], dim=0).item()
    assert first["step"] == 0 and first[f"vision/{COSINE}"] == pytest.approx(cosine, abs=0.05)
    norm = ((gradients[1] + gradients[2]) / 2).norm().item()
    assert first[f"vision/{NORM}"] == pytest.approx(norm, rel=0.05)
