"""Engines: one process, DistributedDataParallel and FSDP2 train alike, and a run goes on under another of them."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from engine_scenarios import BF16, EIGHT, ENGINES, HALF, SCENARIOS, TINY, TWENTY, VISION, launch, poison
from model_factory import inputs_for, tiny_config, version_config
from tiny_run import DROPOUT, ROOT, assert_same_weights, losses, pretrain, weights, write_config
from transformers import AutoModel

from d2v_train.engine.engine import (
    check_launched,
    check_precision,
    engine_name,
    leaves_out_parameters,
    sharding_plugin,
    warn_of_emulated_bf16,
)
from d2v_train.options.errors import OptionError
from d2v_train.runs.checkpoints import CheckpointFolder
from d2v_train.runs.record import read_record
from d2v_train.support.jsonl import read_log
from modeling_d2v import Data2VecForPreTraining


CONFIGS = ROOT / "recipes" / "d2v_train" / "configs" / "accelerate"
ONE_PROCESS = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29477"}
POISONED = [*VISION, "max_steps=6", "checkpoints.every=0"]


@pytest.mark.parametrize(
    "features, warns",
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16 amx_tile", False),
        ("flags\t\t: fpu amx_bf16", False),
        ("Features\t: fp asimd bf16 i8mm", False),
        ("flags\t\t: fpu avx2 avx512f\nbugs\t\t: bf16", True),
        ("Features\t: fp asimd", True),
        ("model name\t: an unknown one", False),
    ],
)
def test_bf16_warns_on_processors_without_the_instructions(features, warns, tmp_path, caplog):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{features}\n")
    warn_of_emulated_bf16(tmp_path / "cpuinfo")
    assert ("mixed_precision=no" in caplog.text) == warns
    warn_of_emulated_bf16(tmp_path / "none")
    assert len(caplog.records) == warns


# -- two processes: slow, all in one launch


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """Folder of the runs of all tests under two processes, and what these said."""
    folder = tmp_path_factory.mktemp("engines")
    # As if each process had a disk of its own.
    (folder / "1").mkdir()
    said = launch(folder, [
        *((engine, folder / f"{name} {engine}", [*TWENTY, *overrides])
          for name, overrides in SCENARIOS.items() for engine in ("replicas", "shards")),
        ("shards", folder / "whole", [*EIGHT, DROPOUT]),
        ("shards", folder / "resumed", [*HALF, DROPOUT]),
        ("shards", folder / "resumed", [*EIGHT, DROPOUT]),
        ("replicas", folder / "from replicas", HALF),
        ("shards", folder / "from replicas", EIGHT),
        ("shards", folder / "from shards", HALF),
        ("replicas", folder / "from shards", EIGHT),
        ("shards", folder / "to one process", HALF),
        ("replicas", folder / "bf16 replicas", BF16),
        ("shards", folder / "bf16 shards", BF16),
        *((engine, folder / f"poison {engine}", POISONED) for engine in ("replicas", "shards")),
        ("replicas", folder / "{rank}", ["max_steps=1"]),
    ])  # fmt: skip
    return folder, said


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_one_process_two_processes_and_two_sharded_ones_train_alike(launched, name):
    folder, _ = launched
    pretrain(write_config(folder, TINY), folder / f"{name} one", *TWENTY, "accumulate=2", *SCENARIOS[name])
    expected = losses(folder / f"{name} one")
    assert len(expected) >= 40
    for engine in ("replicas", "shards"):
        assert losses(folder / f"{name} {engine}") == pytest.approx(expected, rel=1e-5, abs=1e-7)
        exported = weights(folder / f"{name} {engine}")
        for key, value in weights(folder / f"{name} one").items():
            torch.testing.assert_close(exported[key], value, rtol=0, atol=1e-4, msg=key)


@pytest.mark.slow
def test_sharded_run_resumes_bit_for_bit_and_others_take_it_over(launched):
    """Dropout makes each process draw random numbers; across engines there is none."""
    folder, said = launched
    assert said.count("Resumed from") >= 3
    assert losses(folder / "whole") == losses(folder / "resumed")
    assert_same_weights(folder / "whole", folder / "resumed")
    config = write_config(folder, TINY)
    pretrain(config, folder / "to one process", *EIGHT)
    pretrain(config, folder / "one process", *EIGHT)
    for name in ("from replicas", "from shards", "to one process"):
        assert losses(folder / name) == pytest.approx(losses(folder / "one process"), rel=1e-5), name
    optimizers = [torch.load(CheckpointFolder(folder / name / "checkpoints").newest() / "optimizer.pt")["optimizer"]
                  for name in ("whole", "one process")]  # fmt: skip
    shapes = [{(number, key): value.shape for number, entry in optimizer["state"].items()
               for key, value in entry.items()} for optimizer in optimizers]  # fmt: skip
    assert shapes[0] == shapes[1]


@pytest.mark.slow
def test_half_precision_is_the_same_under_every_engine_and_keeps_weights_whole(launched):
    folder, _ = launched
    pretrain(write_config(folder, TINY), folder / "bf16 one", *BF16)
    for name in ("bf16 replicas", "bf16 shards"):
        # Sums of half-precision products differ with the shape of a batch.
        assert losses(folder / name) == pytest.approx(losses(folder / "bf16 one"), rel=2e-2)
        assert {value.dtype for value in weights(folder / name).values()} == {torch.float32, torch.int64}
        state = torch.load(CheckpointFolder(folder / name / "checkpoints").newest() / "optimizer.pt")
        assert {value.dtype for entry in state["optimizer"]["state"].values() for value in entry.values()} == {
            torch.float32
        }
    assert losses(folder / "bf16 replicas") == pytest.approx(losses(folder / "bf16 shards"), rel=1e-3)


@pytest.mark.slow
def test_gradient_that_is_not_finite_in_one_process_is_skipped_and_counted(launched):
    folder, said = launched
    with poison(rank=0):
        pretrain(write_config(folder, TINY), folder / "one poisoned", *POISONED)
    for engine in ("replicas", "shards"):
        found, expected = losses(folder / f"poison {engine}"), losses(folder / "one poisoned")
        assert found == pytest.approx(expected, rel=1e-5, nan_ok=True)
        assert read_log(folder / f"poison {engine}" / "log.jsonl")[-1]["skipped_steps"] == 1
    assert said.count("Step 3 was skipped: the gradient of ") == 2


@pytest.mark.slow
def test_record_of_a_run_names_the_engine_of_each_start(launched):
    folder, _ = launched
    names = [start["engine"] for start in read_record(folder / "from replicas")["starts"]]
    assert names == ["DistributedDataParallel", "FSDP2"]


@pytest.mark.parametrize(
    "processes, is_fsdp2, name",
    [(1, False, "one process"), (8, False, "DistributedDataParallel"), (8, True, "FSDP2"), (1, True, "FSDP2")],
)
def test_engine_has_the_name_of_what_trains(processes, is_fsdp2, name):
    assert engine_name(SimpleNamespace(num_processes=processes, is_fsdp2=is_fsdp2)) == name


@pytest.mark.slow
def test_folder_that_other_machines_do_not_see_is_refused(launched):
    _, said = launched
    assert said.count("Process 1 on ") == 2 and "machines" in said


# -- one process: fast


def test_sharded_process_trains_saves_and_exports_like_a_plain_one(tmp_path, monkeypatch):
    config = write_config(tmp_path, TINY)
    settings = [*VISION, "optim.max_grad_norm=0.5", "optim.schedule_steps=4", "checkpoints.every=0"]
    pretrain(config, tmp_path / "plain", *settings, "max_steps=4")
    with monkeypatch.context() as patch:
        for name, value in {**ENGINES["shards"], **ONE_PROCESS}.items():
            patch.setenv(name, value)
        pretrain(config, tmp_path / "sharded", *settings, "max_steps=2")
        rehearsed = pretrain(config, tmp_path / "rehearsed", *settings, "max_steps=4", "dry_run=true")
    alone = pretrain(config, tmp_path / "rehearsed", *settings, "max_steps=4", "dry_run=true")
    kept = [facts["memory"]["parts"]["activations"] for facts in (rehearsed, alone)]
    assert kept[0] == kept[1] > 0
    model = AutoModel.from_pretrained(tmp_path / "sharded" / "final")
    assert model(pixel_values=torch.rand(1, 1, 8, 8)).pooler_output.shape == (1, 32)
    pretrain(config, tmp_path / "sharded", *settings, "max_steps=4")
    assert losses(tmp_path / "sharded") == pytest.approx(losses(tmp_path / "plain"), rel=1e-6)
    plain, sharded = weights(tmp_path / "plain"), weights(tmp_path / "sharded")
    assert plain.keys() == sharded.keys()
    for name, value in plain.items():
        torch.testing.assert_close(sharded[name], value, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    "variable, value, message",
    [
        ("FSDP_VERSION", "1", "fsdp_version: 2"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "gradient_checkpointing=true"),
    ],
)
def test_sharding_that_would_break_the_training_is_refused(monkeypatch, variable, value, message):
    for name, usual in {**ENGINES["shards"], variable: value}.items():
        monkeypatch.setenv(name, usual)
    with pytest.raises(OptionError, match=message):
        sharding_plugin()


def test_processes_that_would_not_know_of_one_another_are_refused(monkeypatch):
    """Without a device for them, each would train by itself; the second found the folder in use."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    alone = SimpleNamespace(num_processes=1)
    with pytest.raises(OptionError, match="2 processes.*cpu=true"):
        check_launched(alone)
    check_launched(SimpleNamespace(num_processes=2))
    monkeypatch.delenv("WORLD_SIZE")
    check_launched(alone)


@pytest.mark.parametrize("more", [{}, ENGINES["shards"]], ids=["alone", "beside FSDP2"])
def test_a_launcher_that_asks_for_deepspeed_is_refused(tmp_path, monkeypatch, more):
    for name, value in {"ACCELERATE_USE_DEEPSPEED": "true", **more}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OptionError, match="DeepSpeed .* not support: use FSDP2 instead .fsdp_version: 2,"):
        pretrain(write_config(tmp_path, TINY), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_half_precision_that_a_cpu_lacks_is_refused(tmp_path):
    with pytest.raises(OptionError, match="fp16.*CPU.*mixed_precision=bf16"):
        pretrain(write_config(tmp_path, TINY), tmp_path / "run", "mixed_precision=fp16")


def test_half_precision_that_was_not_tried_on_shards_is_refused():
    accelerator = SimpleNamespace(is_fsdp2=True, mixed_precision="fp16", device=torch.device("cuda"))
    with pytest.raises(OptionError, match="fp16 does not work with FSDP2. Set mixed_precision=bf16"):
        check_precision(accelerator)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("modality", ["text", "vision", "audio"])
def test_a_pass_gives_every_parameter_a_gradient_where_the_model_has_one_modality(version, modality):
    model = Data2VecForPreTraining(version_config(version, modality)).train()
    model(**inputs_for(modality)).loss.backward()
    without = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert without == [] and not leaves_out_parameters(model, [modality])


def test_a_pass_leaves_out_the_parameters_of_other_modalities():
    model = Data2VecForPreTraining(tiny_config(("vision", "audio")))
    assert leaves_out_parameters(model, ["vision"]) and leaves_out_parameters(model, ["vision", "audio"])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_configurations_of_accelerate_are_read_by_it(path):
    config = load_config_from_file(str(path))
    assert config.num_processes >= 2 and config.mixed_precision == "no"
