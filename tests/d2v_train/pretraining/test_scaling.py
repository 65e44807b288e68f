"""The rule for other batch sizes: what it changes, what it leaves, and that a scaled run is resumed as itself."""

import dataclasses
import math

import pytest
from tiny_run import pretrain, tiny, write_config

from d2v_train.options.errors import OptionError
from d2v_train.options.files import build_options, read_yaml
from d2v_train.pretraining.scaling import scale_batch, scaling_table


def options(**changes):
    tree = {
        "output_dir": "run",
        "max_steps": 1000,
        "vision": {"batch_size": 8},
        "model": {"preset": "vision-base"},
        "optim": {"lr": 1e-3, "betas": [0.9, 0.98], "eps": 1e-6, "weight_decay": 0.05, "warmup": 100.0},
    }
    return build_options(tree | changes)


def test_without_a_scale_nothing_changes():
    given = options()
    assert scale_batch(given) is given


def test_each_number_follows_the_rule():
    scaled = scale_batch(options(batch_scale=4.0))
    assert scaled.batch_scale == 1 and scaled.vision.batch_size == 32
    assert (scaled.max_steps, scaled.warmup_steps) == (250, 25)
    assert scaled.optim.lr == pytest.approx(2e-3) and scaled.optim.weight_decay == pytest.approx(0.1)
    assert scaled.optim.betas == pytest.approx([0.6, 0.92]) and scaled.optim.eps == pytest.approx(5e-7)
    # The decay is the preset's: the options do not name it.
    assert scaled.model["ema_decay"] == pytest.approx(0.9998**4, abs=1e-12)
    assert scaled.model["ema_end_decay"] == pytest.approx(0.99999**4, abs=1e-12)
    assert scaled.model["ema_anneal_end_step"] == 25_000


def test_shares_of_the_schedule_stay_and_its_steps_scale():
    optim = {"warmup": 0.1, "hold": 200.0, "schedule_steps": 2000, "min_lr": 1e-5, "max_grad_norm": 4.0}
    scaled = scale_batch(options(batch_scale=0.25, optim=optim)).optim
    assert (scaled.warmup, scaled.hold, scaled.schedule_steps) == (0.1, 800.0, 8000)
    assert scaled.min_lr == pytest.approx(5e-6) and scaled.max_grad_norm == 4.0


def test_a_warmup_of_steps_never_turns_into_a_share():
    assert scale_batch(options(batch_scale=4.0, optim={"warmup": 2.0})).warmup_steps == 1


def test_learning_over_the_same_samples_is_the_same_to_first_order():
    """Decay of a weight, forgetting of the teacher and of the moments, per sample: equal before and after."""
    before, after = options(batch_scale=2.0), scale_batch(options(batch_scale=2.0))
    for run, batch in ((before, 8), (after, 16)):
        rate = run.optim.lr * run.optim.weight_decay / batch
        assert rate == pytest.approx(1e-3 * 0.05 / 8)
        assert [(1 - beta) / batch for beta in run.optim.betas] == pytest.approx([0.1 / 8, 0.02 / 8])
        decay = run.model.get("ema_decay", 0.9998)
        assert math.log(decay) / batch == pytest.approx(math.log(0.9998) / 8)
        assert run.max_steps * batch == 8000


def test_there_and_back_is_the_beginning():
    before = options(batch_scale=4.0)
    back = scale_batch(build_options(dataclasses.asdict(scale_batch(before)) | {"batch_scale": 0.25}))
    assert back.optim == before.optim and back.vision == before.vision and back.max_steps == before.max_steps
    assert back.model["ema_decay"] == pytest.approx(0.9998, abs=1e-12)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"batch_scale": 0.0}, "batch_scale"),
        ({"batch_scale": float("nan")}, "batch_scale"),
        ({"batch_scale": 0.3}, "2.4.*vision.batch_size=8.*0.25"),
        ({"batch_scale": 0.01}, "0.125"),
        ({"batch_scale": 16.0}, "10 at most"),
        ({"batch_scale": 0.25, "accumulate": 4}, "vision.batch_size.*2.*4"),
    ],
)
def test_a_scale_that_cannot_be_is_explained(changes, words):
    with pytest.raises(OptionError, match=words):
        scale_batch(options(**changes))


def test_the_table_shows_configured_and_scaled_values():
    given = options(batch_scale=4.0)
    lines = scaling_table(given, scale_batch(given)).splitlines()
    cells = [line.split("  ") for line in lines[1:]]
    values = {row[0]: [cell.strip() for cell in row[1:] if cell.strip()] for row in cells}
    assert values["vision.batch_size"] == ["8", "32"] and values["max_steps"] == ["1000", "250"]
    assert values["model.ema_anneal_end_step"] == ["100000", "25000"]
    assert "optim.max_grad_norm" not in values and "batch_scale" not in values


def test_a_scaled_run_keeps_the_scaled_values_and_is_resumed_as_itself(tmp_path):
    config, folder = write_config(tmp_path, tiny("vision", max_steps=8)), tmp_path / "run"
    assert pretrain(config, folder, "batch_scale=2")["samples"] == 8 * 4
    saved = build_options(read_yaml(folder / "run.yaml"))
    assert (saved.batch_scale, saved.vision.batch_size, saved.max_steps) == (1.0, 8, 4)
    assert pretrain(config, folder, "batch_scale=2")["steps"] == 4
    with pytest.raises(OptionError, match="vision.batch_size.*8 -> 4"):
        pretrain(config, folder)
    # The file of the run is a configuration like any other, and already scaled.
    assert pretrain(folder / "run.yaml", folder)["steps"] == 4
