"""`recipes/convert.py SOURCE OUT --to transformers`: models of this package as models of transformers."""

from pathlib import Path

import pytest
import torch
import transformers
from model_factory import inputs_for, randomise, tiny_config
from transformers_factory import SHAPED, encoder, ours

from d2v_train.programs.convert import run_program
from modeling_d2v import Data2VecForPreTraining, Data2VecModel
from modeling_d2v.conversion.hf.export_folder import export_to_transformers


ROOT = Path(__file__).resolve().parents[3]


def test_a_recogniser_is_exported_and_verified(tmp_path, capsys):
    model = ours("Data2VecForCTC")
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: mit\n---\n")
    summary = run_program([str(tmp_path / "model"), str(tmp_path / "out"), "--to", "transformers", "--verify"])
    printed = capsys.readouterr().out
    assert "result      Data2VecAudioForCTC, no published size (nearest audio-base-v1)" in printed
    assert "source      this package, Data2VecForCTC" in printed and "licence     mit: from the card" in printed
    assert "Padding reaches the samples in transformers" in printed and summary.notes[-1].startswith("Verified: ")
    exported = transformers.AutoModelForCTC.from_pretrained(tmp_path / "out")
    batch = inputs_for("audio")
    torch.testing.assert_close(exported(**batch).logits, model(**batch).logits, atol=1e-5, rtol=1e-5)


def test_there_and_back_through_the_command_line(tmp_path):
    model = encoder("text")
    model.save_pretrained(tmp_path / "model")
    run_program([str(tmp_path / "model"), str(tmp_path / "there"), "--to", "transformers"])
    run_program([str(tmp_path / "there"), str(tmp_path / "back"), "--verify"])
    again = Data2VecModel.from_pretrained(tmp_path / "back").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("weights", "other"), [("student", "teacher."), ("teacher", "data2vec.")])
def test_what_only_pretraining_needs_is_listed(weights, other, tmp_path):
    model = Data2VecForPreTraining(encoder("text").config)
    model.save_pretrained(tmp_path / "model")
    options = ["--to", "transformers", "--verify", "--weights", weights]
    summary = run_program([str(tmp_path / "model"), str(tmp_path / "out"), *options])
    listed = {name for name, reason in summary.unused if reason == "serves pretraining alone"}
    assert listed == {name for name in model.state_dict() if name.startswith(("decoders.", other))}


def test_one_modality_of_a_joint_encoder_in_another_type_of_numbers(tmp_path):
    config = tiny_config(("text", "audio"), masked_tokens="replaced", audio_config=SHAPED["audio"]["audio_config"])
    randomise(Data2VecModel(config)).save_pretrained(tmp_path / "model")
    options = ["--to", "transformers", "--modality", "audio", "--dtype", "bfloat16", "--license", "mit"]
    summary = run_program([str(tmp_path / "model"), str(tmp_path / "out"), *options])
    assert summary.license == "mit" and summary.task == "Data2VecModel"
    model = transformers.AutoModel.from_pretrained(tmp_path / "out")
    assert type(model) is transformers.Data2VecAudioModel and model.dtype == torch.bfloat16


def test_what_transformers_cannot_compute_ends_with_the_reasons_and_writes_nothing(tmp_path):
    encoder("audio", audio_config={"alibi": "learned"}).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="audio_config.alibi.*'learned'"):
        run_program([str(tmp_path / "model"), str(tmp_path / "out"), "--to", "transformers"])
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_model_is_not_replaced_by_its_export(tmp_path):
    encoder("text").save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="replaced"):
        run_program([str(tmp_path / "model"), str(tmp_path / "model"), "--to", "transformers", "--overwrite"])
    with pytest.raises(ValueError, match="replaced"):
        export_to_transformers(tmp_path / "model", tmp_path, overwrite=True)
    assert type(Data2VecModel.from_pretrained(tmp_path / "model")) is Data2VecModel


@pytest.mark.parametrize("source", ["nothing", "theirs"])
def test_sources_that_are_no_models_of_this_package(tmp_path, source):
    transformers.Data2VecTextConfig().save_pretrained(tmp_path / "theirs")
    with pytest.raises((ValueError, FileNotFoundError), match="There is no model in|not one of this package"):
        run_program([str(tmp_path / source), str(tmp_path / "out"), "--to", "transformers"])
