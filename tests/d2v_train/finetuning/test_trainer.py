"""`FinetuningTrainer`: groups and schedules, frozen start, averaged weights, early stopping, watching, epochs."""

import pytest
import torch
from finetuning_example import losses, make_model, make_trainer, weights
from transformers import TrainerCallback

from d2v_train.models.optim import has_weight_decay, layer_scale


class Record(TrainerCallback):
    """Keeps what `look` returns after each update."""

    def __init__(self, look) -> None:
        self.look, self.seen = look, []

    def on_step_end(self, args, state, control, **kwargs):
        self.seen.append(self.look())


def test_layer_decay_gives_every_parameter_one_rate_and_its_own_weight_decay(tmp_path):
    trainer = make_trainer(tmp_path, layer_decay=0.5, learning_rate=1.0, weight_decay=0.1)
    groups = trainer.create_optimizer().param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    parameters = dict(trainer.model.named_parameters())
    assert sum(len(group["params"]) for group in groups) == len(rates) == len(parameters)
    for name, parameter in parameters.items():
        assert rates[id(parameter)] == layer_scale(name, trainer.model.config, 0.5), name
        assert decays[id(parameter)] == (0.1 if has_weight_decay(name, parameter) else 0.0), name
    assert {rates[id(p)] for p in trainer.model.classifier.parameters()} == {1.0}


def test_the_trainer_uses_the_schedule_for_every_layer(tmp_path):
    trainer = make_trainer(
        tmp_path, tri_stage="0.5,0.0,0.5", learning_rate=1e-3, layer_decay=0.5, max_steps=10, logging_steps=1
    )
    rates = Record(lambda: [group["lr"] for group in trainer.optimizer.param_groups])
    trainer.add_callback(rates)
    trainer.train()
    scales = sorted({0.5**level for level in range(4)})
    assert sorted(set(rates.seen[4])) == pytest.approx([1e-3 * scale for scale in scales])  # the peak
    assert sorted(set(rates.seen[9])) == pytest.approx([5e-5 * scale for scale in scales])
    logged = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert max(logged) == pytest.approx(1e-3)


def test_without_tri_stage_the_schedule_is_the_named_one(tmp_path):
    trainer = make_trainer(tmp_path, lr_scheduler_type="linear", warmup_steps=0.5, learning_rate=1.0)
    trainer.create_optimizer_and_scheduler(4)
    rates = []
    for _ in range(4):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert rates == [0.0, 0.5, 1.0, 0.5]


def test_a_frozen_start_trains_the_head_alone_and_then_thaws(tmp_path):
    model = make_model()
    model.freeze_feature_encoder()
    trainer = make_trainer(tmp_path, model=model, freeze_encoder_steps=2, max_steps=4)
    seen = Record(lambda: weights(model))
    trainer.add_callback(seen)
    before = weights(model)
    trainer.train()

    def changed(one, two) -> set[str]:
        return {name for name in one if not torch.equal(one[name], two[name])}

    head = {name for name in before if not name.startswith("data2vec.")}
    assert changed(before, seen.seen[1]) == head
    thawed = changed(seen.seen[1], seen.seen[3])
    assert any("encoder.blocks.0" in name for name in thawed)
    # What was frozen by hand stays so.
    assert not any("local_encoder" in name for name in thawed)


def test_a_loss_that_is_no_number_stops_the_run_before_it_reaches_the_weights(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=50, logging_steps=500)
    with torch.no_grad():
        trainer.model.classifier.out_proj.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="nan.*--learning_rate"):
        trainer.train()
    assert torch.isfinite(trainer.model.classifier.dense.weight).all()


def test_gradients_that_are_no_numbers_stop_the_run(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=50)
    trainer.model.classifier.out_proj.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(ValueError, match="The gradient norm became (inf|nan) after 1 updates"):
        trainer.train()


def test_accumulated_batches_are_one_batch(tmp_path):
    runs = {}
    for name, batch, accumulate in (("one", 8, 1), ("two", 4, 2), ("eight", 1, 8)):
        trainer = make_trainer(
            tmp_path / name,
            model=make_model(hidden_dropout=0.0),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulate,
        )
        trainer.train()
        runs[name] = losses(trainer)
    assert runs["two"] == pytest.approx(runs["one"], rel=1e-5)
    assert runs["eight"] == pytest.approx(runs["one"], rel=1e-5)


def test_activation_checkpointing_changes_nothing(tmp_path):
    plain = make_trainer(tmp_path / "plain")
    plain.train()
    sparing = make_trainer(tmp_path / "sparing", activation_checkpointing=True)
    sparing.train()
    assert losses(sparing) == pytest.approx(losses(plain), rel=1e-5)


def test_training_data_hears_of_the_epoch(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=13)
    epochs = Record(lambda: trainer.train_dataset.epoch)
    trainer.add_callback(epochs)
    trainer.train()
    assert epochs.seen == [0] * 6 + [1] * 6 + [2]
