"""Curves of runs: a row for each modality, a panel for the probe."""

import json
from pathlib import Path

import pytest
from PIL import Image

from d2v_train.programs.plot import find_log, main, plot_runs


def write_log(folder, modalities, steps=5):
    folder.mkdir()
    with open(folder / "log.jsonl", "w") as file:
        for step in range(1, steps + 1):
            record = {"step": step}
            for modality in modalities:
                record |= {f"{modality}/loss": 1 / step, f"{modality}/target_std": 0.5}
            file.write(json.dumps(record) + "\n")


def test_several_runs_are_drawn_together_with_a_row_for_each_modality(tmp_path):
    write_log(tmp_path / "a", ["vision"])
    write_log(tmp_path / "b", ["vision", "text"])
    one = Image.open(plot_runs([tmp_path / "a"], tmp_path / "one.png"))
    two = Image.open(plot_runs([tmp_path / "a", tmp_path / "b" / "log.jsonl"], tmp_path / "docs" / "two.png"))
    assert one.width == two.width and two.height > 1.5 * one.height
    # Runs have colours of their own: #0072b2 and #d55e00.
    colours = {pixel for _, pixel in two.convert("RGB").getcolors(maxcolors=1 << 20)}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours


def test_probe_gets_a_panel_of_its_own(tmp_path):
    write_log(tmp_path / "plain", ["vision"])
    write_log(tmp_path / "probed", ["vision"])
    with open(tmp_path / "probed" / "log.jsonl", "a") as file:
        for step, values in ((0, {"vision/probe_chance": 10.0}), (6, {})):
            file.write(json.dumps({"step": step, "vision/probe_knn": 30.0 + step, **values}) + "\n")
    plain, probed = (
        Image.open(plot_runs([tmp_path / name], tmp_path / f"{name}.png")) for name in ("plain", "probed")
    )
    assert probed.width == pytest.approx(1.5 * plain.width, rel=0.02) and probed.height == plain.height


def test_gradients_of_a_joint_run_get_a_row(tmp_path):
    for name in ("plain", "compared"):
        write_log(tmp_path / name, ["audio", "vision"])
    with open(tmp_path / "compared" / "log.jsonl", "a") as file:
        for step in (0, 3):
            norms = {f"{name}/shared_gradient_norm": 1.0 + step for name in ("audio", "vision")}
            cosines = {"shared_gradient_cosine/audio_vision": -0.1, "vision/shared_gradient_cosine": 0.5}
            file.write(json.dumps({"step": step, **norms, **cosines}) + "\n")
    plain, compared = (
        Image.open(plot_runs([tmp_path / name], tmp_path / f"{name}.png")) for name in ("plain", "compared")
    )
    assert compared.width == plain.width and compared.height == pytest.approx(1.44 * plain.height, rel=0.05)


def test_missing_and_empty_logs_are_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="log"):
        find_log(tmp_path)
    write_log(tmp_path / "empty", [])
    with pytest.raises(ValueError, match="loss"):
        plot_runs([tmp_path / "empty"], tmp_path / "x.png")


def test_curves_of_one_run_go_into_it_and_those_of_several_to_where_the_program_was_called(
    tmp_path, monkeypatch, capsys
):
    for name in ("a", "b"):
        write_log(tmp_path / name, ["vision"])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    main(["../a"])
    main(["../b/log.jsonl"])
    assert all((tmp_path / name / "curves.png").is_file() for name in ("a", "b")) and not list(Path().iterdir())
    assert capsys.readouterr().out.splitlines() == ["../a/curves.png", "../b/curves.png"]
    main(["../a", "../b"])
    main(["../a", "--output", "own.png"])
    assert sorted(map(str, Path().iterdir())) == ["curves.png", "own.png"]
