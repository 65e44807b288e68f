"""The program for GLUE: every task, prediction files, own data, resuming, sweeps, mistakes of the user."""

import dataclasses
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from model_factory import tiny_config
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from d2v_train.data.records import RawDataset
from d2v_train.finetuning.texts.arguments import GlueArguments
from d2v_train.finetuning.texts.data import OpenTexts
from d2v_train.finetuning.texts.glue import TASKS, of_one_process
from d2v_train.inputs.tokenizer import build_tokenizer
from d2v_train.programs.finetune_glue import run_program as main
from modeling_d2v import Data2VecForPreTraining


ROOT = Path(__file__).resolve().parents[3]
WORDS = {0: ("cold", "rain", "night"), 1: ("warm", "sun", "day"), 2: ("slow", "snail", "stone")}


def sentence(label: int, number: int) -> str:
    words = WORDS[label]
    return f"the {words[number % 3]} is {words[(number // 3) % 3]} {number % 7}"


def make_split(path: Path, task: str, size: int, labelled: bool = True) -> None:
    """A file of a task: the class, or the score from 0 to 5, is told by the words."""
    definition = TASKS[task]
    count = len(definition.labels or (0, 1))
    labels = [number % count for number in range(size)]
    columns = {definition.columns[0]: [sentence(label, number) for number, label in enumerate(labels)]}
    if len(definition.columns) == 2:
        columns[definition.columns[1]] = [sentence(label, number + 1) for number, label in enumerate(labels)]
    kind = Value("float32") if definition.labels is None else ClassLabel(names=list(definition.labels))
    shown = [label * 4 + 0.5 + (number % 3) / 4 for number, label in enumerate(labels)]
    shown = shown if definition.labels is None else labels
    columns |= {"label": shown if labelled else [-1] * size, "idx": list(range(size))}
    features = Features(
        {name: Value("string") for name in definition.columns} | {"label": kind, "idx": Value("int32")}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(columns, features=features).to_parquet(path)


@pytest.fixture(scope="session")
def glue(tmp_path_factory) -> Path:
    """All nine tasks, in the layout of the data set on the Hub."""
    folder = tmp_path_factory.mktemp("glue")
    for task in TASKS:
        ends = [f"_{part}" if part else "" for part in TASKS[task].parts]
        make_split(folder / task / "train-00000-of-00001.parquet", task, 48)
        for end in ends:
            make_split(folder / task / f"validation{end}-00000-of-00001.parquet", task, 24)
            make_split(folder / task / f"test{end}-00000-of-00001.parquet", task, 13, labelled=False)
    return folder


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory) -> Path:
    """A tiny pretrained checkpoint with its tokenizer."""
    folder = tmp_path_factory.mktemp("pretrained")
    torch.manual_seed(0)
    config = tiny_config("text", text_config={"vocab_size": 320, "max_position_embeddings": 24})
    Data2VecForPreTraining(config).save_pretrained(folder)
    build_tokenizer([sentence(i % 3, i) for i in range(60)], vocab_size=320).save_pretrained(folder)
    return folder


def arguments(pretrained: Path, output: Path, *more: object) -> list[str]:
    tiny = ["--model_name_or_path", pretrained, "--output_dir", output, "--use_cpu", "--disable_tqdm", "true"]
    return [str(word) for word in [*tiny, "--per_device_train_batch_size", 8, "--do_train", "--do_eval", *more]]


def of_task(glue: Path, task: str, *more: object) -> list[object]:
    return ["--task_name", task, "--dataset_name", glue, *more]


def read_tsv(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text().splitlines()]


METRICS = {
    "cola": {"matthews_correlation"},
    "mrpc": {"accuracy", "f1", "combined_score"},
    "qqp": {"accuracy", "f1", "combined_score"},
    "stsb": {"pearson", "spearmanr", "combined_score"},
    "mnli": {"matched_accuracy", "mismatched_accuracy"},
}
OWN = {"loss", "runtime", "samples_per_second", "steps_per_second"}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_trained_measured_and_predicted(glue, pretrained, tmp_path, task):
    results = main(arguments(pretrained, tmp_path, *of_task(glue, task), "--max_steps", 2, "--do_predict"))
    found = {name.removeprefix("eval_") for name in results if name.startswith("eval_")}
    found -= OWN | {f"{part}_{name}" for part in TASKS[task].parts for name in OWN}
    assert found == METRICS.get(task, {"accuracy"})
    assert json.loads((tmp_path / "all_results.json").read_text()).items() >= results.items()

    files = {path.stem for path in (tmp_path / "predictions").iterdir()}
    assert files == set(TASKS[task].server_files)
    for name in files:
        head, *rows = read_tsv(tmp_path / "predictions" / f"{name}.tsv")
        assert head == ["index", "prediction"] and [row[0] for row in rows] == [str(i) for i in range(13)]
        allowed = TASKS[task].labels if TASKS[task].written else ("0", "1")
        if task == "stsb":
            assert all(math.isfinite(float(row[1])) and len(row[1].split(".")[1]) == 3 for row in rows)
        else:
            assert {row[1] for row in rows} <= set(allowed)

    config = json.loads((tmp_path / "config.json").read_text())
    names = TASKS[task].labels or ("score",)
    assert config["id2label"] == {str(number): name for number, name in enumerate(names)}
    assert config["label2id"] == {name: number for number, name in enumerate(names)}
    assert (config["problem_type"] == "regression") == (task == "stsb")


def test_published_settings_are_the_defaults(tmp_path, monkeypatch):
    def settings(**options):
        args = GlueArguments(output_dir=str(tmp_path), do_train=True, do_eval=True, use_cpu=True, **options)
        return args.learning_rate, args.per_device_train_batch_size, args.warmup_steps, args.metric_for_best_model

    assert settings(task_name="cola") == (2e-5, 16, 0.06, "matthews_correlation")
    assert settings(task_name="stsb") == (4e-5, 16, 0.06, "combined_score")
    assert settings(task_name="qqp") == (2e-5, 32, 0.25, "combined_score")
    assert settings(task_name="mnli") == (2e-5, 32, 0.06, "matched_accuracy")
    assert settings(task_name="rte", learning_rate=1e-5, warmup_steps=0)[:3] == (1e-5, 16, 0)
    args = GlueArguments(output_dir=str(tmp_path), do_train=True, do_eval=True, use_cpu=True)
    assert (args.adam_beta1, args.adam_beta2, args.adam_epsilon, args.weight_decay) == (0.9, 0.98, 1e-6, 0.1)
    assert (args.num_train_epochs, args.max_grad_norm, args.greater_is_better) == (10, 0, True)
    assert args.load_best_model_at_end and args.lr_scheduler_type == "linear"
    for processes, size in (("1", 16), ("4", 4), ("32", 1)):
        monkeypatch.setenv("WORLD_SIZE", processes)
        assert of_one_process(16) == size


def test_a_model_learns_and_works_in_a_pipeline(glue, pretrained, tmp_path):
    results = main(
        arguments(pretrained, tmp_path, *of_task(glue, "sst2"), "--learning_rate", 3e-3, "--num_train_epochs", 4)
    )
    assert results["eval_accuracy"] == 1.0
    classify = pipeline("text-classification", str(tmp_path))
    answers = [classify(sentence(label, 5))[0]["label"] for label in (0, 1)]
    assert answers == ["negative", "positive"]
    assert AutoTokenizer.from_pretrained(tmp_path).model_max_length == 24
    # Longer texts than the model takes are cut, in the program as in the pipeline.
    assert classify(sentence(1, 5) * 20, truncation=True)[0]["label"] in answers
    assert "sst2" in (tmp_path / "README.md").read_text()

    again = main(
        ["--model_name_or_path", str(tmp_path), "--output_dir", str(tmp_path / "again"), "--do_eval", "--use_cpu"]
        + [str(word) for word in of_task(glue, "sst2")]
    )
    assert again["eval_accuracy"] == 1.0 and "train_loss" not in again


def test_scores_are_learned_from_their_mean_on(glue, pretrained, tmp_path):
    options = [*of_task(glue, "stsb"), "--num_train_epochs", 4]
    untrained = main(arguments(pretrained, tmp_path / "untrained", *options, "--learning_rate", 1e-9))
    labels = np.array([label * 4 + 0.5 + (number % 3) / 4 for number, label in enumerate([0, 1] * 12)])
    assert untrained["eval_loss"] == pytest.approx(labels.var(), rel=0.1)
    results = main(arguments(pretrained, tmp_path / "trained", *options, "--learning_rate", 3e-3))
    assert results["eval_combined_score"] > 0.8
    assert results["eval_combined_score"] == pytest.approx((results["eval_pearson"] + results["eval_spearmanr"]) / 2)


def write_jsonl(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_own_files_with_names_of_classes(pretrained, tmp_path):
    names = ("weather", "time", "animal")

    def rows(size: int) -> list[dict]:
        return [{"said": sentence(number % 3, number), "topic": names[number % 3]} for number in range(size)]

    files = {
        split: write_jsonl(tmp_path / f"{split}.json", rows(size))
        for split, size in (("train", 48), ("validation", 24), ("test", 9))
    }
    options = [word for split, file in files.items() for word in (f"--{split}_file", file)]
    options += ["--text_column", "said", "--label_column", "topic", "--learning_rate", 3e-3]
    results = main(arguments(pretrained, tmp_path / "run", *options, "--num_train_epochs", 14, "--do_predict"))
    assert results["eval_accuracy"] > 0.9
    head, *predicted = read_tsv(tmp_path / "run" / "predictions" / "predictions.tsv")
    right = [row[1] == names[number % 3] for number, row in enumerate(predicted)]
    assert len(right) == 9 and results["test_accuracy"] == pytest.approx(np.mean(right)) and all(right[:3])


def test_own_files_with_scores(pretrained, tmp_path):
    path = write_jsonl(
        tmp_path / "train.jsonl", [{"text": sentence(n % 2, n), "label": n % 2 + 0.25} for n in range(16)]
    )
    options = ["--train_file", path, "--validation_file", path, "--max_steps", 2]
    results = main(arguments(pretrained, tmp_path / "run", *options))
    assert "eval_combined_score" in results
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["problem_type"], config["id2label"]) == ("regression", {"0": "score"})


@pytest.mark.parametrize("shift, whole", [(0, "each class"), (0.25, "the samples")])
def test_texts_are_held_out_where_there_is_no_validation_split(pretrained, tmp_path, caplog, shift, whole):
    rows = [{"text": sentence(n % 2, n), "label": n % 2 + shift} for n in range(40)]
    path = write_jsonl(tmp_path / "train.jsonl", rows)
    results = main(arguments(pretrained, tmp_path / "run", "--train_file", path, "--max_steps", 1))
    assert f"15 % of {whole} are held out of the training data (6, 34 stay)" in caplog.text
    assert ("eval_accuracy" in results) == (shift == 0)


def test_empty_texts_are_named_and_each_row_has_its_prediction(pretrained, tmp_path, capsys):
    def rows(*empty: int) -> list[dict]:
        return [{"text": "" if n in empty else sentence(n % 2, n), "label": n % 2} for n in range(40)]

    options = []
    for split, empty in (("train", (3,)), ("validation", (5,)), ("test", (7, 9))):
        options += [f"--{split}_file", write_jsonl(tmp_path / f"{split}.jsonl", rows(*empty))]
    main(arguments(pretrained, tmp_path / "run", *options, "--num_train_epochs", 1, "--do_predict"))
    listed = json.loads((tmp_path / "run" / "bad_samples.json").read_text())
    assert listed == {
        "training": {"empty": ["row 3"]},
        "validation": {"empty": ["row 5"]},
        "test": {"empty": ["row 7", "row 9"]},
    }
    assert "row 7, row 9" in capsys.readouterr().out
    _, *predicted = read_tsv(tmp_path / "run" / "predictions" / "predictions.tsv")
    counts = [sum(row[1] == name for row in predicted) for name in ("0", "1")]
    assert len(predicted) == 40 and predicted[7][1] == predicted[9][1] == str(int(counts[1] > counts[0]))


def test_several_runs_are_summed_up_and_not_repeated(glue, pretrained, tmp_path, capsys):
    options = [*of_task(glue, "mrpc"), "--max_steps", 2, "--learning_rates", 1e-3, 1e-5, "--seeds", 1, 2]
    summary = main(arguments(pretrained, tmp_path, *options))
    assert len(summary["runs"]) == 4 and summary["metric"] == "eval_combined_score"
    assert "eval_combined_score in %" in capsys.readouterr().out
    weights = [load_file(Path(run["folder"]) / "model.safetensors") for run in summary["runs"]]
    assert not any(
        torch.equal(one["classifier.dense.weight"], two["classifier.dense.weight"])
        for place, one in enumerate(weights)
        for two in weights[:place]
    )
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")}
    assert main(arguments(pretrained, tmp_path, *options)) == summary
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")}


def test_what_a_file_of_options_says_tells_one_sweep_from_another(glue, pretrained, tmp_path):
    file = tmp_path / "options.yaml"
    argv = [str(file), *arguments(pretrained, tmp_path / "runs", *of_task(glue, "wnli"), "--seeds", 1)]
    file.write_text("max_steps: 1\n")
    main(argv)
    file.write_text("max_steps: 2\n")
    with pytest.raises(ValueError, match="arguments"):
        main(argv)


def test_from_scratch_starts_from_other_weights(glue, pretrained, tmp_path):
    options = [*of_task(glue, "wnli"), "--max_steps", 1, "--learning_rate", 1e-9]
    for name, more in (("pretrained", []), ("scratch", ["--from_scratch"])):
        main(arguments(pretrained, tmp_path / name, *options, *more))
    key = "data2vec.encoder.blocks.0.mlp.fc1.weight"
    wanted = load_file(pretrained / "model.safetensors")[key]
    assert torch.allclose(load_file(tmp_path / "pretrained" / "model.safetensors")[key], wanted, atol=1e-6)
    assert not torch.allclose(load_file(tmp_path / "scratch" / "model.safetensors")[key], wanted, atol=1e-3)
    assert "random weights" in (tmp_path / "scratch" / "README.md").read_text()


def test_dropout_and_length_are_options(glue, pretrained, tmp_path):
    options = [*of_task(glue, "sst2"), "--max_steps", 1, "--dropout", 0.25, "--max_seq_length", 6]
    main(arguments(pretrained, tmp_path, *options))
    config = json.loads((tmp_path / "config.json").read_text())
    assert [config[f"{name}_dropout"] for name in ("hidden", "mlp", "attention")] == [0.25] * 3


@pytest.mark.parametrize(
    "options, message",
    [
        (["--task_name", "glue"], "the tasks are cola, sst2"),
        (
            ["--task_name", "rte", "--label_column", "lable"],
            "no label column 'lable'.*sentence1, sentence2, label",
        ),
        (["--task_name", "rte", "--text_column", "text"], "no column 'text'.*sentence1, sentence2, label"),
        (["--task_name", "rte", "--dataset_config_name", "cola"], "is 'acceptable'|sentence1"),
        (["--task_name", "rte", "--tokenizer_name", "nowhere/to/be/found"], "no model in nowhere/to/be/found"),
        (["--task_name", "rte", "--seeds", "1", "--push_to_hub"], "--push_to_hub"),
        (["--task_name", "rte", "--max_seq_length", "2"], "max_seq_length is 2. It must be at least 3"),
        (["--task_name", "rte", "--max_train_samples", "0"], "max_train_samples is 0. It must be at least 1"),
    ],
)
def test_mistakes_are_explained(glue, pretrained, tmp_path, capsys, options, message):
    with pytest.raises((ValueError, SystemExit)) as error:
        main(arguments(pretrained, tmp_path, "--dataset_name", glue, *options))
    assert re.search(message, capsys.readouterr().err + str(error.value))


def test_a_tokenizer_with_too_many_tokens_is_refused(glue, pretrained, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(pretrained)
    tokenizer.add_tokens([f"word{n}" for n in range(100)])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="320"):
        main(arguments(pretrained, tmp_path / "run", *of_task(glue, "rte"), "--tokenizer_name", tmp_path))


def test_a_checkpoint_without_a_tokenizer_says_how_to_name_one(glue, pretrained, tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(pretrained / name, tmp_path)
    with pytest.raises(ValueError, match="--tokenizer_name"):
        main(arguments(tmp_path, tmp_path / "run", *of_task(glue, "rte")))


def command(pretrained: Path, glue: Path, output: Path, *more: object) -> list[str]:
    words = arguments(pretrained, output, *of_task(glue, "cola"), *more)
    return [sys.executable, str(ROOT / "recipes" / "finetune_glue.py"), *words]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(glue, pretrained, tmp_path):
    options = ["--num_train_epochs", 8, "--learning_rate", 1e-3, "--dropout", 0.1]
    folder = tmp_path / "killed"
    with subprocess.Popen(
        command(pretrained, glue, folder, *options),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 120
        while not list(folder.glob("checkpoint-12/trainer_state.json")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not (folder / "model.safetensors").exists()
    for path in (folder, tmp_path / "whole"):
        subprocess.run(command(pretrained, glue, path, *options), env=environment(), check=True, timeout=240)
    one, two = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "whole"))
    assert all(torch.equal(one[name], two[name]) for name in two)
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.num_labels == 2


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("task", ["cola", "stsb", "mrpc"])
def test_real_tasks(shared_dir, pretrained, tmp_path, task):
    options = of_task(shared_dir / "data" / "glue", task)
    options += ["--max_train_samples", 64, "--max_eval_samples", 64, "--num_train_epochs", 1]
    results = main(arguments(pretrained, tmp_path, *options))
    assert f"eval_{TASKS[task].main_metric}" in results and math.isfinite(results["eval_loss"])


@pytest.fixture
def sets_of_texts(monkeypatch):
    """Lets every file of texts have the classes "weather" and "slow", by its words; a text with a 6 has no label."""
    opened = OpenTexts.open

    def open_sets(self, split):
        raw = opened(self, split)
        texts = [raw[index]["text"] for index in range(len(raw))]
        flags = [[any(word in text for word in WORDS[2]), any(word in text for word in WORDS[0])] for text in texts]
        rows = [[np.nan] * 2 if text.endswith("6") else row for text, row in zip(texts, flags, strict=True)]
        table = dataclasses.replace(raw.table, labels=np.float32(rows), label_names=["slow", "weather"])
        return RawDataset("text", table)

    monkeypatch.setattr(OpenTexts, "open", open_sets)


def test_texts_with_several_classes_each(pretrained, tmp_path, sets_of_texts):
    for split, size in (("train", 96), ("validation", 24), ("test", 12)):
        rows = [{"text": sentence(number % 3, number), "label": 0} for number in range(size)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = ["--dataset_name", tmp_path, "--num_train_epochs", 12, "--learning_rate", 3e-3]
    argv = arguments(pretrained, tmp_path / "run", *given)
    results = main([*argv, "--do_predict", "--max_bad_fraction", "0.2", "--threshold", "0.4"])
    assert results["eval_mean_average_precision"] > 0.9 and results["eval_micro_f1"] > 0.8
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert list(config["id2label"].values()) == ["slow", "weather"]
    bad = json.loads((tmp_path / "run" / "bad_samples.json").read_text())
    assert len(bad["training"]["no label"]) == 13 and len(bad["validation"]["no label"]) == 3
    lines = (tmp_path / "run" / "predictions" / "predictions.tsv").read_text().splitlines()
    assert lines[0] == "index\tlabels\tprobabilities" and len(lines) == 13
    with pytest.raises(ValueError, match="13 of 96 samples of the training data"):
        main([*argv, "--output_dir", str(tmp_path / "strict")])


@pytest.mark.parametrize(
    ("labels", "more", "metric"),
    [
        (["bad", None, "good", "bad"], [], "eval_accuracy"),
        ([1, 0, None, 1], [], "eval_accuracy"),
        ([0.5, 1.5, None, 3.5], [], "eval_pearson"),
        ([1, 5, 3, 2], ["--problem_type", "regression"], "eval_pearson"),
    ],
)
def test_texts_without_a_label_are_left_out(pretrained, tmp_path, labels, more, metric):
    rows = [{"text": sentence(number % 3, number), "label": label} for number, label in enumerate(labels)]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    argv = arguments(pretrained, tmp_path / "run", *more, "--dataset_name", tmp_path, "--num_train_epochs", 1)
    assert math.isfinite(main([*argv, "--max_bad_fraction", "0.3"])[metric])
    bad = tmp_path / "run" / "bad_samples.json"
    assert bad.exists() == (None in labels)
    if bad.exists():
        row = f"row {labels.index(None)}"
        assert json.loads(bad.read_text()) == {name: {"no label": [row]} for name in ("training", "validation")}


def test_empty_cells_do_not_make_scores_of_classes_in_silence(pretrained, tmp_path, caplog):
    rows = [f"{sentence(number % 3, number)},{'' if number == 4 else number % 3}" for number in range(24)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    argv = arguments(pretrained, tmp_path / "run", "--train_file", tmp_path / "train.csv", "--max_steps", 1)
    problem = ["--problem_type", "single_label_classification"]
    assert "eval_accuracy" in main([*argv, *problem]) and "learned as scores" not in caplog.text
    assert json.loads((tmp_path / "run" / "config.json").read_text())["id2label"] == {"0": "0", "1": "1", "2": "2"}
    bad = json.loads((tmp_path / "run" / "bad_samples.json").read_text())
    assert bad == {"training": {"no label": ["row 4"]}}
    if "eval_pearson" in main([*argv, "--output_dir", str(tmp_path / "scores")]):
        assert "learned as scores. --problem_type single_label_classification" in caplog.text
