"""A folder stands for the same model in every program."""

import pytest

from modeling_d2v.sharing.places import model_place


def add(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("{}")
    return folder


def test_a_model_and_a_finished_run_stand_for_themselves(tmp_path):
    run = tmp_path / "run"
    final = add(run / "final", "config.json")
    add(run / "checkpoints" / "step_00000004", "config.json", "manifest.json")
    assert model_place(str(run)) == model_place(f"{run}/") == model_place(str(final)) == str(final)
    finetuned = add(tmp_path / "classes", "config.json")
    add(finetuned / "checkpoint-4", "config.json", "manifest.json")
    assert model_place(str(finetuned)) == str(finetuned)
    plain = add(run / "final_backbone", "config.json")
    assert model_place(str(run)) == model_place(str(final)) == model_place(str(plain)) == str(plain)


@pytest.mark.parametrize(
    "names", [("checkpoints/step_00000009", "checkpoints/step_00000010"), ("checkpoint-9", "checkpoint-10")]
)
def test_a_run_that_is_not_finished_stands_for_its_newest_complete_checkpoint(tmp_path, caplog, names):
    for name in names:
        add(tmp_path / name, "config.json", "manifest.json")
    add(tmp_path / f"{names[0][:-1]}77", "config.json")
    assert model_place(str(tmp_path)) == str(tmp_path / names[1])
    assert "is not finished" in caplog.text


def test_names_on_the_hub_are_left_alone_and_missing_folders_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert model_place("user/name") == "user/name" and model_place("roberta-base") == "roberta-base"
    add(tmp_path / "empty", "notes.txt")
    for name in ("empty", "./none", "~/none-such", "a/b/c", str(tmp_path / "none")):
        with pytest.raises(FileNotFoundError, match="There is no model in"):
            model_place(name)
