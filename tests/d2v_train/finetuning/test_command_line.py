"""Options of the fine-tuning programs: from a file and the command line, mistakes in one sentence."""

import json
import os

import pytest

from d2v_train.finetuning.arguments import FinetuningArguments, ModelArguments
from d2v_train.finetuning.command_line import check_folder, launch, parse_arguments, with_options_of_file


def test_options_come_from_a_file_and_the_command_line_wins(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text(
        f"model_name_or_path: some/model\noutput_dir: {tmp_path}\nlearning_rate: 5e-1\nlayer_decay: 0.7\n"
        "do_train: true\ndo_eval: false\nlr_scheduler_kwargs: {power: 2.0}\nlabel_names: [labels, more]\n"
    )
    model_args, args = parse_arguments(
        ModelArguments, FinetuningArguments, argv=[str(path), "--learning_rate", "0.25"]
    )
    assert model_args.model_name_or_path == "some/model"
    assert (args.learning_rate, args.layer_decay, args.do_train, args.do_eval) == (0.25, 0.7, True, False)
    assert (args.lr_scheduler_kwargs, args.label_names) == ({"power": 2.0}, ["labels", "more"])


@pytest.mark.parametrize("unknown", ["--learning_rat", "--layer-decya"])
def test_an_unknown_option_is_one_line_that_names_the_nearest(tmp_path, capsys, unknown):
    # Named even where a misspelt option leaves another one missing.
    with pytest.raises(SystemExit) as stop:
        parse_arguments(FinetuningArguments, argv=[unknown, "1"])
    (message,) = capsys.readouterr().err.strip().splitlines()
    nearest = {"--learning_rat": "--learning_rate", "--layer-decya": "--layer_decay"}[unknown]
    assert stop.value.code == 2 and unknown in message
    assert nearest in message or nearest.replace("_", "-") in message


def test_a_file_of_the_package_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "--mask_time_prob" in with_options_of_file(["ctc_10m.yaml", "--seed", "1"])
    (tmp_path / "ctc_10m.yaml").write_text("seed: 2")
    assert with_options_of_file(["ctc_10m.yaml", "--seed", "1"]) == ["--seed", "2", "--seed", "1"]


def test_a_file_without_options_is_named(tmp_path, capsys):
    path = tmp_path / "options.yaml"
    path.write_text("- learning_rate\n")
    torn = tmp_path / "torn.yaml"
    torn.write_text("seeds: [1\nlearning_rate")
    for argument in (path, torn, tmp_path / "missing.yaml"):
        with pytest.raises(SystemExit):
            parse_arguments(FinetuningArguments, argv=[str(argument)])
        assert argument.name in capsys.readouterr().err


def test_a_folder_that_cannot_be_one_is_found_at_once(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match="file is a file"):
            check_folder(folder)
    check_folder(tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write everywhere
    with pytest.raises(ValueError, match="read-only"):
        check_folder(tmp_path / "new" / "run")


def test_results_are_one_line_and_mistakes_one_sentence(capsys):
    assert launch(lambda argv: {"eval_loss": float(argv[0])}, ["1.0"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"eval_loss": 1.0}

    def fails(argv):
        raise ValueError("What is wrong.")

    assert launch(fails, []) == "ValueError: What is wrong."
    with pytest.raises(ValueError, match="^What is wrong.$"):
        launch(fails, ["--log_level", "debug"])
