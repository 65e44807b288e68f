"""Uploads of runs: cards, licences, what came later."""

import json
import logging

import pytest
from finetuning_example import make_trainer
from finetuning_example import run as finetune
from model_factory import tiny_config
from safetensors import safe_open
from uploaded_run import section, train

from d2v_train.options.errors import OptionError
from d2v_train.publishing.hub import publish_checkpoint
from d2v_train.publishing.run_card import inherited_license
from modeling_d2v import Data2VecModel
from modeling_d2v.model_card import license_in, model_card


PROBE = {
    "model": "/somewhere/final",
    "modality": "vision",
    "data": "/somewhere/digits",
    "test_samples": 364,
    "random": {"linear": 84.6, "knn": 53.3, "few": 63.9, "few_std": 0.5},
    "pretrained": {"linear": 96.1, "knn": 87.0, "few": 85.5, "few_std": 0.4},
    "simple": {"pixels": {"linear": 95.3, "knn": 94.8, "few": 89.4, "few_std": 0.3}},
}


def test_pretraining_ends_with_the_encoder_on_the_hub(finished, hub, tmp_path):
    files = hub.files("user/digits")
    assert hub.repositories["user/digits"].messages[-1] == "Upload pretrained data2vec model"
    assert {"processor_config.json", "modeling_data2vec.py", "README.md"} <= set(files)
    path = tmp_path / "model.safetensors"
    path.write_bytes(files["model.safetensors"])
    with safe_open(path, "pt") as tensors:
        assert {name.split(".")[0] for name in tensors.keys()} == {"encoder", "modality_encoders"}
    assert not {"log.jsonl", "run.yaml", "run.json"} & set(files)


def test_a_run_without_the_hub_is_not_lost(hub, tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("HF_TOKEN")
    with caplog.at_level(logging.ERROR):
        train(tmp_path / "run", "hub.push=true", "hub.model_id=user/lost")
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()
    assert "token" in caplog.text and "d2v publish" in caplog.text
    assert "user/lost" not in hub.repositories


def test_probes_and_pictures_that_came_later_are_in_the_card(run, hub):
    (run / "probe_digits.json").write_text(json.dumps(PROBE) + "\n")
    (run / "curves.png").write_bytes(b"\x89PNG")
    made = publish_checkpoint(run, "user/later", weights="teacher")
    results = section(made.card, "Results")
    assert "| vision, `digits`, 364 test samples | this model | 96.1 | 87.0 | 85.5 ± 0.4 |" in results
    assert "| random weights | 84.6 |" in results and "| pixels | 95.3 |" in results
    assert "with the weights of the student" in results and "somewhere" not in made.card
    assert "![Curves of the run](curves.png)" in section(made.card, "Loss")
    assert hub.files("user/later")["curves.png"] == b"\x89PNG"


def test_a_card_that_was_edited_is_kept(run, hub):
    (run / "final" / "README.md").write_text("---\nlicense: mit\n---\n\n# My words\n")
    made = publish_checkpoint(run / "final", "user/edited")
    assert made.card.endswith("---\n\n# My words\n") and made.license == "mit"
    with pytest.raises(ValueError, match="not changed"):
        publish_checkpoint(run, "user/edited", probes=[run / "probe.json"])


def test_a_report_that_is_none_is_named(run, tmp_path):
    (tmp_path / "report.json").write_text('{"accuracy": 1}\n')
    with pytest.raises(ValueError, match="report.json.*recipes/probe.py"):
        publish_checkpoint(run, "user/x", probes=[tmp_path / "report.json"], dry_run=True)


def test_the_licence_follows_the_weights_from_run_to_run(run, tmp_path):
    source = tmp_path / "converted"
    source.mkdir()
    (source / "README.md").write_text(model_card(tiny_config(), "Data2VecModel", "converted", license="cc-by-nc-4.0"))
    (run / "run.yaml").write_text((run / "run.yaml").read_text().replace("init_from: null", f"init_from: {source}"))
    (run / "final" / "README.md").unlink()
    for place in (run, run / "final", run / "checkpoints" / "step_00000003"):
        assert inherited_license(str(place)) == "cc-by-nc-4.0", place
    made = publish_checkpoint(run, "me/continued", dry_run=True)
    assert made.license == "cc-by-nc-4.0"
    with pytest.raises(ValueError, match="commercial"):
        publish_checkpoint(run, "me/continued", license="mit", dry_run=True)
    assert inherited_license(None) is None and inherited_license(str(tmp_path)) is None


def test_a_start_of_unknown_licence_asks_for_one(run, tmp_path):
    text = (run / "run.yaml").read_text().replace("init_from: null", f"init_from: {tmp_path}")
    (run / "run.yaml").write_text(text)
    (run / "final" / "README.md").unlink()
    with pytest.raises(ValueError, match="licence"):
        publish_checkpoint(run, "me/x", dry_run=True)
    assert publish_checkpoint(run, "me/x", license="mit", dry_run=True).license == "mit"


def test_trainer_pushes_heads_with_code_and_licence(hub, tmp_path):
    source = tmp_path / "source"
    Data2VecModel(tiny_config("text")).save_pretrained(source)
    (source / "README.md").write_text(
        model_card(tiny_config("text"), "Data2VecModel", "source", license="cc-by-nc-4.0")
    )
    trainer = make_trainer(tmp_path / "tuned", max_steps=1, push_to_hub=True, hub_model_id="user/tuned")
    trainer.card = {"finetuned_from": str(source), "tasks": "text-classification", "dataset": "glue"}
    finetune(trainer)
    files = hub.files("user/tuned")
    assert {"model.safetensors", "heads_text.py", "pushing.py", "README.md"} <= set(files)
    assert license_in(files["README.md"].decode()) == "cc-by-nc-4.0"
    made = publish_checkpoint(tmp_path / "tuned", "user/tuned2")
    assert made.license == "cc-by-nc-4.0" and 'pipeline("text-classification", "user/tuned2"' in made.card
    assert "training_args.bin" not in made.files and json.loads(hub.files("user/tuned2")["config.json"])[
        "architectures"
    ] == ["Data2VecForSequenceClassification"]


def test_a_licence_is_chosen_before_the_training(hub, tmp_path):
    with pytest.raises(OptionError, match="hub.push needs a licence.*hub.license"):
        train(tmp_path / "run", "hub.push=true", "hub.license=null")
    trainer = make_trainer(tmp_path / "tuned", push_to_hub=True)
    with pytest.raises(ValueError, match="--push_to_hub needs a licence.*--hub_license"):
        finetune(trainer)
    assert trainer.state.global_step == 0
