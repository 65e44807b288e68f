"""`FinetuningTrainer`: groups and schedules, frozen start, averaged weights, early stopping, watching, epochs."""

import math

import numpy as np
import pytest
import torch
from finetuning_example import losses, make_model, make_trainer, weights
from model_factory import tiny_config, version_config
from transformers import TrainerCallback

from d2v_train.finetuning.callbacks import EarlyStopping, WeightsAverage, tri_stage
from d2v_train.finetuning.data import FinetuningCollator, FinetuningDataset, stack_labels
from d2v_train.finetuning.run import run
from d2v_train.models.optim import has_weight_decay, layer_scale
from modeling_d2v import Data2VecModel


class Record(TrainerCallback):
    """Keeps what `look` returns after each update."""

    def __init__(self, look) -> None:
        self.look, self.seen = look, []

    def on_step_end(self, args, state, control, **kwargs):
        self.seen.append(self.look())


@pytest.mark.parametrize(
    "name, below_the_head",
    [
        ("data2vec.modality_encoders.vision.local_encoder.projection.weight", 4),
        ("data2vec.modality_encoders.vision.extra_tokens", 4),
        ("data2vec.modality_encoders.vision.context_norm.weight", 4),
        ("data2vec.modality_encoders.vision.prenet.0.norm1.weight", 3),
        ("data2vec.encoder.blocks.0.attention.qkv.weight", 2),
        ("data2vec.encoder.blocks.1.mlp.fc1.bias", 1),
        ("data2vec.encoder.norm.weight", 0),
        ("data2vec.modality_encoders.vision.attention_bias.table", 0),
        ("classifier.weight", 0),
    ],
)
def test_layers_are_counted_from_the_head_down(name, below_the_head):
    assert layer_scale(name, tiny_config("vision"), 0.5) == 0.5**below_the_head


@pytest.mark.parametrize("modality", ["text", "vision", "audio"])
@pytest.mark.parametrize("version", ["1.0", "2.0", "2.0 pre-norm"])
def test_every_layer_of_every_model_has_its_rate(modality, version):
    config = version_config(version, modality)
    scales = {layer_scale(name, config, 0.5) for name, _ in Data2VecModel(config).named_parameters()}
    lowest = config.modality_config(modality).prenet_depth + config.num_hidden_layers + 1
    assert scales - {1.0} == {0.5**level for level in range(1, lowest + 1)}


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


def test_what_decays():
    matrix, vector, scale = (torch.nn.Parameter(torch.zeros(shape)) for shape in [(2, 2), (2,), (1, 1, 2, 1, 1)])
    assert has_weight_decay("encoder.blocks.0.mlp.fc1.weight", matrix)
    assert not has_weight_decay("encoder.norm.weight", vector)
    assert not has_weight_decay("modality_encoders.audio.attention_bias.scale", scale)


def test_tri_stage_rises_holds_and_falls():
    def share(step: float) -> float:
        return tri_stage(step, 100, (0.1, 0.4, 0.5))

    assert share(0) == pytest.approx(0.01) and share(5) == pytest.approx(0.505)
    assert {share(step) for step in range(10, 51)} == {1.0}
    assert share(75) == pytest.approx(math.sqrt(0.05))
    assert share(100) == share(150) == pytest.approx(0.05)
    assert [tri_stage(step, 10, (0.0, 1.0, 0.0)) for step in range(11)] == [1.0] * 11


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


class Records:
    """Three samples; the second has no label."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return {"id": index, "text": "abc"[: index + 1], "label": None if index == 1 else index}


def draw(record, seed):
    return {"id": record["id"], "input_ids": np.array([seed % 97, *range(len(record["text"]))])}


def test_samples_are_drawn_from_seed_epoch_and_place_alone():
    dataset = FinetuningDataset(Records(), draw, seed=1)
    first = [dataset[i]["input_ids"].tolist() for i in range(3)]
    assert first == [dataset[i]["input_ids"].tolist() for i in range(3)]
    assert dataset[2]["labels"] == 2 and "labels" not in dataset[1]
    dataset.set_epoch(1)
    assert dataset.epoch == 1
    second = [dataset[i]["input_ids"].tolist() for i in range(3)]
    assert second != first
    assert [FinetuningDataset(Records(), draw, seed=2)[i]["input_ids"].tolist() for i in range(3)] not in (
        first,
        second,
    )
    assert FinetuningDataset(Records(), draw, target=lambda record: 7.5)[0]["labels"] == 7.5


def test_workers_that_outlive_an_epoch_hear_of_the_next():
    dataset = FinetuningDataset(Records(), draw, seed=1)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=None, num_workers=1, persistent_workers=True, collate_fn=lambda item: item["input_ids"][0]
    )
    for epoch in range(2):
        dataset.set_epoch(epoch)
        assert [int(first) for first in loader] == [int(dataset[i]["input_ids"][0]) for i in range(3)]


def test_batches_are_padded_and_labelled():
    config = tiny_config("text")
    collate = FinetuningCollator(config)
    batch = collate([{"input_ids": [0, 5, 2], "labels": 1}, {"input_ids": [0, 2], "labels": 0}])
    assert batch["input_ids"].tolist() == [[0, 5, 2], [0, 2, config.text_config.pad_token_id]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [1, 0] and batch["labels"].dtype == torch.int64
    assert "labels" not in collate([{"input_ids": [0, 2]}])


@pytest.mark.parametrize(
    "labels, expected, dtype",
    [
        ([1, 2], [1, 2], torch.int64),
        ([1.5, 2.0], [1.5, 2.0], torch.float32),
        ([[0.0, 1.0], [1.0, 1.0]], [[0.0, 1.0], [1.0, 1.0]], torch.float32),
        ([[1, 2, 3], [4]], [[1, 2, 3], [4, -100, -100]], torch.int64),
    ],
)
def test_labels_of_every_kind_become_one_tensor(labels, expected, dtype):
    stacked = stack_labels(labels)
    assert stacked.tolist() == expected and stacked.dtype == dtype
