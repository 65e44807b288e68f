"""The program that fine-tunes classifiers of recordings, run on tones."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from multi_labels import read_sets
from recordings import options, spoken, write_checkpoint
from safetensors.torch import load_file
from transformers import AutoConfig, EvalPrediction, pipeline

from d2v_train.finetuning.command_line import parse_arguments
from d2v_train.finetuning.run import open_data, usable
from d2v_train.finetuning.speech.arguments import ClassDataArguments, ClassifierArguments, ClassTrainingArguments
from d2v_train.finetuning.speech.classification import AudioClassification
from d2v_train.finetuning.speech.training import SpeechTrainer
from d2v_train.options.files import CONFIG_FOLDER
from d2v_train.programs.finetune_audio_classification import run_program as main


ROOT = Path(__file__).resolve().parents[3]
CLASSES = (ClassifierArguments, ClassDataArguments, ClassTrainingArguments)
WORDS = {"high": "DDD", "low": "AAAA", "rising": "ABC"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    return write_checkpoint(tmp_path_factory.mktemp("pretrained"))


def write_classes(folder: Path, count: int, words=WORDS, seed: int = 0) -> Path:
    """A folder for each class, with clips of slightly different loudness and noise."""
    for name, text in words.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            soundfile.write(folder / name / f"{number}.wav", spoken(text, seed=seed + number), 16_000)
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_classes(folder / "train", 8)
    write_classes(folder / "validation", 3, seed=100)
    return folder


def run_options(checkpoint, folder, data, *more, **values) -> list[str]:
    defaults = {"dataset_name": data, "per_device_train_batch_size": 8, "max_grad_norm": 1}
    return options(checkpoint, folder, "--do_train", "--do_eval", *more, **{**defaults, **values})


@pytest.fixture(scope="module")
def learned(checkpoint, clips, tmp_path_factory) -> tuple[Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("learned")
    return folder, main(run_options(checkpoint, folder, clips, max_steps=60, freeze_feature_encoder="false"))


def losses(folder: Path) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def test_tones_are_told_apart(learned):
    folder, results = learned
    assert results["eval_accuracy"] == results["eval_macro_f1"] == 1
    config = AutoConfig.from_pretrained(folder)
    assert config.id2label == dict(enumerate(WORDS)) and config.problem_type == "single_label_classification"
    assert "| eval_accuracy | 1 |" in (folder / "README.md").read_text()


def test_the_pipeline_names_the_classes(learned):
    classify = pipeline("audio-classification", str(learned[0]))
    for name, text in WORDS.items():
        best = classify(spoken(text, seed=7), top_k=1)[0]
        assert best["label"] == name and best["score"] > 0.5


def test_a_checkpoint_is_evaluated_without_training(learned, clips, tmp_path):
    results = main(options(str(learned[0]), tmp_path, "--do_eval", dataset_name=clips))
    assert results["eval_accuracy"] == 1 and "train_loss" not in results


def test_classes_are_told_by_name_not_by_number(learned, tmp_path):
    # Of two classes only: their numbers differ from the model's.
    data = write_classes(tmp_path / "data", 2, {name: WORDS[name] for name in ("low", "rising")})
    argv = options(str(learned[0]), tmp_path / "run", "--do_eval", validation_dir=data)
    assert main(argv)["eval_accuracy"] == 1
    shutil.move(data / "low", data / "deep")
    with pytest.raises(ValueError, match="'deep'.*high, low, rising"):
        main(argv)


def test_predictions_of_a_test_set(learned, tmp_path, caplog):
    folder, _ = learned
    data = write_classes(tmp_path / "data", 2, seed=200)
    (data / "low" / "torn.wav").write_bytes((data / "low" / "0.wav").read_bytes()[:500])
    argv = options(str(folder), tmp_path / "run", "--do_predict", test_dir=data, max_bad_fraction=0.5)
    results = main(argv)
    lines = (tmp_path / "run" / "predictions.csv").read_text().splitlines()
    assert lines[0] == "audio,label,probability" and len(lines) == 7
    assert all(line.split("/")[0] == line.split(",")[1] for line in lines[1:]) and results["test_accuracy"] == 1
    assert "| test_accuracy | 1 |" in (tmp_path / "run" / "README.md").read_text()
    assert json.loads((tmp_path / "run" / "bad_samples.json").read_text())["test"] == {"truncated": ["low/torn.wav"]}
    unknown = tmp_path / "unknown"
    shutil.copytree(data / "high", unknown)
    results = main([*argv, "--test_dir", str(unknown)])
    assert not any(name.startswith("test_") for name in results)


def test_a_class_that_training_lacks_is_named(checkpoint, tmp_path, caplog):
    write_classes(tmp_path / "train", 2, {name: WORDS[name] for name in ("high", "low")})
    write_classes(tmp_path / "validation", 1)
    main(run_options(checkpoint, tmp_path / "run", tmp_path, max_steps=1))
    assert "classes: rising" in caplog.text


def test_few_labels_are_a_share_of_each_class(checkpoint, clips, tmp_path):
    few = {"train_fraction": 0.01, "num_train_epochs": 1, "max_steps": -1, "per_device_train_batch_size": 1}
    main(run_options(checkpoint, tmp_path / "run", clips, **few))
    # One step a recording.
    assert json.loads((tmp_path / "run" / "trainer_state.json").read_text())["global_step"] == len(WORDS)


def test_speakers_are_kept_apart(checkpoint, tmp_path, capsys):
    data = tmp_path / "data"
    rows = ["file_name,label,speaker"]
    for speaker in ("ann", "bob", "cid"):
        write_classes(data / speaker, 2, seed=len(rows))
        rows += [f"{speaker}/{name}/{number}.wav,{name},{speaker}" for name in WORDS for number in range(2)]
    (data / "metadata.csv").write_text("\n".join(rows))
    groups = ["--exclude_groups", "cid", "--only_groups", "cid", "--validation_split", "train"]
    main(run_options(checkpoint, tmp_path / "run", data, *groups))
    printed = capsys.readouterr().out
    assert "training data: 12 of 12" in printed and "validation data: 6 of 6" in printed
    with pytest.raises(ValueError, match="'dan'.*ann, bob, cid"):
        main(run_options(checkpoint, tmp_path / "other", data, "--exclude_groups", "dan"))


def test_a_part_is_held_out_where_there_is_no_other(checkpoint, tmp_path, caplog):
    data = write_classes(tmp_path / "data", 10)
    argv = run_options(checkpoint, tmp_path / "run", data, train_val_split=0.2)
    task = AudioClassification(*parse_arguments(*CLASSES, argv=argv))
    caplog.set_level("INFO")
    raw = open_data(task)
    train, validation = raw["training"], raw["validation"]
    assert caplog.messages[0].startswith("Data for audio: ") and "train 30" in caplog.messages[0]
    assert np.bincount(train.labels).tolist() == [8, 8, 8] and np.bincount(validation.labels).tolist() == [2, 2, 2]
    assert not {train.name_of(i) for i in range(24)} & {validation.name_of(i) for i in range(6)}
    assert (train.on_bad, usable(task, "validation", validation).on_bad) == ("substitute", "raise")
    assert "20 % of each class are held out of the training data (6, 24 stay)" in caplog.text
    assert "--exclude_groups" in caplog.text


def test_numbers_without_names_are_classes_as_they_occur(checkpoint, tmp_path):
    data = write_classes(tmp_path / "data", 3)
    rows = [
        f"{name}/{i}.wav,{number}" for name, number in zip(WORDS, (1688, 237, 3005), strict=True) for i in range(3)
    ]
    lines = [json.dumps({"file_name": row.split(",")[0], "label": int(row.split(",")[1])}) for row in rows]
    (data / "metadata.jsonl").write_text("\n".join(lines))
    main(run_options(checkpoint, tmp_path / "run", data, validation_split="train"))
    assert AutoConfig.from_pretrained(tmp_path / "run").id2label == {0: "237", 1: "1688", 2: "3005"}


def test_long_recordings_are_cut_at_random_in_training_alone(checkpoint, clips, tmp_path, monkeypatch):
    lengths = {"train": set(), "eval": set()}

    class Recorder(SpeechTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            lengths["train" if model.training else "eval"].add(inputs["input_values"].shape[1])
            return super().compute_loss(model, inputs, *args, **kwargs)

    monkeypatch.setattr(AudioClassification, "trainer_class", Recorder)
    main(run_options(checkpoint, tmp_path, clips, max_length_seconds=0.25))
    assert lengths["train"] == {4000}
    assert lengths["eval"] == {len(spoken(WORDS["low"]))}


def test_recordings_that_cannot_be_used(checkpoint, clips, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(clips / "train", data)
    samples = spoken("ABCD", 44_100)
    soundfile.write(data / "high" / "0.wav", np.stack([samples, samples], axis=1), 44_100)
    soundfile.write(data / "high" / "1.wav", samples[:1], 44_100)
    soundfile.write(data / "low" / "0.wav", np.where(np.arange(2000) == 7, np.nan, 0.1), 16_000, subtype="FLOAT")
    (data / "low" / "1.wav").write_bytes(b"")
    (data / "low" / "2.wav").write_bytes((data / "low" / "2.wav").read_bytes()[:500])
    (data / "rising" / "0.wav").write_text("no audio")
    (data / "rising" / "notes.txt").write_text("not a recording")
    soundfile.write(data / "rising" / "9.mp3", spoken("ABC", 48_000), 48_000)
    argv = run_options(checkpoint, tmp_path / "run", data, validation_split="train", max_steps=6, max_bad_fraction=0.5)
    main(argv)
    bad = json.loads((tmp_path / "run" / "bad_samples.json").read_text())
    assert bad["validation"] == {
        "unreadable": ["rising/0.wav"],
        "truncated": ["low/2.wav"],
        "empty": ["high/1.wav", "low/1.wav"],
        "non-finite": ["low/0.wav"],
        "resampled": ["high/0.wav", "rising/9.mp3"],
        "mixed down to mono": ["high/0.wav"],
    }
    assert all(loss > 0 for loss in losses(tmp_path / "run"))
    printed = capsys.readouterr().out
    assert "validation data: Of 25 samples, 5 are unusable" in printed
    with pytest.raises(ValueError, match="5 of 25"):
        main([*argv, "--output_dir", str(tmp_path / "strict"), "--max_bad_fraction", "0.1", "--max_steps", "1"])


def test_a_recording_without_a_class_is_left_out(checkpoint, tmp_path):
    data = write_classes(tmp_path / "data", 2)
    lines = [json.dumps({"file_name": f"{name}/{i}.wav", "label": name}) for name in WORDS for i in range(2)]
    lines[3] = json.dumps({"file_name": "low/1.wav", "label": None})
    (data / "metadata.jsonl").write_text("\n".join(lines))
    argv = run_options(checkpoint, tmp_path / "run", data, validation_split="train")
    main([*argv, "--max_bad_fraction", "0.2"])
    bad = json.loads((tmp_path / "run" / "bad_samples.json").read_text())
    assert bad["training"] == bad["validation"] == {"no label": ["low/1.wav"]}
    with pytest.raises(ValueError, match=r"(?s)1 of 6 samples of the training data.*no label: 1 \(low/1.wav\)"):
        main([*argv, "--max_bad_fraction", "0.1"])


def test_a_run_that_was_cut_off_ends_like_one_that_was_not(checkpoint, clips, tmp_path):
    def once(name):
        values = {"max_steps": 8, "save_strategy": "steps", "save_steps": 5, "max_length_seconds": 0.2}
        drawn = {"apply_spec_augment": "true", "hidden_dropout": 0.1, "train_sampling_strategy": "group_by_length"}
        main(run_options(checkpoint, tmp_path / name, clips, **values, **drawn))
        return load_file(tmp_path / name / "model.safetensors"), losses(tmp_path / name)

    whole, curve = once("whole")
    shutil.copytree(tmp_path / "whole" / "checkpoint-5", tmp_path / "cut" / "checkpoint-5")
    resumed, second_curve = once("cut")
    assert curve == second_curve and len(set(curve)) == 8
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--label_column", "word"], "'word'"),
        (["--max_length_seconds", "0"], "must be above 0"),
        (["--train_val_split", "1"], "below 1"),
        (["--max_eval_samples", "0"], "max_eval_samples"),
        (["--train_fraction", "0"], "train_fraction"),
        (["--audio_column", "sond"], "'sond'"),
        (["--validation_split", "test", "--only_groups", "ann"], "group"),
    ],
)
def test_mistakes_are_explained(checkpoint, clips, tmp_path, more, message, capsys):
    with pytest.raises((ValueError, SystemExit)) as error:
        main(run_options(checkpoint, tmp_path / "run", clips, *more))
    assert message in f"{error.value}{capsys.readouterr().err}"


def test_data_without_classes_is_refused(checkpoint, clips, tmp_path):
    with pytest.raises(ValueError, match="labels"):
        main(run_options(checkpoint, tmp_path / "run", clips / "train" / "low", validation_split="train"))


def parsed(*argv) -> dict:
    words = ["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "o", "--use_cpu", "--do_eval"]
    return {
        name: value for part in parse_arguments(*CLASSES, argv=[*argv, *words]) for name, value in vars(part).items()
    }


def test_every_option_of_the_configuration_exists_and_is_taken():
    path = CONFIG_FOLDER / "audio_classification_tiny.yaml"
    values, taken = yaml.safe_load(path.read_text()), parsed(str(path))
    assert values == {name: taken[name] for name in values}


def test_defaults_are_those_that_the_program_states():
    taken = parsed()
    expected = {
        "learning_rate": 3e-5,
        "num_train_epochs": 5,
        "max_steps": -1,
        "per_device_train_batch_size": 32,
        "mask_time_prob": 0.6,
        "mask_time_length": 5,
        "mask_feature_prob": 0,
        "attention_dropout": 0.2,
        "layerdrop": 0.1,
        "freeze_feature_encoder": True,
    }
    assert expected == {name: taken[name] for name in expected}


def test_macro_f1_counts_rare_classes_as_much_as_frequent_ones(checkpoint, clips, tmp_path):
    task = AudioClassification(*parse_arguments(*CLASSES, argv=run_options(checkpoint, tmp_path, clips)))
    labels = np.array([0] * 8 + [1] * 2)
    found = np.tile([0, 1], (10, 1))
    result = task.measure(EvalPrediction(predictions=(found, found), label_ids=labels))
    assert result == {"accuracy": 0.8, "macro_f1": pytest.approx((16 / 18 + 0) / 2)}


@pytest.mark.slow
def test_two_processes_compute_the_losses_of_one(checkpoint, clips, tmp_path):
    program = str(ROOT / "recipes" / "finetune_audio_classification.py")
    results = {}
    for name, batch, launcher in (
        ("one", 8, []),
        ("two", 4, ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29719"]),
    ):
        values = {"per_device_train_batch_size": batch, "max_steps": 5, "per_device_eval_batch_size": 2}
        done = subprocess.run(
            [sys.executable, *launcher, program, *run_options(checkpoint, tmp_path / name, clips, **values)],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        results[name] = json.loads(done.stdout.splitlines()[-1])
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), abs=2e-4)
    assert results["one"]["eval_accuracy"] == results["two"]["eval_accuracy"]


def test_recordings_with_several_classes_each(checkpoint, clips, tmp_path, monkeypatch):
    sets = {"high": ("steady", "high"), "low": ("steady",), "rising": ("moving",)}
    read_sets(monkeypatch, sets)
    argv = run_options(checkpoint, tmp_path / "run", clips, max_steps=60, freeze_feature_encoder="false")
    results = main(argv)
    assert results["eval_mean_average_precision"] > 0.9 and results["eval_macro_f1"] > 0.8
    config = AutoConfig.from_pretrained(tmp_path / "run")
    assert config.id2label == {0: "high", 1: "moving", 2: "steady"}
    assert config.problem_type == "multi_label_classification"
    classify = pipeline("audio-classification", str(tmp_path / "run"))
    scores = {each["label"]: each["score"] for each in classify(spoken(WORDS["high"], seed=5))}
    assert scores["high"] > 0.5 and scores["steady"] > 0.5 and scores["moving"] < 0.5
    with pytest.raises(ValueError, match="--label_smoothing_factor"):
        main([*argv, "--label_smoothing_factor", "0.1", "--output_dir", str(tmp_path / "smooth")])
    results = main(options(str(tmp_path / "run"), tmp_path / "test", "--do_predict", test_dir=clips / "validation"))
    assert results["test_mean_average_precision"] > 0.9
    lines = (tmp_path / "test" / "predictions.csv").read_text().splitlines()
    assert lines[0] == "audio,labels,probabilities" and len(lines) == 10
