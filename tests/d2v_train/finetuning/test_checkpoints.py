"""Checkpoints survive a kill at any moment, a restart does not show in the results, and no token is written."""

import pytest
from finetuning_example import SAVES, assert_same_weights, cut_off, make_trainer, weights
from hub_server import Fault, HubServer

from d2v_train.finetuning.resume import newest_checkpoint
from d2v_train.finetuning.run import run
from d2v_train.publishing.hub import publish_checkpoint
from d2v_train.support.manifest import write_manifest
from modeling_d2v.sharing.publishing import PublishingError


def computed(trainer):
    """What must be the same in the histories of two runs: all but times and speeds."""
    times = ("_runtime", "_per_second")
    return [
        {name: value for name, value in entry.items() if not name.endswith(times)}
        for entry in trainer.state.log_history
    ]


def test_the_history_of_a_run_that_is_cut_off_is_that_of_a_whole_one(tmp_path):
    # The restart is between two lines of the log, whose loss is the mean of five updates.
    options = {**SAVES, "max_steps": 14, "logging_steps": 5, "do_eval": True, "eval_strategy": "epoch"}
    whole = make_trainer(tmp_path / "whole", **options)
    results = run(whole)
    cut_off(make_trainer(tmp_path / "parts", **options), step=9)
    resumed = make_trainer(tmp_path / "parts", **options)
    repeated = run(resumed)
    assert computed(resumed) == computed(whole)
    assert repeated["train_loss"] == results["train_loss"] and repeated["eval_loss"] == results["eval_loss"]
    assert repeated["train_runtime"] > 0


@pytest.mark.parametrize("options", [{"max_steps": 8}, {"max_steps": 8, "weights_ema_decay": 0.5}])
def test_a_run_that_is_killed_after_its_last_checkpoint_trains_no_further(tmp_path, options):
    options = {**SAVES, **options}
    whole = make_trainer(tmp_path / "whole", **options)
    results = run(whole)
    killed = make_trainer(tmp_path / "killed", **options)
    run(killed)
    for _attempt in range(2):
        # The state of the finished run is written last.
        (tmp_path / "killed" / "trainer_state.json").unlink()
        again = make_trainer(tmp_path / "killed", **options)
        repeated = run(again)
        assert again.state.global_step == 8 and repeated["train_loss"] == results["train_loss"]
        assert_same_weights(weights(again.model), weights(whole.model))
        assert computed(again) == computed(whole)
    assert "| updates | 8 |" in (tmp_path / "killed" / "README.md").read_text()


def test_older_checkpoints_are_removed_only_when_a_newer_one_is_complete(tmp_path, monkeypatch):
    options = {**SAVES, "max_steps": 6, "save_total_limit": 1}

    def fail(folder, step, files=None):
        if step == 4:
            raise KeyboardInterrupt
        write_manifest(folder, step, files)

    monkeypatch.setattr("d2v_train.finetuning.checkpoints.write_manifest", fail)
    with pytest.raises(KeyboardInterrupt):
        run(make_trainer(tmp_path, **options))
    assert newest_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    monkeypatch.undo()
    run(make_trainer(tmp_path, **options))
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-6"]


def test_the_finished_model_is_uploaded_once_with_its_card(tmp_path, monkeypatch):
    with HubServer() as hub:
        hub.connect(monkeypatch)
        trainer = make_trainer(tmp_path / "run", max_steps=2, do_eval=True, push_to_hub=True, hub_model_id="tiny")
        trainer.card = {"tasks": "text-classification"}
        results = run(trainer)
        files = hub.files("user/tiny")
        made = publish_checkpoint(tmp_path / "run", "user/again", dry_run=True)
    assert hub.repositories["user/tiny"].messages[1:] == [hub.repositories["user/tiny"].messages[-1]]
    assert set(files) - {".gitattributes"} == set(made.files)
    assert {"model.safetensors", "config.json", "heads_text.py"} <= set(files)
    card = files["README.md"].decode()
    assert f"| eval_loss | {results['eval_loss']:.4g} |" in card and "# tiny" in card
    assert 'pipeline("text-classification", "user/tiny")' in card


@pytest.mark.parametrize("given", ["option", "variable", "login"])
def test_no_token_and_no_path_leaves_the_house(tmp_path, monkeypatch, given, capfd, caplog):
    with HubServer() as hub:
        hub.connect(monkeypatch)
        if given != "variable":
            monkeypatch.delenv("HF_TOKEN")
        if given == "login":
            (tmp_path / "stored").write_text(hub.token)
            monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "stored"))
        options = {"hub_token": hub.token} if given == "option" else {}
        trainer = make_trainer(
            tmp_path / "run", max_steps=4, save_strategy="steps", save_steps=2, push_to_hub=True, **options
        )
        run(trainer)
        uploaded = hub.files("user/run")
    assert "model.safetensors" in uploaded
    written = {str(path): path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert any("checkpoint-4" in name for name in written)
    said = {"output": "".join(capfd.readouterr()).encode(), "log": caplog.text.encode()}
    assert [name for name, content in {**written, **uploaded, **said}.items() if hub.token.encode() in content] == []
    assert [name for name, content in uploaded.items() if str(tmp_path).encode() in content] == []


def test_a_refused_token_ends_the_run_before_the_training(tmp_path, monkeypatch):
    with HubServer() as hub:
        hub.connect(monkeypatch)
        with pytest.raises(PublishingError, match="token"):
            make_trainer(tmp_path, push_to_hub=True, hub_token="hf_wrong")


def test_a_failed_upload_leaves_the_finished_model_and_the_command(tmp_path, monkeypatch, caplog):
    with HubServer() as hub:
        hub.connect(monkeypatch)
        hub.faults.append(Fault("POST .*/commit/", [403]))
        run(make_trainer(tmp_path / "run", max_steps=1, push_to_hub=True))
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert f"d2v publish {tmp_path / 'run'} user/run" in caplog.text
