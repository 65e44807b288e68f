"""The probe program: its output, its parts and its refusals."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from probed_model import probe, write_pictures

from d2v_train.programs.probe import main
from modeling_d2v import BackbonePreTrainingConfig, Data2VecConfig


ROOT = Path(__file__).resolve().parents[3]


def test_command_prints_one_line_of_json_and_all_else_to_stderr(saved_model):
    command = [sys.executable, "recipes/probe.py", str(saved_model), "--modality", "vision", "--max_samples", "120"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1
    result = json.loads(lines[0])
    for row in (result["pretrained"], result["random"], result["simple"]["pixels"]):
        assert set(row) == {"linear", "knn", "few", "few_std"}
        assert all(0.0 <= value <= 100.0 for value in row.values())
    expected = {"modality": "vision", "data": "builtin", "layer": "last", "classes": 10, "train_samples": 120}
    assert expected.items() <= result.items()
    assert result["model"] == str(saved_model) and result["test_samples"] == 120 and 5 < result["chance"] < 20
    assert "random" in done.stderr


@pytest.mark.parametrize("modality", ["audio", "text"])
def test_speech_and_text_are_probed_too(saved_model, modality, capsys):
    arguments = [str(saved_model), "--modality", modality, "--max_samples", "60", "--seeds", "0", "--few", "2"]
    main([*arguments, "--layer", "1"])
    result = json.loads(capsys.readouterr().out)
    assert result["layer"] == 1 and result["train_samples"] == 60 and result["seeds"] == [0]
    assert set(result["simple"]) == ({"mfcc", "mfcc_deltas"} if modality == "audio" else {"tfidf"})


def test_folder_with_a_folder_for_each_class_and_no_test_part_is_probed(saved_model, tmp_path, capsys, caplog):
    write_pictures(tmp_path, per_class=12, classes=3)
    folder = str(tmp_path / "train")
    arguments = [str(saved_model), "--modality", "vision", "--data", folder, "--seeds", "0", "--few", "3"]
    main(arguments)
    result = json.loads(capsys.readouterr().out)
    assert result["held_out"] is True and result["train_samples"] == 30 and result["test_samples"] == 6
    assert result["simple"]["pixels"]["linear"] == 100.0
    assert "held out (6 samples)" in caplog.text
    for split in ("train", "test"):
        with pytest.raises(SystemExit, match="fitted on" if split == "train" else "There is no split 'test'"):
            main([*arguments, "--test_split", split])
    assert probe(saved_model, "vision", str(tmp_path), seeds=(0,), few=3)["held_out"] is False


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--batch_size", "0", "batch_size.*0.*1"),
        ("--max_samples", "-1", "max_samples.*-1.*1"),
        ("--max_seconds", "0", "max_seconds.*0.0.*0"),
        ("--device", "nosuch", "'nosuch'"),
    ],
)
def test_impossible_options_are_refused_in_a_sentence(saved_model, option, value, message):
    with pytest.raises(SystemExit, match=f"^d2v probe: .*{message}"):
        main([str(saved_model), "--modality", "vision", option, value])


def test_other_models_and_missing_modalities_are_refused(tmp_path, capsys):
    transformers.WhisperConfig().save_pretrained(tmp_path / "whisper")
    with pytest.raises(ValueError, match="whisper.*`input_features`"):
        probe(str(tmp_path / "whisper"), "audio")
    BackbonePreTrainingConfig(encoder_config=transformers.ViTConfig()).save_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match="final_backbone"):
        probe(str(tmp_path / "whole"), "vision")
    transformers.ViTConfig().save_pretrained(tmp_path / "vit")
    with pytest.raises(ValueError, match="text encoder"):
        probe(str(tmp_path / "vit"), "text")
    Data2VecConfig(modalities=["vision"]).save_pretrained(tmp_path / "vision")
    with pytest.raises(ValueError, match="audio encoder"):
        probe(str(tmp_path / "vision"), "audio")
    with pytest.raises(FileNotFoundError, match="`final`"):
        probe(str(tmp_path / "nothing"), "vision")
    with pytest.raises(SystemExit, match="audio encoder"):
        main([str(tmp_path / "vision"), "--modality", "audio"])
    with pytest.raises(SystemExit):
        main([str(tmp_path / "vision"), "--modality", "vision", "--layer", "first"])
    assert "'last'" in capsys.readouterr().err
