"""The program that fine-tunes image classifiers, run on folders of small pictures that are made here."""

import csv
import json
import logging
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from model_factory import tiny_config
from multi_labels import read_sets
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoProcessor, pipeline

from d2v_train.data.bad_samples import FATAL, NOTES
from d2v_train.data.tables import SplitNotFoundError
from d2v_train.finetuning.class_labels import fraction_of_each_class
from d2v_train.finetuning.images.arguments import ImageDataArguments
from d2v_train.inputs.processors import image_processor
from d2v_train.inputs.vision import VisionTransform
from d2v_train.programs.finetune_image_classification import run_program as main
from modeling_d2v import Data2VecForPreTraining, Data2VecProcessor


ROOT = Path(__file__).resolve().parents[3]
COLOURS = {"blue": (30, 40, 200), "green": (30, 180, 60), "red": (200, 40, 30)}
PLAIN = (
    "--randaugment_operations 0 --random_erasing 0 --mixup 0 --cutmix 0 --crop_scale 1 1 --crop_ratio 1 1 --no_flip "
    "--label_smoothing_factor 0 --drop_path_rate 0"
).split()


def write_pictures(folder: Path, count: int, classes=tuple(COLOURS), seed: int = 0) -> Path:
    """A folder with one folder per class, of pictures in noisy shades of a colour."""
    rng = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            noise = rng.normal(0, 25, size=(36, 40, 3))
            pixels = np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    """A pretraining checkpoint with its image processor."""
    folder = tmp_path_factory.mktemp("pretrained")
    torch.manual_seed(0)
    config = tiny_config("vision")
    Data2VecForPreTraining(config).save_pretrained(folder)
    image_processor(config, VisionTransform(32, mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.4])).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    write_pictures(root / "train", 10)
    write_pictures(root / "validation", 4, seed=1)
    return root


def options(checkpoint, folder, *more, **values) -> list[str]:
    given = {
        "model_name_or_path": checkpoint,
        "output_dir": folder,
        "max_steps": 4,
        "per_device_train_batch_size": 8,
        "learning_rate": 3e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "eval_strategy": "no",
    } | values
    words = [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]
    return [*words, "--disable_tqdm", "True", "--use_cpu", *map(str, more)]


def losses(folder) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


@pytest.fixture(scope="module")
def trained(checkpoint, pictures, tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("trained")
    argv = options(checkpoint, folder, "--do_train", "--do_eval", dataset_name=pictures, max_steps=25, layer_decay=0.9)
    return folder, main([*argv, "--crop_scale", "0.5", "1.0", "--randaugment_operations", "1"])


def test_it_learns_and_records(trained):
    folder, results = trained
    assert results["eval_accuracy"] > 0.8
    assert "eval_top_5_accuracy" not in results
    assert json.loads((folder / "all_results.json").read_text())["eval_accuracy"] == results["eval_accuracy"]
    card = (folder / "README.md").read_text()
    assert "image-classification" in card and "eval_accuracy" in card
    config = json.loads((folder / "config.json").read_text())
    assert list(config["id2label"].values()) == sorted(COLOURS)
    assert config["problem_type"] == "single_label_classification" and config["drop_path_rate"] == 0.1
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(processor, Data2VecProcessor) and list(processor.image_processor.image_mean) == [0.4, 0.5, 0.6]


def test_a_pipeline_gives_the_predictions_of_the_program(trained, pictures, tmp_path):
    folder, results = trained
    argv = options(folder, tmp_path, "--do_predict", "--do_eval", dataset_name=pictures, max_steps=None)
    again = main([*argv, "--test_split", "validation"])
    assert again["eval_accuracy"] == results["eval_accuracy"]
    assert again["eval_loss"] == pytest.approx(results["eval_loss"], abs=1e-6)
    classify = pipeline("image-classification", str(folder), device="cpu")
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    right = 0
    for row in rows:
        best = classify(str(pictures / row["image"]))[0]
        assert best["label"] == row["label"] and best["score"] == pytest.approx(float(row["probability"]), abs=1e-4)
        right += row["label"] == Path(row["image"]).parent.name
    assert right / len(rows) == pytest.approx(results["eval_accuracy"])


def test_images_to_predict_are_measured_and_the_broken_ones_reported(trained, tmp_path, capsys):
    data = write_pictures(tmp_path / "data", 3, seed=5)
    (data / "red" / "torn.png").write_bytes((data / "red" / "0.png").read_bytes()[:99])
    argv = options(trained[0], tmp_path / "run", "--do_predict", test_dir=data, max_steps=None, max_bad_fraction=0.5)
    results = main(argv)
    with open(tmp_path / "run" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    right = [row["label"] == row["image"].split("/")[0] for row in rows if row["label"]]
    assert len(rows) == 10 and len(right) == 9 and results["test_accuracy"] == pytest.approx(sum(right) / 9)
    printed = capsys.readouterr().out
    assert "test data: Of 10 samples, 1 is unusable and was" in printed and "red/torn.png" in printed


def test_a_model_is_evaluated_by_the_names_of_classes(trained, tmp_path):
    # The same two classes, whose numbers in this folder alone would be others.
    write_pictures(tmp_path / "some", 6, classes=("green", "red"), seed=2)
    argv = options(trained[0], tmp_path / "out", "--do_eval", validation_dir=tmp_path / "some", max_steps=None)
    assert main(argv)["eval_accuracy"] > 0.8
    write_pictures(tmp_path / "other", 2, classes=("red",))
    shutil.copytree(tmp_path / "other" / "red", tmp_path / "other" / "purple")
    argv = options(trained[0], tmp_path / "out", "--do_eval", validation_dir=tmp_path / "other", max_steps=None)
    with pytest.raises(ValueError, match="'purple'.*blue, green, red"):
        main(argv)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_was_cut_off_ends_with_the_same_weights(checkpoint, pictures, tmp_path, workers):
    more = ["--do_train", "--dataloader_num_workers", workers, "--dataloader_persistent_workers", str(workers > 0)]
    same = dict(dataset_name=pictures, max_steps=7, save_strategy="steps", save_steps=1, weights_ema_decay=0.5)
    main(options(checkpoint, tmp_path / "whole", *more, **same))
    # Four batches an epoch: the checkpoint lies inside the second one.
    shutil.copytree(tmp_path / "whole" / "checkpoint-6", tmp_path / "parts" / "checkpoint-6")
    shutil.copytree(tmp_path / "whole" / "checkpoint-7", tmp_path / "parts" / "checkpoint-7")
    (tmp_path / "parts" / "checkpoint-7" / "trainer_state.json").write_text('{"global_st')
    shutil.copy(tmp_path / "whole" / "options.json", tmp_path / "parts")
    main(options(checkpoint, tmp_path / "parts", *more, **same))
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_broken_files_are_counted_and_named(checkpoint, pictures, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(pictures, root)
    for split in ("train", "validation"):
        red = root / split / "red"
        picture = Image.open(red / "0.png")
        picture.convert("CMYK").save(red / "cmyk.jpg")
        picture.convert("RGBA").save(red / "rgba.png")
        picture.convert("L").save(red / "grey.png")
        picture.convert("P").save(red / "palette.gif")
        Image.fromarray(np.full((36, 40), 40000, dtype=np.uint16)).save(red / "sixteen.png")
        (red / "empty.png").write_bytes(b"")
        (red / "torn.png").write_bytes((red / "1.png").read_bytes()[:200])
        (red / "text.jpg").write_text("no picture")
    argv = options(checkpoint, tmp_path / "out", "--do_train", "--do_eval", dataset_name=root, max_steps=6)
    results = main([*argv, "--max_bad_fraction", "0.3"])
    # Of 12 + 8 files 3 are broken, and what stood in for them is not counted.
    assert results["eval_accuracy"] * 17 == pytest.approx(round(results["eval_accuracy"] * 17))
    bad = json.loads((tmp_path / "out" / "bad_samples.json").read_text())
    for split, part in (("train", "training"), ("validation", "validation")):
        named = {Path(name).name for reason in FATAL for name in bad[part].get(reason, ())}
        assert named == {"empty.png", "torn.png", "text.jpg"}
        converted = {Path(name).name for note in NOTES for name in bad[part].get(note, ())}
        assert converted == {"cmyk.jpg", "rgba.png", "sixteen.png"}
        assert bad[part]["empty"] == [f"{split}/red/empty.png"]
    assert "3 are unusable" in capsys.readouterr().out
    with pytest.raises(ValueError, match="3 of 20"):
        main(options(tmp_path / "out", tmp_path / "strict", "--do_eval", dataset_name=root, max_steps=None))


def test_few_labels(checkpoint, pictures, tmp_path):
    argv = options(checkpoint, tmp_path / "out", "--do_train", dataset_name=pictures, max_steps=1, train_fraction=0.2)
    main(argv)
    assert json.loads((tmp_path / "out" / "trainer_state.json").read_text())["epoch"] == 1.0
    labels = np.repeat([0, 1, 2], [100, 10, 3])
    chosen = fraction_of_each_class(labels, 0.1, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [10, 1, 1]
    assert not np.array_equal(chosen, fraction_of_each_class(labels, 0.1, seed=1))
    assert np.array_equal(chosen, fraction_of_each_class(labels, 0.1, seed=0))


def test_validation_images_are_held_out_of_every_class(checkpoint, pictures, tmp_path, caplog):
    argv = options(checkpoint, tmp_path, "--do_train", "--do_eval", train_dir=pictures / "train", max_steps=1)
    with caplog.at_level(logging.WARNING):
        results = main([*argv, "--train_val_split", "0.2"])
    assert "20 % of each class are held out of the training data (6, 24 stay)" in caplog.text
    assert results["eval_accuracy"] * 6 == pytest.approx(round(results["eval_accuracy"] * 6))


def test_other_mistakes_are_not_taken_for_a_missing_validation_split(checkpoint, pictures, tmp_path):
    data = ImageDataArguments(train_dir=str(pictures / "train"), validation_dir=str(pictures / "validation"))
    parts = [data.open("train"), data.open("validation")]
    assert list(map(len, parts)) == [30, 12], "a folder of its own has one split, whatever its name"
    with pytest.raises(SplitNotFoundError, match="no split 'dawn'"):
        ImageDataArguments(dataset_name=str(pictures), train_split="dawn").open("train")
    for values, message in (
        ({"train_dir": pictures / "train", "validation_dir": tmp_path}, "no files of modality vision"),
        ({"dataset_name": pictures, "validation_split": "dusk"}, "no split 'dusk'"),
    ):
        with pytest.raises(ValueError, match=message):
            main(options(checkpoint, tmp_path / "run", "--do_train", "--do_eval", **values))


def test_another_image_size(checkpoint, pictures, tmp_path):
    argv = options(checkpoint, tmp_path, "--do_train", dataset_name=pictures, max_steps=1, image_size=48, crop_pct=0.8)
    main(argv)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert processor(Image.new("RGB", (70, 90)), return_tensors="pt")["pixel_values"].shape == (1, 3, 48, 48)
    assert dict(processor.size)["shortest_edge"] == 60
    assert list(processor.image_mean) == [0.4, 0.5, 0.6] and list(processor.image_std) == [0.2, 0.3, 0.4]


def test_from_scratch_and_grey_images(pictures, tmp_path):
    tiny_config("vision", vision_config={"num_channels": 1}).save_pretrained(tmp_path / "config")
    argv = options(None, tmp_path / "out", "--do_train", "--from_scratch", dataset_name=pictures, max_steps=2)
    main([*argv, "--config_name", str(tmp_path / "config"), "--gradient_checkpointing", "--bf16"])
    classify = pipeline("image-classification", str(tmp_path / "out"), device="cpu")
    assert len(classify(str(pictures / "train" / "red" / "0.png"))) == 3


def test_labels_are_smoothed_in_training_only(checkpoint, pictures, tmp_path):
    plain = [word for word in PLAIN if word != "--label_smoothing_factor"]
    plain.pop(plain.index("0", plain.index("--no_flip")))
    argv = ["--do_train", "--do_eval", *plain, "--label_smoothing_factor"]
    values = dict(dataset_name=pictures, max_steps=1, learning_rate=0.0, per_device_train_batch_size=30)
    hard = main(options(checkpoint, tmp_path / "a", *argv, 0, **values))
    soft = main(options(checkpoint, tmp_path / "b", *argv, 0.9, **values))
    assert hard["eval_loss"] == soft["eval_loss"]
    assert abs(losses(tmp_path / "a")[0] - losses(tmp_path / "b")[0]) > 1e-4


def test_accumulated_batches_give_the_loss_of_one(checkpoint, pictures, tmp_path):
    values = dict(dataset_name=pictures, max_steps=2)
    for name, batch, parts in (("one", 8, 1), ("two", 4, 2)):
        argv = options(checkpoint, tmp_path / name, "--do_train", *PLAIN, **values, per_device_train_batch_size=batch)
        main([*argv, "--gradient_accumulation_steps", str(parts), "--label_smoothing_factor", "0.1"])
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), abs=2e-4)


@pytest.mark.parametrize(
    "more, message",
    [
        (["--label_column", "kind"], "no label column 'kind'.*It has: label"),
        (["--image_size", "30"], "patches of 8"),
        (["--image_column", "imag"], "no column 'imag'"),
        (["--train_fraction", "0"], "train_fraction is 0"),
        (["--max_train_samples", "0"], "max_train_samples is 0"),
        (["--crop_scale", "0.5", "2"], "crop_scale"),
        (["--randaugment_magnitude", "20"], "randaugment_magnitude is 20.*from 0 to 10"),
        (["--train_split", "trian"], "no split 'trian'"),
        (["--mixupp", "1"], "no option --mixupp. The nearest valid one is --mixup"),
    ],
)
def test_mistakes_are_explained(checkpoint, pictures, tmp_path, more, message, capsys):
    argv = options(checkpoint, tmp_path, "--do_train", *more, dataset_name=pictures)
    with pytest.raises((ValueError, SystemExit)) as caught:
        main(argv)
    assert re.search(message, str(caught.value) + capsys.readouterr().err)


def test_images_without_labels_are_an_error(checkpoint, pictures, tmp_path):
    for source, message in ((pictures / "train" / "red", "labels"), (tmp_path / "none", "exist")):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            main(options(checkpoint, tmp_path / "out", "--do_train", dataset_name=source))
    with pytest.raises(SystemExit):
        main(options(checkpoint, tmp_path / "out", "--do_train"))
    with pytest.raises(ValueError, match="Nothing"):
        main(options(checkpoint, tmp_path / "out", dataset_name=pictures))


@pytest.mark.slow
def test_two_processes_compute_the_losses_of_one(checkpoint, pictures, tmp_path):
    program = str(ROOT / "recipes" / "finetune_image_classification.py")
    results = {}
    for name, batch, launcher in (
        ("one", 8, []),
        ("two", 4, ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29687"]),
    ):
        argv = options(
            checkpoint,
            tmp_path / name,
            "--do_train",
            "--do_eval",
            *PLAIN,
            dataset_name=pictures,
            max_train_samples=24,  # whole batches: a last one of fewer is filled up where processes share it
            max_steps=6,
            per_device_train_batch_size=batch,
            per_device_eval_batch_size=3,
        )
        done = subprocess.run(
            [sys.executable, *launcher, program, *argv],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        results[name] = json.loads(done.stdout.splitlines()[-1])
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), abs=2e-4)
    assert results["one"]["eval_accuracy"] == results["two"]["eval_accuracy"]
    assert results["one"]["eval_loss"] == pytest.approx(results["two"]["eval_loss"], abs=1e-4)


SETS = {"blue": ("cold", "sea"), "green": ("cold",), "red": ()}


def test_pictures_with_several_classes_each(checkpoint, pictures, tmp_path, monkeypatch):
    read_sets(monkeypatch, SETS)
    plain = [*PLAIN, "--mixup", "0.2", "--mix_probability", "0.3", "--label_smoothing_factor", "0.05"]
    values = {"dataset_name": pictures, "max_steps": 50, "save_strategy": "steps", "save_steps": 25, "eval_steps": 25}
    chosen = {"eval_strategy": "steps", "load_best_model_at_end": True}
    argv = options(checkpoint, tmp_path / "run", "--do_train", "--do_eval", *plain, **values, **chosen)
    results = main(argv)
    assert results["eval_mean_average_precision"] > 0.95 and results["eval_micro_f1"] > 0.9
    assert {"eval_macro_f1", "eval_exact_match"} < results.keys() and "eval_accuracy" not in results
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert state["best_metric"] == results["eval_mean_average_precision"]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert list(config["id2label"].values()) == ["cold", "sea"]
    with open(tmp_path / "run" / "classes_eval.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["class"], row["samples"]) for row in rows] == [("cold", "8"), ("sea", "4")]
    argv = options(
        tmp_path / "run", tmp_path / "test", "--do_predict", test_dir=pictures / "validation", max_steps=None
    )
    again = main(argv)
    assert again["test_micro_f1"] == pytest.approx(results["eval_micro_f1"])
    with open(tmp_path / "test" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    right = [json.loads(row["labels"]) == list(SETS[row["image"].split("/")[0]]) for row in rows]
    assert sum(right) / len(right) == pytest.approx(results["eval_exact_match"])
    # The pipeline computes the same independent probabilities.
    classify = pipeline("image-classification", str(tmp_path / "run"), device="cpu")
    for row in rows[::4]:
        scores = {each["label"]: each["score"] for each in classify(str(pictures / "validation" / row["image"]))}
        found = dict(zip(json.loads(row["labels"]), json.loads(row["probabilities"]), strict=True))
        assert found == {name: pytest.approx(score, abs=1e-3) for name, score in scores.items() if score >= 0.5}


def test_missing_and_broken_pictures_of_several_classes(checkpoint, pictures, tmp_path, monkeypatch):
    data = tmp_path / "data"
    shutil.copytree(pictures, data)
    (data / "validation" / "blue" / "0.png").write_bytes(b"torn")
    read_sets(monkeypatch, SETS | {"red": None})
    argv = options(checkpoint, tmp_path / "run", "--do_train", "--do_eval", dataset_name=data, max_bad_fraction=0.5)
    results = main([*argv, "--threshold", "0.3"])
    assert all(map(math.isfinite, (results["eval_loss"], results["train_loss"], results["eval_micro_f1"])))
    bad = json.loads((tmp_path / "run" / "bad_samples.json").read_text())
    assert len(bad["training"]["no label"]) == 10 and len(bad["validation"]["no label"]) == 4
    assert bad["validation"]["unreadable"] == ["validation/blue/0.png"]
    with pytest.raises(ValueError, match="10 of 30 samples of the training data"):
        main([*argv, "--max_bad_fraction", "0.1", "--output_dir", str(tmp_path / "strict")])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--problem_type", "single_label_classification"], "several classes each"),
        (["--metric_for_best_model", "accuracy"], "mean_average_precision"),
    ],
)
def test_options_that_need_one_class_are_refused(checkpoint, pictures, tmp_path, monkeypatch, more, message):
    read_sets(monkeypatch, SETS)
    with pytest.raises(ValueError, match=message):
        main(options(checkpoint, tmp_path, "--do_train", "--do_eval", *more, dataset_name=pictures))


def test_one_class_may_be_learned_independently_of_the_others(checkpoint, pictures, tmp_path):
    argv = options(checkpoint, tmp_path, "--do_train", "--do_eval", *PLAIN, dataset_name=pictures, max_steps=30)
    results = main([*argv, "--problem_type", "multi_label_classification"])
    assert results["eval_mean_average_precision"] > 0.8
