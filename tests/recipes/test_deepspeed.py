"""DeepSpeed: ZeRO 1 and 2 train like one process, and a run goes on under them and after them."""

import json
from importlib.metadata import version

import pytest
import torch
from engine_scenarios import (
    BF16,
    DROPOUT,
    EIGHT,
    HALF,
    SCENARIOS,
    TWENTY,
    VISION,
    assert_same_weights,
    launch,
    losses,
    poison,
    run,
    weights,
    write_config,
)

from recipes.common.checkpointing import CheckpointFolder
from recipes.common.run_record import read_record


pytestmark = pytest.mark.deepspeed

STAGES = ("zero 1", "zero 2")
# Modalities take turns: each parameter has taken as many steps as there were of its modality.
TURNS = [*EIGHT, "schedule=alternate"]
HALF_OF_TURNS = [*HALF, "schedule=alternate"]
POISONED = [*VISION, "max_steps=6", "checkpoint_every=0"]
CHANGES = [
    ("replicas", "zero 2"),
    ("zero 2", "replicas"),
    ("zero 1", "zero 2"),
    ("shards", "zero 1"),
    ("zero 2", "shards"),
]
# Buckets smaller than most parameters, and gradients sent otherwise; what else it says is what the run has.
SETTINGS = {
    "train_batch_size": 6,
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": 0.1,
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": [0.9, 0.98], "weight_decay": 0.01}},
    "bf16": {"enabled": "auto"},
    "zero_optimization": {"stage": 2, "reduce_bucket_size": 500, "contiguous_gradients": False,
                          "reduce_scatter": False, "offload_optimizer": {"device": "none"}},
}  # fmt: skip
CLIPPED = [*VISION, "optim.max_grad_norm=0.1", "vision.micro_batch_size=2"]


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """Folder of the runs of all tests, and what they said."""
    folder = tmp_path_factory.mktemp("deepspeed")
    said = launch(folder, [
        *((stage, folder / f"{name} {stage}", [*TWENTY, *overrides])
          for name, overrides in SCENARIOS.items() for stage in STAGES),
        *((stage, folder / f"{name} {stage}", [*steps, DROPOUT])
          for stage in STAGES for name, steps in (("whole", EIGHT), ("resumed", HALF), ("resumed", EIGHT))),
        *((engine, folder / f"{change[0]} to {change[1]}", steps)
          for change in CHANGES for engine, steps in zip(change, (HALF_OF_TURNS, TURNS), strict=True)),
        *((stage, folder / f"{stage} to one process", HALF_OF_TURNS) for stage in STAGES),
        *((stage, folder / f"poison {stage}", POISONED) for stage in STAGES),
        *((engine, folder / f"bf16 {engine}", BF16) for engine in ("replicas", *STAGES)),
    ])  # fmt: skip
    return folder, said


@pytest.mark.parametrize("name", SCENARIOS)
def test_zero_trains_like_one_process(launched, name):
    folder, _ = launched
    run(write_config(folder), folder / f"{name} one", *TWENTY, "accumulate=2", *SCENARIOS[name])
    expected = losses(folder / f"{name} one")
    assert len(expected) >= 40
    for stage in STAGES:
        assert losses(folder / f"{name} {stage}") == pytest.approx(expected, rel=1e-5)
        exported = weights(folder / f"{name} {stage}")
        for key, value in weights(folder / f"{name} one").items():
            torch.testing.assert_close(exported[key], value, rtol=0, atol=1e-4, msg=key)


@pytest.mark.parametrize("stage", STAGES)
def test_run_resumes_bit_for_bit(launched, stage):
    folder, _ = launched
    assert losses(folder / f"whole {stage}") == losses(folder / f"resumed {stage}")
    assert_same_weights(folder / f"whole {stage}", folder / f"resumed {stage}")


def test_run_goes_on_under_another_engine(launched):
    folder, said = launched
    assert said.count("Resumed from") == len(CHANGES) + len(STAGES)
    config = write_config(folder)
    run(config, folder / "one process", *TURNS)
    for stage in STAGES:
        run(config, folder / f"{stage} to one process", *TURNS)
    names = [*(f"{before} to {after}" for before, after in CHANGES), *(f"{stage} to one process" for stage in STAGES)]
    for name in names:
        assert losses(folder / name) == pytest.approx(losses(folder / "one process"), rel=1e-5), name
    expected = optimizer_of(folder / "one process")
    for name in ("replicas to zero 2", "shards to zero 1"):
        found = optimizer_of(folder / name)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=0, atol=1e-6, msg=str(key))


def optimizer_of(folder):
    """Tensors of the last checkpoint's optimizer; the steps that each parameter has taken are among them."""
    content = torch.load(CheckpointFolder(folder / "checkpoints").newest() / "optimizer.pt")["optimizer"]
    return {(number, name): value for number, entry in content["state"].items() for name, value in entry.items()}


def test_record_of_a_run_names_stage_and_version(launched):
    folder, _ = launched
    first, second = read_record(folder / "zero 1 to zero 2")["starts"]
    assert (first["engine"], second["engine"]) == ("DeepSpeed, ZeRO 1", "DeepSpeed, ZeRO 2")
    assert second["deepspeed"] == version("deepspeed")


def test_gradient_that_is_not_finite_in_one_process_is_skipped_and_counted(launched):
    folder, said = launched
    with poison(rank=0):
        run(write_config(folder), folder / "one poisoned", *POISONED)
    for stage in STAGES:
        found, expected = losses(folder / f"poison {stage}"), losses(folder / "one poisoned")
        assert found == pytest.approx(expected, rel=1e-5, nan_ok=True)
    assert said.count("Step 3 was skipped: the gradient of ") == len(STAGES)
    assert (folder / "poison zero 2" / "log.jsonl").read_text().splitlines()[-1].count('"skipped_steps": 1') == 1


def test_half_precision_is_that_of_replicas_and_keeps_weights_whole(launched):
    folder, _ = launched
    for stage in STAGES:
        assert losses(folder / f"bf16 {stage}") == pytest.approx(losses(folder / "bf16 replicas"), rel=1e-3)
        assert {value.dtype for value in weights(folder / f"bf16 {stage}").values()} == {torch.float32, torch.int64}
        assert {value.dtype for value in optimizer_of(folder / f"bf16 {stage}").values()} == {torch.float32}


def test_file_of_deepspeed_is_taken(tmp_path):
    (tmp_path / "deepspeed.json").write_text(json.dumps(SETTINGS))
    said = launch(
        tmp_path,
        [("zero 1", tmp_path / "file", [*TWENTY, *CLIPPED])],
        ACCELERATE_DEEPSPEED_CONFIG_FILE=str(tmp_path / "deepspeed.json"),
    )
    assert "step 20/20" in said
    run(write_config(tmp_path), tmp_path / "one", *TWENTY, *CLIPPED)
    assert losses(tmp_path / "file") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
