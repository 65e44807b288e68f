"""The online probe of a run: its numbers, and that the run does not notice it."""

from pathlib import Path

import pytest
import torch
from tiny_run import (
    assert_same_weights,
    log,
    pretrain,
    pretrain_two,
    stopped_before,
    tiny,
    weights,
    write_config,
)

from d2v_train.options.errors import OptionError
from d2v_train.options.files import load_options
from d2v_train.probing.online import OnlineProbe, feature_rank
from d2v_train.probing.run import ProbeSettings, run_probe
from modeling_d2v import Data2VecForPreTraining


PROBE = ["probe.every=3", "probe.max_samples=60"]


@pytest.fixture
def config(tmp_path):
    changes = {"hidden_dropout": 0.1, "vision_config": {"patch_size": 4}}
    return write_config(tmp_path, tiny("vision", logging={"every": 2}, checkpoints={"every": 2}, model=changes))


def records(folder, probed=True):
    """Lines of a log; without the probe's values if asked for, and without what is then empty."""
    lines = [{name: value for name, value in line.items() if probed or "/probe_" not in name} for line in log(folder)]
    return [line for line in lines if len(line) > 1]


def test_run_with_a_probe_is_the_same_run(config, tmp_path):
    pretrain(config, tmp_path / "plain")
    pretrain(config, tmp_path / "probed", *PROBE)
    assert_same_weights(tmp_path / "plain", tmp_path / "probed")
    assert records(tmp_path / "plain") == records(tmp_path / "probed", probed=False)

    lines = records(tmp_path / "probed")
    # A line of its own where no log line is due.
    assert [line["step"] for line in lines if "vision/probe_knn" in line] == [0, 3, 6]
    assert [line["step"] for line in lines] == [0, 2, 3, 4, 6]
    assert {"vision/probe_knn", "vision/probe_rank", "vision/probe_chance"} == lines[0].keys() - {"step"}
    assert 10 < lines[0]["vision/probe_knn"] <= 100 and 1 < lines[0]["vision/probe_rank"] < 32


def test_probes_leave_no_descriptor_open(config, tmp_path, monkeypatch):
    look, opened = OnlineProbe.look, []

    def counted(self, model, step):
        found = look(self, model, step)
        opened.append(len(list(Path("/proc/self/fd").iterdir())))
        return found

    monkeypatch.setattr(OnlineProbe, "look", counted)
    pretrain(config, tmp_path / "run", "probe.every=1", "probe.max_samples=20", "max_steps=60", "checkpoints.every=0")
    # Garbage of earlier runs in this process may go meanwhile.
    assert len(opened) == 61 and max(opened[2:]) == opened[2]


def test_run_goes_on_with_its_probe(config, tmp_path):
    pretrain(config, tmp_path / "whole", *PROBE)
    with stopped_before(4):
        pretrain(config, tmp_path / "cut", *PROBE)
    pretrain(config, tmp_path / "cut", *PROBE)
    assert records(tmp_path / "cut") == records(tmp_path / "whole")
    assert_same_weights(tmp_path / "cut", tmp_path / "whole")


def test_it_finds_what_the_program_finds(config, tmp_path):
    pretrain(config, tmp_path / "run", "probe.every=6", "probe.max_samples=300", "probe.kind=linear")
    (line,) = [line for line in records(tmp_path / "run") if line["step"] == 6]
    final = str(tmp_path / "run" / "final")
    found = run_probe(ProbeSettings(model=final, modality="vision", max_samples=300, simple=False))
    assert line["vision/probe_linear"] == found["pretrained"]["linear"]
    first = records(tmp_path / "run")[0]
    assert first["vision/probe_chance"] == found["chance"]


def test_run_that_starts_from_weights_is_compared_with_random_ones(config, tmp_path):
    pretrain(config, tmp_path / "run", "max_steps=2")
    start = f"init_from={tmp_path / 'run' / 'final'}"
    for weights_of in ("student", "teacher"):
        folder = tmp_path / weights_of
        pretrain(config, folder, "model=null", start, "max_steps=1", f"probe.weights={weights_of}", *PROBE)
        first = records(folder)[0]
        assert first["step"] == 0 and {"vision/probe_knn", "vision/probe_knn_random"} <= first.keys()
    encoder = Data2VecForPreTraining.from_pretrained(tmp_path / "run" / "final").data2vec
    assert encoder.training is False


def test_data_without_labels_is_an_error_only_where_it_was_named(config, tmp_path, caplog):
    from PIL import Image

    for number in range(12):
        Image.new("L", (8, 8), number * 20).save(tmp_path / f"{number}.png")
    data = f"data.vision={tmp_path}"
    pretrain(config, tmp_path / "run", data, "max_steps=1", *PROBE)
    assert "vision is not probed" in caplog.text and "labels" in caplog.text
    with pytest.raises(OptionError, match="probe.*labels"):
        pretrain(config, tmp_path / "named", f"probe.vision.data={tmp_path}", "max_steps=1", *PROBE)


def test_failing_probe_does_not_end_the_run(config, tmp_path, monkeypatch, caplog):
    def fail(*args, **kwargs):
        raise ValueError("no sample")

    monkeypatch.setattr("d2v_train.probing.online.extract", fail)
    assert pretrain(config, tmp_path / "run", "max_steps=2", *PROBE)["steps"] == 2
    assert "no sample" in caplog.text


def test_wrong_options_are_explained(config, tmp_path):
    for override, message in (
        ("probe.kind=svm", "probe.kind.*'svm'"),
        ("probe.every=-1", "probe.every.*-1"),
        ("probe.audio.data=x", "audio"),
        ("probe.vision.split=x", "'probe.vision.test_split'"),
    ):
        with pytest.raises(OptionError, match=message):
            load_options(config, [f"output_dir={tmp_path}", override])


def test_rank_of_features():
    assert feature_rank(torch.randn(4000, 6).numpy()) == pytest.approx(6, abs=0.05)


@pytest.mark.slow
def test_two_processes_measure_and_probe_like_one(config, tmp_path):
    """Only sums are rounded otherwise, once nothing is dropped: each process draws dropout for itself."""
    settings = [*PROBE, "model.hidden_dropout=0.0"]
    pretrain(config, tmp_path / "one", *settings)
    pretrain_two(config, tmp_path / "two", *settings)
    torch.testing.assert_close(weights(tmp_path / "two"), weights(tmp_path / "one"), rtol=0, atol=1e-5)
    one, two = records(tmp_path / "one"), records(tmp_path / "two")
    measured = {f"vision/{name}" for name in ("target_std", "prediction_rank", "local_std", "explained_by_position")}
    assert measured < one[1].keys()
    for alone, together in zip(one, two, strict=True):
        # The one spread that is of a micro-batch, of which two processes have smaller ones.
        local = [line.pop("vision/local_std", 1.0) for line in (alone, together)]
        assert together == pytest.approx(alone, rel=1e-4, abs=1e-5) and local[1] == pytest.approx(local[0], rel=0.1)
