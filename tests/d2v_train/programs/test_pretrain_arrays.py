"""Pretraining on a user's arrays: a folder, parquet, settings that follow from the data, resuming, what is saved."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hub_server import HubServer
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

from d2v_train.health.guard import TrainingStopped
from d2v_train.options.errors import OptionError
from d2v_train.options.files import load_options
from d2v_train.pretraining.session import pretrain
from d2v_train.probing.run import ProbeSettings, run_probe
from d2v_train.programs import publish
from d2v_train.support.jsonl import read_log


SMALL = [
    "max_steps=4", "logging.every=1", "cpu=true", "arrays.batch_size=4", "checkpoints.every=2",
    "model.hidden_size=32", "model.intermediate_size=64", "model.arrays_config.group_latents=2",
    "model.arrays_config.latent_size=16", "model.arrays_config.decoder_hidden_size=16", "model.hidden_dropout=0.1",
    "model.arrays_config.num_masks=2",
]  # fmt: skip


def options(folder, data, *more):
    return load_options("tiny_series", [f"output_dir={folder}", f"data.arrays={data}", *SMALL, *more])


@pytest.fixture(scope="module")
def accelerometer(tmp_path_factory):
    """Three axes, folders of classes, series of different lengths, two damaged files."""
    folder = tmp_path_factory.mktemp("accelerometer")
    for number, name in enumerate(("run", "sit", "walk")):
        for split, count in (("train", 10), ("test", 4)):
            (folder / split / name).mkdir(parents=True)
            for row in range(count):
                steps = np.arange(60 + 4 * row)[:, None]
                wave = np.sin(steps * (0.1 + 0.3 * number) + np.arange(3)) * [1.0, 2.0, 0.1] + [0.0, 9.81, 0.0]
                np.save(folder / split / name / f"{row}.npy", wave.astype(np.float32))
    (folder / "train" / "sit" / "torn.npy").write_bytes(b"\x93NUMPY")
    np.save(folder / "train" / "sit" / "gap.npy", np.full((60, 3), np.nan))
    return folder


CHANNELS = "model.arrays_config.num_channels=3"
TOLERANT = "health.max_bad_fraction=0.5"


@pytest.fixture(scope="module")
def run(accelerometer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "motion"
    pictures = ["logging.pictures_every=4", "probe.every=4", "probe.neighbours=3"]
    pretrain(options(folder, accelerometer, CHANNELS, TOLERANT, *pictures))
    return folder


def test_a_folder_is_all_that_is_named(run, accelerometer):
    lines = read_log(run / "log.jsonl")
    assert [line["step"] for line in lines if "arrays/loss" in line] == [1, 2, 3, 4]
    assert all(np.isfinite(line["arrays/loss"]) for line in lines if "arrays/loss" in line)
    assert any("arrays/probe_knn" in line for line in lines)
    assert {path.name[14:] for path in (run / "pictures").iterdir()} == {"arrays_masks.png", "arrays_neighbours.png"}
    record = json.loads((run / "run.json").read_text())
    assert record["data"]["arrays"]["samples"] == 32


def test_what_is_saved_standardises_as_the_run_did(run, accelerometer):
    extractor = AutoProcessor.from_pretrained(run / "final").array_feature_extractor
    arrays = [np.load(path) for path in sorted((accelerometer / "train").rglob("?.npy"))]
    everything = np.concatenate([*arrays, arrays[0], arrays[0]])  # the torn ones are replaced
    np.testing.assert_allclose(extractor.mean, everything.mean(axis=0), atol=0.1)
    np.testing.assert_allclose(extractor.std, everything.std(axis=0), rtol=0.1)
    assert (run / "checkpoints" / "step_00000004" / "processor_config.json").is_file()
    inputs = AutoProcessor.from_pretrained(run / "final")(arrays=arrays[:2], return_tensors="pt")
    features = AutoModel.from_pretrained(run / "final")(**inputs).pooler_output
    assert features.shape == (2, 32) and torch.isfinite(features).all()


def test_the_encoder_is_probed(run, accelerometer):
    found = run_probe(ProbeSettings(model=str(run / "final"), modality="arrays", data=str(accelerometer), few=2,
                                    neighbours=3))  # fmt: skip
    assert found["bad_samples"] == 2 and found["test_samples"] == 12 and found["train_samples"] == 30
    assert found["simple"].keys() == {"channels"} and found["simple"]["channels"]["linear"] == 100


def test_resuming_is_exact(run, accelerometer, tmp_path):
    shutil.copytree(run, tmp_path / "motion")
    shutil.rmtree(tmp_path / "motion" / "checkpoints" / "step_00000004")
    shutil.rmtree(tmp_path / "motion" / "final")
    pictures = ["logging.pictures_every=4", "probe.every=4", "probe.neighbours=3"]
    pretrain(options(tmp_path / "motion", accelerometer, CHANNELS, TOLERANT, *pictures))
    for one, other in zip(*(sorted((folder / "final").glob("*.safetensors")) for folder in (run, tmp_path / "motion")),
                          strict=True):  # fmt: skip
        first, second = load_file(one), load_file(other)
        assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_dry_run_writes_nothing(accelerometer, tmp_path, capsys):
    pretrain(options(tmp_path / "run", accelerometer, CHANNELS, TOLERANT, "dry_run=true"))
    assert not (tmp_path / "run").exists() and "arrays" in capsys.readouterr().out


def test_it_is_published_with_its_card(run, monkeypatch, tmp_path):
    with HubServer() as server:
        server.connect(monkeypatch)
        publish.run_program([str(run), "user/motion", "--license", "mit"])
        files = server.files("user/motion")
    card = files["README.md"].decode()
    assert "pipeline_tag: feature-extraction" in card and "## Training data" in card
    assert {"feature_extraction_data2vec.py", "perceiver_groups.py", "processor_config.json"} <= files.keys()


def test_batches_of_similar_lengths_within_a_budget(accelerometer, tmp_path):
    budget = [
        "arrays.batch_size=null",
        "arrays.batch_tokens=40",
        "arrays.bucket_steps=4",
        "arrays.micro_batch_tokens=20",
    ]
    pretrain(options(tmp_path / "run", accelerometer, CHANNELS, TOLERANT, *budget))
    assert len(read_log(tmp_path / "run" / "log.jsonl")) >= 4
    with pytest.raises(OptionError, match="a sample has up to 12 tokens.*arrays.transform.crop_length"):
        pretrain(options(tmp_path / "other", accelerometer, CHANNELS, TOLERANT, *budget, "arrays.batch_tokens=8"))


def test_columns_of_one_channel_each(tmp_path):
    axes = {name: [np.random.default_rng([row, place]).standard_normal(50).tolist() for row in range(8)]
            for place, name in enumerate("xyz")}  # fmt: skip
    pq.write_table(pa.table(axes), tmp_path / "train.parquet")
    pretrain(options(tmp_path / "run", tmp_path / "train.parquet", CHANNELS, "arrays.dataset.column=[x, y, z]"))
    assert (tmp_path / "run" / "final" / "config.json").is_file()


def test_volumes_and_pictures_of_many_channels(tmp_path):
    for row in range(8):
        np.save(tmp_path / f"{row}.npy", np.random.default_rng(row).standard_normal((4, 8, 8, 2)))
    np.save(tmp_path / "8.npy", np.zeros((2, 8, 8, 2)))
    shape = [
        "model.arrays_config.num_dims=3",
        "model.arrays_config.num_channels=2",
        "model.arrays_config.group_size=8",
    ]
    pretrain(options(tmp_path / "run", tmp_path, *shape, TOLERANT, "max_steps=6"))
    bad = [json.loads(line) for line in (tmp_path / "run" / "bad_samples.jsonl").read_text().splitlines()]
    assert [(entry["name"], entry["reason"]) for entry in bad] == [("8.npy", "wrong shape")]
    extractor = AutoProcessor.from_pretrained(tmp_path / "run" / "final").array_feature_extractor
    assert extractor.crop_length == [4, 8, 8]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], r"shape \(60, 3\), and the model takes 1 dimensions with 12 channels.*num_channels=3"),
        (["model.arrays_config.num_dims=2"], "takes 2 dimensions"),
        ([CHANNELS, "arrays.dataset.channels_first=true"], "channels_first=false"),
        ([CHANNELS, "arrays.transform.crop_length=0"], "crop_length is 0"),
        ([CHANNELS, "arrays.transform.mean=[1, 2]"], "mean is"),
        ([CHANNELS, "arrays.transform.speed=2"], "no option 'speed'"),
        (
            [CHANNELS, "health.max_bad_fraction=0", "max_steps=60", "model.num_hidden_layers=1"],
            "2 of the 32 arrays samples cannot be used",
        ),
    ],
)
def test_mistakes_say_what_to_set(accelerometer, tmp_path, more, message):
    with pytest.raises((OptionError, TrainingStopped), match=message):
        pretrain(options(tmp_path / "run", accelerometer, *more))
