"""Several runs in one call: what is run, what is not repeated, and the summary."""

import json

import pytest

from d2v_train.finetuning.sweep import sweep


class Program:
    """Reaches 1 - learning rate + seed / 100, and counts its runs."""

    def __init__(self) -> None:
        self.runs = []

    def __call__(self, argv: list[str]) -> dict[str, float]:
        options = dict(zip(argv[-6::2], argv[-5::2], strict=True))
        self.runs.append((float(options["--learning_rate"]), int(options["--seed"]), options["--output_dir"]))
        return {"eval_accuracy": 1 - self.runs[-1][0] + self.runs[-1][1] / 100, "eval_loss": self.runs[-1][0]}


def test_every_learning_rate_is_run_with_every_seed_and_none_twice(tmp_path, capsys):
    program = Program()
    summary = sweep(program, ["x"], tmp_path, [0.1, 0.5], [1, 2, 6], ["eval_accuracy"])
    assert [run[:2] for run in program.runs] == [(0.1, 1), (0.1, 2), (0.1, 6), (0.5, 1), (0.5, 2), (0.5, 6)]
    assert len({run[2] for run in program.runs}) == 6
    first, second = summary["learning_rates"]
    assert (first["median"], first["best"]) == (pytest.approx(0.92), pytest.approx(0.96))
    assert (second["median"], second["best"]) == (pytest.approx(0.52), pytest.approx(0.56))
    assert first["spread"] == pytest.approx(0.0265, abs=1e-4)
    assert summary["best"] == first["folder"] == str(tmp_path / "lr0.1_seed6")
    assert json.loads((tmp_path / "sweep.json").read_text()) == summary
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == "learning rate seed 1 seed 2 seed 6 median best std".split()
    assert lines[2].split() == ["0.1", "91.00", "92.00", "96.00", "92.00", "96.00", "2.65"]

    # One run was cut off; the others are not repeated, and a further seed is added.
    (tmp_path / "lr0.5_seed2" / "results.json").unlink()
    again = Program()
    assert sweep(again, ["x"], tmp_path, [0.1, 0.5], [1, 2], ["eval_accuracy"])["runs"] == [
        run for run in summary["runs"] if run["seed"] != 6
    ]
    assert [run[:2] for run in again.runs] == [(0.5, 2)]


def test_a_finished_run_of_another_command_line_is_no_part_of_the_sweep(tmp_path):
    sweep(Program(), ["--epochs", "3", "--seeds", "1", "--do_eval"], tmp_path, [0.1], [1], ["eval_loss"])
    again = Program()
    sweep(again, ["--epochs", "3", "--seeds=1", "2", "--do_eval"], tmp_path, [0.1], [1, 2], ["eval_loss"])
    assert [run[1] for run in again.runs] == [2]
    with pytest.raises(ValueError, match="lr0.1_seed1"):
        sweep(again, ["--epochs", "4", "--seeds", "1", "--do_eval"], tmp_path, [0.1], [1], ["eval_loss"])


def test_less_may_be_better(tmp_path):
    summary = sweep(Program(), ["x"], tmp_path, [0.1, 0.5], [1], ["eval_loss"], greater_is_better=False)
    assert summary["best"] == str(tmp_path / "lr0.1_seed1")


def test_the_first_metric_that_is_there_counts(tmp_path):
    assert sweep(Program(), ["x"], tmp_path, [0.1], [1], ["eval_f1", "eval_loss"])["metric"] == "eval_loss"
    with pytest.raises(ValueError, match="'eval_f1'.*eval_accuracy.*eval_loss"):
        sweep(Program(), ["x"], tmp_path / "other", [0.1], [1], ["eval_f1"])
