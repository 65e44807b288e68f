"""Schedule in three stages, averaged weights, early stopping."""

import math

import pytest
import torch
from finetuning_example import make_model, make_trainer, weights
from transformers import TrainerCallback

from d2v_train.finetuning.callbacks import EarlyStopping, WeightsAverage, tri_stage
from d2v_train.finetuning.run import run


class Record(TrainerCallback):
    """Keeps what `look` returns after each update."""

    def __init__(self, look) -> None:
        self.look, self.seen = look, []

    def on_step_end(self, args, state, control, **kwargs):
        self.seen.append(self.look())


def test_tri_stage_rises_holds_and_falls():
    def share(step: float) -> float:
        return tri_stage(step, 100, (0.1, 0.4, 0.5))

    assert share(0) == pytest.approx(0.01) and share(5) == pytest.approx(0.505)
    assert {share(step) for step in range(10, 51)} == {1.0}
    assert share(75) == pytest.approx(math.sqrt(0.05))
    assert share(100) == share(150) == pytest.approx(0.05)
    assert [tri_stage(step, 10, (0.0, 1.0, 0.0)) for step in range(11)] == [1.0] * 11


def test_the_average_follows_its_formula_and_becomes_the_model(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=3, weights_ema_decay=0.9, learning_rate=0.1)
    parameter = trainer.model.classifier.out_proj.weight
    expected = parameter.detach().clone()
    seen = Record(lambda: parameter.detach().clone())
    trainer.add_callback(seen)
    run(trainer)
    for value in seen.seen:
        expected = 0.9 * expected + 0.1 * value
    torch.testing.assert_close(parameter.detach(), expected)
    assert not torch.allclose(parameter, seen.seen[-1])


def test_the_average_is_evaluated_and_the_weights_come_back(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=3, weights_ema_decay=0.5, learning_rate=0.1)
    trainer.train()
    own = weights(trainer.model)
    with_average = trainer.evaluate()["eval_loss"]
    assert all(torch.equal(own[name], value) for name, value in trainer.model.state_dict().items())
    average, trainer.average = trainer.average, None
    without = trainer.evaluate()["eval_loss"]
    average.keep()
    assert trainer.evaluate()["eval_loss"] == with_average != without


def test_the_average_is_stored_with_checkpoints_and_loaded(tmp_path):
    model = make_model()
    average = WeightsAverage(model, 0.5)
    with torch.no_grad():
        model.classifier.out_proj.weight.add_(1.0)
    average.update()
    average.save(tmp_path)
    other = WeightsAverage(make_model(), 0.5)
    other.load(tmp_path)
    assert all(torch.equal(value, average.values[name]) for name, value in other.values.items())

    model.freeze_base_model()
    with pytest.raises(ValueError, match="averages"):
        WeightsAverage(model, 0.5).load(tmp_path)
    with pytest.raises(ValueError, match="--weights_ema_decay"):
        other.load(tmp_path / "elsewhere")


@pytest.mark.parametrize("save_only_model", [False, True])
def test_the_best_average_is_what_remains(tmp_path, save_only_model):
    trainer = make_trainer(
        tmp_path,
        max_steps=8,
        learning_rate=0.3,
        weights_ema_decay=0.5,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        save_only_model=save_only_model,
        do_eval=True,
    )
    results = run(trainer)
    seen = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry][:4]
    assert len(set(seen)) == 4 and seen.index(min(seen)) < 3
    assert results["eval_loss"] == pytest.approx(min(seen), rel=1e-5)


def test_early_stopping_counts_evaluations_without_improvement(tmp_path):
    options = {"eval_strategy": "steps", "save_strategy": "steps", "early_stopping_patience": 3}
    trainer = make_trainer(tmp_path, **options)
    stopping = EarlyStopping(3, threshold=0.1)

    def waited(*values: float) -> int:
        trainer.state.log_history = [{"loss": 1.0}, *({"eval_loss": value} for value in values)]
        return stopping.waited(trainer.args, trainer.state)

    assert [waited(), waited(1.0), waited(1.0, 0.8), waited(1.0, 1.2), waited(1.0, 1.0, 1.0)] == [0, 0, 0, 1, 2]
    assert waited(1.0, 0.95) == 1  # an improvement, but below the threshold
    trainer.args.greater_is_better = True
    assert [waited(1.0, 0.8), waited(1.0, 1.2)] == [1, 0]


def test_early_stopping_keeps_the_best_and_survives_a_restart(tmp_path):
    options = dict(
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=2,
        max_steps=50,
        learning_rate=0.5,
        early_stopping_patience=2,
        do_eval=True,
    )
    trainer = make_trainer(tmp_path, **options)
    results = run(trainer)
    stopped = trainer.state.global_step
    assert stopped < 50
    assert results["eval_loss"] == pytest.approx(trainer.state.best_metric, rel=1e-4)

    # Cut off after the last checkpoint: the run knows that it was about to stop.
    (tmp_path / "trainer_state.json").unlink()
    again = make_trainer(tmp_path, **options)
    repeated = run(again)
    assert again.state.global_step <= stopped + 1
    assert repeated["eval_loss"] == pytest.approx(results["eval_loss"], rel=1e-4)
