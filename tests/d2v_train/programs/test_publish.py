"""Publishing runs: the card made from a run's record, uploads at the end of training, the command."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from accelerate.state import AcceleratorState, GradientState
from finetuning_example import make_trainer
from finetuning_example import run as finetune
from hub_server import Fault, HubServer
from huggingface_hub import ModelCard
from model_factory import tiny_config
from safetensors import safe_open

from d2v_train.programs import pretrain, publish
from d2v_train.publishing.hub import publish_checkpoint
from d2v_train.publishing.run_card import inherited_license, run_card
from d2v_train.runs.record import code_commit, read_record
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


def train(folder, *options):
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        pretrain.run_program(
            ["tiny_vision", f"output_dir={folder}", "max_steps=3", "logging.every=1", "cpu=true", *options]
        )
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    return folder


@pytest.fixture(scope="module")
def shared_hub():
    with HubServer() as server:
        yield server


@pytest.fixture
def hub(shared_hub, monkeypatch):
    """A Hub that this process uses; each test has repositories of its own names."""
    shared_hub.connect(monkeypatch)
    return shared_hub


@pytest.fixture
def empty_hub(monkeypatch):
    """One that has no object yet, so that all of them are sent."""
    with HubServer() as server:
        server.connect(monkeypatch)
        yield server


@pytest.fixture(scope="module")
def finished(shared_hub, tmp_path_factory):
    """A run that was uploaded when it ended."""
    with pytest.MonkeyPatch.context() as patch:
        shared_hub.connect(patch)
        return train(tmp_path_factory.mktemp("runs") / "digits", "hub.push=true", "seed=5")


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the run."""
    return shutil.copytree(finished, tmp_path / "digits")


def section(card, heading):
    return card.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]


# -- the end of pretraining


def test_pretraining_ends_with_the_encoder_on_the_hub(finished, hub, tmp_path):
    files = hub.files("user/digits")
    assert hub.repositories["user/digits"].messages[-1] == "Upload pretrained data2vec model"
    assert {"processor_config.json", "modeling_data2vec.py", "README.md"} <= set(files)
    path = tmp_path / "model.safetensors"
    path.write_bytes(files["model.safetensors"])
    with safe_open(path, "pt") as tensors:
        assert {name.split(".")[0] for name in tensors.keys()} == {"encoder", "modality_encoders"}
    assert not {"log.jsonl", "run.yaml", "run.json"} & set(files)


def test_the_card_tells_how_the_model_was_made(finished, hub):
    card = hub.files("user/digits")["README.md"].decode()
    assert 'AutoModel.from_pretrained("user/digits", trust_remote_code=True)' in card
    assert "| vision | `built-in data` |" in section(card, "Training data")
    training = section(card, "Training")
    assert "| steps | 3 |" in training and "| seed | 5 |" in training and "random weights" in training
    assert "| samples in the data | 1,433 (vision) |" in training
    assert re.search(r"\| time \| \d+ s \|\n\| speed \| .* samples/s, \d+% of", training)
    losses = [json.loads(line)["vision/loss"] for line in (finished / "log.jsonl").read_text().splitlines()]
    rows = section(card, "Loss").splitlines()
    assert [row.split(" | ")[1] for row in rows if row[:3] in ("| 1", "| 2", "| 3")] == [f"{x:.4g}" for x in losses]
    code = section(card, "Code")
    (entry,) = read_record(finished)["starts"]
    for name in ("commit", "torch", "transformers", "python", "device"):
        assert entry[name] is None or f"| {name} | {entry[name]} |" in code
    assert "    patch_size: " in code and "## Results" not in card
    assert license_in(card) == "apache-2.0"


def test_the_card_lies_beside_the_exported_model(finished):
    card = (finished / "final" / "README.md").read_text()
    assert 'AutoModelForPreTraining.from_pretrained("digits"' in card and license_in(card) == "apache-2.0"


def test_a_run_without_the_hub_is_not_lost(hub, tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("HF_TOKEN")
    with caplog.at_level(logging.ERROR):
        train(tmp_path / "run", "hub.push=true", "hub.model_id=user/lost")
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()
    assert "token" in caplog.text and "d2v publish" in caplog.text
    assert "user/lost" not in hub.repositories


def test_the_record_names_the_commit(finished):
    (entry,) = read_record(finished)["starts"]
    assert (entry["commit"] is None) == (code_commit() is None)
    assert entry["commit"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", entry["commit"])
    assert entry["processes"] == 1 and entry["device"].startswith("cpu")


# -- publishing a run


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
    with pytest.raises(ValueError, match="kept"):
        publish_checkpoint(run, "user/edited", probes=[run / "probe.json"])


def test_a_report_that_is_none_is_named(run, tmp_path):
    (tmp_path / "report.json").write_text('{"accuracy": 1}\n')
    with pytest.raises(ValueError, match="report.json.*recipes/probe.py"):
        publish_checkpoint(run, "user/x", probes=[tmp_path / "report.json"], dry_run=True)


def change_options(run, data, start):
    options = yaml.safe_load((run / "run.yaml").read_text())
    options["data"]["vision"], options["init_from"] = data, start
    (run / "run.yaml").write_text(yaml.safe_dump(options))


def test_the_card_tells_the_course_of_the_learning_rate(run):
    path = run / "run.yaml"
    options = yaml.safe_load(path.read_text())
    assert "then cosine to 0" in run_card(run, tiny_config("vision"), "me/x")
    options["optim"] |= {"hold": 0.4, "curve": "exponential", "min_lr": 1e-5}
    path.write_text(yaml.safe_dump(options))
    assert ", held 0.4, then exponential to 1e-05" in run_card(run, tiny_config("vision"), "me/x")


def test_paths_of_the_machine_stay_out_of_the_card(run):
    change_options(run, "/data/mine/digits", "/models/old/final")
    card = run_card(run, tiny_config("vision"), "me/x")
    assert "/data" not in card and "/models" not in card and str(run.parent) not in card
    assert "| vision | `digits` |" in card and "| started from | `final` |" in card


def test_data_and_start_on_the_hub_are_linked(run):
    change_options(run, "user/pictures:small", "user/start")
    card = ModelCard(run_card(run, tiny_config("vision"), "me/x", license="mit"))
    assert card.data.datasets == ["user/pictures"] and card.data.base_model == "user/start"


# -- licences along a chain of runs


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
    assert inherited_license(None) == "apache-2.0" and inherited_license(str(tmp_path)) is None


def test_a_start_of_unknown_licence_asks_for_one(run, tmp_path):
    text = (run / "run.yaml").read_text().replace("init_from: null", f"init_from: {tmp_path}")
    (run / "run.yaml").write_text(text)
    (run / "final" / "README.md").unlink()
    with pytest.raises(ValueError, match="licence"):
        publish_checkpoint(run, "me/x", dry_run=True)
    assert publish_checkpoint(run, "me/x", license="mit", dry_run=True).license == "mit"


# -- fine-tuning


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


# -- the command


def test_dry_run_of_the_command(run, capsys):
    publish.run_program([str(run), "me/digits", "--dry_run"])
    out = capsys.readouterr().out
    assert "model.safetensors" in out and "## Training data" in out
    assert out.endswith("Would be published: me/digits (apache-2.0)\n")


def test_the_command_goes_on_after_an_interruption(run, empty_hub, project_root, capsys):
    """An interrupted command says so in a sentence; the same command again completes the upload."""
    empty_hub.faults.append(Fault("PUT /lfs/", [0, 403]))
    program = str(project_root / "recipes" / "publish.py")
    done = subprocess.run(
        [sys.executable, program, str(run), "user/twice", "--commit_message", "Twice"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **empty_hub.environment(), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "(403)" in done.stderr
    assert set(empty_hub.files("user/twice")) == {".gitattributes"}
    made = publish.run_program([str(run), "user/twice", "--commit_message", "Twice"])
    assert empty_hub.repositories["user/twice"].messages == ["initial commit", "Twice"]
    assert set(empty_hub.files("user/twice")) == {".gitattributes", *made.files}
    assert f"Published: {empty_hub.url}/user/twice/commit/" in capsys.readouterr().out


def test_options_of_the_command_reach_the_hub(run, hub, tmp_path):
    (tmp_path / "card.md").write_text("---\nlicense: mit\n---\n\n# By hand\n")
    arguments = ["--private", "--weights", "all", "--card", str(tmp_path / "card.md"), "--token", hub.token]
    publish.run_program([str(run), "options", *arguments])
    repository = hub.repositories["user/options"]
    assert repository.private and b"# By hand" in hub.files("user/options")["README.md"]
    publish.run_program([str(run), "user/options", "--revision", "next", "--license", "mit"])
    publish.run_program([str(run), "user/options", "--create_pr", "--license", "mit"])
    assert set(repository.refs) == {"main", "next", "refs/pr/1"}
