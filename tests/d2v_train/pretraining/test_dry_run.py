"""Dry runs: what they tell is what the run does, and they leave no trace."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from model_factory import tiny_config

from d2v_train.options.errors import OptionError
from d2v_train.options.files import load_options
from d2v_train.pretraining import dry_run as module
from d2v_train.pretraining.dry_run import count_parameters
from d2v_train.pretraining.session import pretrain
from d2v_train.programs.pretrain import run_program
from d2v_train.support.jsonl import read_log
from d2v_train.support.processes import Processes
from modeling_d2v import Data2VecForPreTraining


SMALL = ["cpu=true", "max_steps=30", "logging.every=1", "text=null", "vision.batch_size=2", "audio.batch_size=2",
         "model.text_config=null", "model.num_hidden_layers=1", "vision.ratio=2", "audio.ratio=1"]  # fmt: skip


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_dry_run_tells_what_the_run_will_do_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "STEPS", 2)
    settings = [*SMALL, f"output_dir={tmp_path / 'run'}"]
    facts = run_program(["tiny_joint", *settings, "--dry_run"])
    assert files(tmp_path) == {}
    text = capsys.readouterr().out
    assert "Nothing is written" in text and "expected time" in text and "{" not in text

    AcceleratorState._reset_state(reset_partial_state=True)
    run_program(["tiny_joint", *settings, "max_steps=3", "optim.schedule_steps=30"])
    records = read_log(tmp_path / "run" / "log.jsonl")
    for name in ("vision", "audio"):
        (taken,) = {round(record["samples_per_s"] * record["step_seconds"], 3) for record in records
                    if f"{name}/loss" in record}  # fmt: skip
        assert facts["data"][name]["samples a step"] == taken
    tokens = [record["tokens_per_s"] * record["step_seconds"] for record in records if "audio/loss" in record]
    assert facts["data"]["audio"]["tokens a step"] == pytest.approx(sum(tokens) / len(tokens), rel=0.3)
    assert facts["data"]["vision"]["passes"] == {"vision/epoch": pytest.approx(20 * 2 / 1433, abs=1e-4)}
    (folder,) = (tmp_path / "run" / "checkpoints").iterdir()
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert facts["run"]["checkpoint"] == pytest.approx(size, rel=0.05)
    assert facts["run"]["seconds"] == pytest.approx(30 * facts["run"]["seconds a step"])
    assert facts["memory"]["estimate"] > 0 and facts["memory"]["measured"] > 2**28

    before = files(tmp_path)
    AcceleratorState._reset_state(reset_partial_state=True)
    run_program(["tiny_joint", *settings, "max_steps=3", "optim.schedule_steps=30", "--dry_run"])
    assert files(tmp_path) == before


def test_what_is_known_is_printed_before_anything_is_measured(tmp_path, capsys, monkeypatch):
    told = []
    monkeypatch.setattr(module.Rehearsal, "take", lambda self: told.append(capsys.readouterr().out) or stop())

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_program(["tiny_joint", *SMALL, f"output_dir={tmp_path / 'run'}", "--dry_run"])
    assert "trained in all" in told[0] and "1,433" in told[0] and "Optimizer steps: 30" in told[0]
    assert "Memory" not in told[0]


def test_a_step_that_does_not_fit_is_reported_with_advice(tmp_path, capsys, monkeypatch):
    def refuse(self, batches):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\nmore")

    monkeypatch.setattr(module.Pretraining, "train_step", refuse)
    facts = pretrain(load_options("tiny_vision", [f"output_dir={tmp_path}", "cpu=true", "dry_run=true"]))
    assert facts["memory"]["measured"] is None and facts["memory"]["parts"]["activations"] > 0
    text = capsys.readouterr().out
    assert "does not fit into the memory: DefaultCPUAllocator" in text and "gradient_checkpointing=true" in text
    assert "expected time, at the very best" in text


def test_a_step_that_a_cpu_would_be_killed_for_is_not_taken(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda device: 2**20)
    monkeypatch.setattr(module.Pretraining, "train_step", lambda *_: pytest.fail("a step was taken"))
    settings = [f"output_dir={tmp_path}", "cpu=true", "dry_run=true"]
    facts = pretrain(load_options("tiny_vision", settings))
    assert facts["memory"]["measured"] is None and facts["data"]["vision"]["samples a step"] == 8
    text = capsys.readouterr().out
    assert "more, and the machine has 1.0 MiB left." in text and "Lower micro_batch_size" in text
    assert "Before you start" not in text

    AcceleratorState._reset_state(reset_partial_state=True)
    facts = pretrain(load_options("tiny_vision", [*settings, "optim.lr=0.1"]))
    text = capsys.readouterr().out
    assert text.index("Before you start") < text.index(facts["advice"][0]) and "optim.lr is 0.1, and" in text


def rehearsal(train_step, reduce):
    """Of a process of two, without data or engine."""

    class Two(Processes):
        def sum(self, values):
            return reduce(values)

    plan = SimpleNamespace(pattern=[0], modalities_at=lambda step: ["vision"])
    run = SimpleNamespace(
        options=None,
        steps=SimpleNamespace(plan=plan),
        processes=Two(rank=1, count=2),
        to_device=None,
        train_step=train_step,
    )
    return module.Rehearsal(run)


def test_a_process_that_runs_out_of_memory_ends_them_all():
    def refuse(batches):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmore")

    with pytest.raises(OptionError, match="process 1.*micro_batch_size"):
        rehearsal(refuse, reduce=None)._step(("vision",), 0, [])


def test_processes_judge_by_the_same_time_whether_a_step_is_slow():
    taken = rehearsal(lambda batches: None, reduce=lambda seconds: 0 * seconds + 50)
    taken._step(("vision",), 0, [])
    assert taken.seconds == {("vision",): [25.0]}


def test_other_errors_of_a_step_are_errors(tmp_path, monkeypatch):
    def refuse(self, batches):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(module.Pretraining, "train_step", refuse)
    with pytest.raises(RuntimeError, match="shapes"):
        pretrain(load_options("tiny_vision", [f"output_dir={tmp_path}", "cpu=true", "dry_run=true"]))


def test_parameters_by_part_are_all_parameters():
    model = Data2VecForPreTraining(tiny_config())
    counts = count_parameters(model)
    assert list(counts)[-1] == "teacher" and {"front end text", "shared blocks", "decoder audio"} <= set(counts)
    assert sum(counts.values()) == sum(parameter.numel() for parameter in model.parameters())
    assert counts["shared blocks"] == sum(p.numel() for p in model.data2vec.encoder.parameters())
    assert set(count_parameters(torch.nn.Sequential(torch.nn.Linear(2, 3)))) == {"0"}
