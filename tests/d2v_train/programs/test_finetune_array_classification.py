"""The program that fine-tunes classifiers of arrays, run on small series: from a folder to a model for others."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoProcessor

from d2v_train.inputs.processors import SavedArrayExtractor
from d2v_train.programs.finetune_array_classification import run_program as main
from modeling_d2v import (
    AutoModelForArrayClassification,
    Data2VecArrayFeatureExtractor,
    Data2VecConfig,
    Data2VecForPreTraining,
    Data2VecProcessor,
)


ROOT = Path(__file__).resolve().parents[3]
CLASSES = ("falling", "flat", "rising")
MEAN, STD = [5.0, -1.0], [2.0, 0.5]


def config(**arrays) -> Data2VecConfig:
    settings = {
        "num_channels": 2, "group_size": 8, "group_latents": 2, "latent_size": 16, "latent_heads": 2,
        "fourier_bands": 4, "decoder_layers": 1, "decoder_hidden_size": 16, "decoder_groups": 4, "num_masks": 2,
    }  # fmt: skip
    torch.manual_seed(0)
    return Data2VecConfig(
        modalities=["arrays"], hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        arrays_config=settings | arrays,
    )  # fmt: skip


def write_checkpoint(folder: Path, **arrays) -> str:
    model = Data2VecForPreTraining(config(**arrays))
    model.save_pretrained(folder)
    own = model.config.arrays_config
    statistics = {"mean": MEAN, "std": STD} if own.num_channels == 2 else {}
    extractor = Data2VecArrayFeatureExtractor(num_dims=own.num_dims, num_channels=own.num_channels, **statistics)
    Data2VecProcessor(array_feature_extractor=extractor).save_pretrained(folder)
    return str(folder)


def series(name: str, seed: int, length: int = 40) -> np.ndarray:
    """A noisy ramp, told by its direction, in the units of `MEAN` and `STD`."""
    rng = np.random.default_rng([CLASSES.index(name), seed])
    slope = 3 * (CLASSES.index(name) - 1) * np.linspace(-1, 1, length)[:, None]
    return (slope + 0.2 * rng.standard_normal((length, 2))) * STD + MEAN


def write_series(folder: Path, count: int, seed: int = 0, names=CLASSES, length: int = 40) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for row in range(count):
            np.save(folder / name / f"{row}.npy", series(name, seed + row, length + 5 * (row % 3)))
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    return write_checkpoint(tmp_path_factory.mktemp("pretrained"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("series")
    write_series(folder / "train", 8)
    write_series(folder / "validation", 3, seed=100)
    return folder


def options(checkpoint, folder, *more, **values) -> list[str]:
    defaults = {
        "model_name_or_path": checkpoint, "output_dir": folder, "per_device_train_batch_size": 8, "report_to": "none",
        "logging_steps": 1, "learning_rate": 3e-3, "use_cpu": "true", "save_strategy": "no",
    }  # fmt: skip
    words = [word for name, value in (defaults | values).items() for word in (f"--{name}", str(value))]
    return [*words, *more]


@pytest.fixture(scope="module")
def learned(checkpoint, data, tmp_path_factory) -> tuple[Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("learned")
    return folder, main(options(checkpoint, folder, "--do_train", "--do_eval", dataset_name=data, max_steps=40))


def test_series_are_told_apart(learned):
    folder, results = learned
    assert results["eval_accuracy"] == results["eval_macro_f1"] == 1
    assert AutoConfig.from_pretrained(folder).id2label == dict(enumerate(CLASSES))


def test_the_saved_model_and_processor_name_the_classes(learned):
    folder, _ = learned
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForArrayClassification.from_pretrained(folder).eval()
    inputs = processor(arrays=[series(name, 500, 40 + row) for row, name in enumerate(CLASSES)], return_tensors="pt")
    assert inputs["attention_mask"].sum(dim=1).tolist() == [40, 41, 42]
    with torch.no_grad():
        found = model(**inputs).logits.argmax(dim=1).tolist()
    assert [model.config.id2label[number] for number in found] == list(CLASSES)


def test_the_card_says_how_to_use_it_and_that_runs_without_the_package(learned, tmp_path):
    """The code block of the card, in a process that cannot import the package."""
    folder, _ = learned
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: other" in card and "| eval_accuracy | 1 |" in card and "pipeline(" not in card
    block = card.split("```python\n")[1].split("```")[0].replace(f'"{folder.name}"', repr(str(folder)))
    np.save(tmp_path / "sample.npy", series("rising", 7))
    hidden = "import sys\nsys.modules['modeling_d2v'] = None\nsys.path = [p for p in sys.path if p]\n"
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
    script = hidden + textwrap.dedent(block) + "print(*classes)\n"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout.split()[-1:] == ["rising"], done.stderr[-2000:]


def test_standardisation_is_that_of_the_checkpoint(learned):
    saved = SavedArrayExtractor.from_pretrained(str(learned[0]))
    assert saved.mean == MEAN and saved.std == STD


def test_from_scratch_it_is_that_of_the_training_data(data, tmp_path):
    """Without a processor, mean and deviation are computed, and saved."""
    config().save_pretrained(tmp_path / "configuration")
    argv = ["--config_name", str(tmp_path / "configuration"), "--from_scratch", "--output_dir", str(tmp_path / "run")]
    argv += ["--do_train", "--max_steps", "1", "--dataset_name", str(data), "--use_cpu", "--report_to", "none"]
    main(argv)
    saved = SavedArrayExtractor.from_pretrained(str(tmp_path / "run"))
    everything = np.concatenate([np.load(path) for path in sorted((data / "train").rglob("*.npy"))])
    np.testing.assert_allclose(saved.mean, everything.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(saved.std, everything.std(axis=0), rtol=1e-4)


def test_bad_arrays_are_left_out_and_listed(learned, tmp_path):
    folder = write_series(tmp_path / "data", 4, seed=200)
    np.save(folder / "flat" / "broken.npy", np.full((40, 2), np.nan))
    (folder / "rising" / "torn.npy").write_bytes((folder / "rising" / "0.npy").read_bytes()[:-9])
    np.save(folder / "flat" / "wide.npy", np.zeros((40, 3)))
    argv = options(str(learned[0]), tmp_path / "run", "--do_predict", test_dir=folder, max_bad_fraction=0.5)
    assert main(argv)["test_accuracy"] == 1
    lines = (tmp_path / "run" / "predictions.csv").read_text().splitlines()
    assert lines[0] == "array,label,probability" and len(lines) == 1 + 12
    listed = json.loads((tmp_path / "run" / "bad_samples.json").read_text())["test"]
    assert listed == {
        "non-finite": ["flat/broken.npy"], "truncated": ["rising/torn.npy"], "wrong shape": ["flat/wide.npy"],
    }  # fmt: skip


def test_crops_and_augmentation_are_options(learned, data, tmp_path):
    more = {"dataset_name": data, "max_steps": 2, "crop_length": 24, "jitter": 0.1, "scaling": 0.1}
    main(options(str(learned[0]), tmp_path / "run", "--do_train", "--do_eval", **more))
    assert SavedArrayExtractor.from_pretrained(str(tmp_path / "run")).crop_length == [24]


def test_batches_by_length_and_subjects_kept_apart(checkpoint, tmp_path):
    rows = ["file_name,label,group"]
    for row in range(12):
        name = CLASSES[row % 3]
        (tmp_path / "data").mkdir(exist_ok=True)
        np.save(tmp_path / "data" / f"{row}.npy", series(name, row, 20 + row))
        rows.append(f"{row}.npy,{name},{'ann' if row < 6 else 'bob'}")
    (tmp_path / "data" / "metadata.csv").write_text("\n".join(rows))
    groups = ["--exclude_groups", "bob", "--only_groups", "bob", "--test_split", "train", "--do_predict"]
    values = {"dataset_name": tmp_path / "data", "max_steps": 2, "train_sampling_strategy": "group_by_length"}
    main(options(checkpoint, tmp_path / "run", "--do_train", *groups, **values))
    predicted = (tmp_path / "run" / "predictions.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in predicted] == [f"{row}.npy" for row in range(6, 12)]


def test_pictures_of_any_channels_and_smaller_ones(tmp_path):
    """Arrays of two dimensions are cropped to one shape; smaller ones are bad samples."""
    folder = tmp_path / "data"
    for number, name in enumerate(("left", "right")):
        (folder / name).mkdir(parents=True)
        for row in range(6):
            picture = np.random.default_rng([number, row]).standard_normal((8, 10 + row % 2, 4))
            picture[:, : 4 if number else 10] += 2
            np.save(folder / name / f"{row}.npy", picture)
    np.save(folder / "left" / "small.npy", np.zeros((4, 10, 4)))
    checkpoint = write_checkpoint(tmp_path / "checkpoint", num_dims=2, num_channels=4, group_size=4,
                                  mask_sampler="inverse_block", mask_length=1)  # fmt: skip
    main(
        options(
            checkpoint, tmp_path / "run", "--do_train", "--do_eval", train_dir=folder, validation_dir=folder,
            max_steps=2, crop_length=8, max_bad_fraction=0.5,
        )
    )  # fmt: skip
    listed = json.loads((tmp_path / "run" / "bad_samples.json").read_text())
    assert listed["validation"] == {"wrong shape": ["left/small.npy"]}


def test_resuming_gives_the_same_weights(checkpoint, data, tmp_path):
    values = {"dataset_name": data, "max_steps": 4, "save_strategy": "steps", "save_steps": 2, "jitter": 0.2}
    whole = main(options(checkpoint, tmp_path / "whole", "--do_train", "--do_eval", **values))
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-4")
    for name in ("trainer_state.json", "model.safetensors", "all_results.json", "train_results.json"):
        (tmp_path / "cut" / name).unlink()
    again = main(options(checkpoint, tmp_path / "cut", "--do_train", "--do_eval", **values))
    assert again["eval_loss"] == whole["eval_loss"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"crop_length": 0}, "--crop_length is"),
        ({"jitter": -1}, "--jitter is -1"),
        ({"scaling": 99}, "--scaling is 99"),
        ({"classifier_dropout": 1.0}, "--classifier_dropout is 1.0"),
        ({"array_column": "nothing"}, "nothing"),
        ({"channels_first": "true"}, "channels_first=false"),
        ({"model_name_or_path": "no/such/model"}, "no/such/model"),
        ({"dataset_name": "no/such/folder"}, "no/such/folder"),
    ],
)
def test_mistakes_end_with_their_message(checkpoint, data, tmp_path, capsys, more, message):
    values = {"dataset_name": data, "max_steps": 1, **more}
    with pytest.raises((ValueError, OSError, SystemExit)) as caught:
        main(options(values.pop("model_name_or_path", checkpoint), tmp_path, "--do_train", **values))
    assert message in f"{caught.value} {capsys.readouterr().err}"


def test_a_model_of_another_modality_is_refused(tmp_path, data):
    Data2VecForPreTraining(
        Data2VecConfig(modalities=["vision"], hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(tmp_path / "vision")
    with pytest.raises(ValueError, match="no 'arrays' front end; it has vision"):
        main(options(str(tmp_path / "vision"), tmp_path / "run", "--do_train", dataset_name=data))


def test_wrong_channels_say_so(tmp_path, data):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", num_channels=6)
    with pytest.raises(ValueError, match=r"shape \(40, 2\), and the model takes 1 dimensions with 6 channels"):
        main(options(checkpoint, tmp_path / "run", "--do_train", dataset_name=data))
