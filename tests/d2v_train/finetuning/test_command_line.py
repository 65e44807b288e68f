"""The command line of the fine-tuning programs: one dialect, help from the fields, configurations, old names."""

import ast
import dataclasses
import json
import os
import re
from pathlib import Path

import pytest

from d2v_train.finetuning.arguments import FinetuningArguments, ModelArguments, option, with_defaults
from d2v_train.finetuning.command_line import (
    OWN_GROUPS,
    TRAINING_GROUPS,
    check_folder,
    launch,
    parse_arguments,
    with_options_of_file,
)
from d2v_train.finetuning.images.arguments import AugmentationArguments, ImageDataArguments
from d2v_train.finetuning.speech.arguments import CTCDataArguments
from d2v_train.finetuning.texts.arguments import TextDataArguments
from d2v_train.programs import (
    finetune_audio_classification,
    finetune_ctc,
    finetune_glue,
    finetune_image_classification,
    probe,
)
from d2v_train.programs.finetune_audio_classification import (
    ClassDataArguments,
    ClassifierArguments,
    ClassTrainingArguments,
)
from d2v_train.programs.finetune_ctc import CTCModelArguments, CTCTrainingArguments
from d2v_train.programs.finetune_glue import GlueArguments
from d2v_train.programs.finetune_image_classification import ImageFinetuningArguments


RECIPES = Path(__file__).resolve().parents[3] / "recipes"
PROGRAMS = {
    finetune_audio_classification: (ClassifierArguments, ClassDataArguments, ClassTrainingArguments),
    finetune_ctc: (CTCModelArguments, CTCDataArguments, CTCTrainingArguments),
    finetune_glue: (ModelArguments, TextDataArguments, GlueArguments),
    finetune_image_classification: (
        ModelArguments,
        ImageDataArguments,
        AugmentationArguments,
        ImageFinetuningArguments,
    ),
}
each_program = pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__.split(".")[-1])
GIVEN = ["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "o", "--use_cpu"]


def fields_of(program) -> dict[str, dataclasses.Field]:
    return {field.name: field for kind in PROGRAMS[program] for field in dataclasses.fields(kind) if field.init}


def help_of(program, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        program.main(["--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


@each_program
def test_help_lists_every_option_once_with_its_default_and_its_line(program, capsys):
    printed = help_of(program, capsys)
    entries = dict(re.findall(r"^  --(\w+)\b(.*(?:\n {30}.*)*)", printed, re.M))
    fields = fields_of(program)
    assert list(entries) and len(re.findall(r"^  --", printed, re.M)) == len(entries)
    assert entries.keys() == fields.keys()
    for name, field in fields.items():
        entry = " ".join(entries[name].split())
        line = " ".join(field.metadata.get("help", "").replace("%%", "%").split())
        # Long words are broken at the edge of the text.
        assert line.replace(" ", "") in entry.replace(" ", ""), name
        default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
        if isinstance(default, int | float):
            assert f"(default:{default})" in entry.replace(" ", ""), name


@each_program
def test_help_begins_with_our_own_options(program, capsys):
    printed = help_of(program, capsys)
    assert printed.startswith(program.__doc__.strip()[:60])
    found = re.findall(r"^(\w.*):$(?=\n  --)", printed, re.M)
    assert found == [group for group in (*OWN_GROUPS, *TRAINING_GROUPS) if group in found]
    assert {"model", "data", "this task", "speed and memory", "several devices"} <= set(found)


def test_the_programs_speak_one_dialect():
    shared = {"dataset_name", "dataset_config_name", "train_split", "validation_split", "test_split"}
    shared |= {"train_val_split", "max_train_samples", "max_eval_samples", "max_predict_samples"}
    known = {action.dest for action in probe.build_parser()._actions}
    assert {"train_split", "test_split", "label_column", "group_column"} <= known
    for program, classes in PROGRAMS.items():
        names = {field.name for field in dataclasses.fields(classes[1])}
        assert shared <= names, program
        columns = {name for name in names if "column" in name or "split" in name} - shared
        kinds = {"text", "image", "audio", "label", "group"}
        assert columns <= {f"{kind}_column" for kind in kinds}, program


@pytest.mark.parametrize(
    "program, unknown, nearest",
    [
        (finetune_ctc, "--train_split_name", "--train_split"),
        (finetune_ctc, "--eval_split_name", "--validation_split"),
        (finetune_ctc, "--text_column_name", "--text_column"),
        (finetune_ctc, "--dataset", "--dataset_name"),
        (finetune_audio_classification, "--test_split_name", "--test_split"),
        (finetune_audio_classification, "--audio-column-name=sound", "--audio_column"),
        (finetune_audio_classification, "--label_column_name", "--label_column"),
        (finetune_image_classification, "--image_column_name", "--image_column"),
        (finetune_image_classification, "--data", "--dataset_name"),
        (finetune_glue, "--text_column_names", "--text_column"),
        (finetune_glue, "--model", "--model_name_or_path"),
        (finetune_glue, "--max_sequence_length", "--max_seq_length"),
        (finetune_glue, "--dataset", "--dataset_name"),
        (finetune_glue, "--modle", "--model_name_or_path"),
        (finetune_glue, "--lr", "--learning_rate"),
        (finetune_glue, "--evaluation_strategy", "--eval_strategy"),
        (finetune_glue, "--no_cuda", "--use_cpu"),
        (finetune_glue, "--per_gpu_train_batch_size", "--per_device_train_batch_size"),
        (finetune_glue, "--warmup_ratio=0.1", "--warmup_steps"),
        (finetune_glue, "--push_to_hub_model_id", "--hub_model_id"),
    ],
)
def test_an_option_that_is_not_there_finds_the_one_that_is_meant(program, unknown, nearest, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(*PROGRAMS[program], argv=[*GIVEN, unknown, "x"])
    (message,) = capsys.readouterr().err.splitlines()
    assert message.endswith(f"no option {unknown.partition('=')[0]}. The nearest valid one is {nearest}.")


def test_a_configuration_has_a_name(capsys):
    for name in ("ctc_10m", "ctc_10m.yaml", str(RECIPES / "d2v_train" / "configs" / "ctc_10m.yaml")):
        model, _, args = parse_arguments(*PROGRAMS[finetune_ctc], argv=[name, *GIVEN, "--learning_rate", "1e-3"])
        assert (args.max_steps, args.learning_rate, model.mask_feature_prob) == (13_000, 1e-3, 0.25)
    with pytest.raises(SystemExit):
        parse_arguments(*PROGRAMS[finetune_ctc], argv=["ctc_10", *GIVEN])
    message = capsys.readouterr().err
    assert "no configuration 'ctc_10'" in message and "ctc_10h, ctc_10m, ctc_1h, ctc_960h" in message
    assert "audio_classification_tiny" not in message and "tiny_vision" not in message


def test_other_defaults_keep_the_help_of_an_option():
    @with_defaults(learning_rate=0.5, layer_decay=0.7)
    class Arguments(FinetuningArguments):
        seed: int = option(7, "Of this run.")

    fields = {field.name: field for field in dataclasses.fields(Arguments)}
    before = {field.name: field for field in dataclasses.fields(FinetuningArguments)}
    assert (fields["learning_rate"].default, fields["layer_decay"].default, fields["seed"].default) == (0.5, 0.7, 7)
    assert fields["layer_decay"].metadata == before["layer_decay"].metadata and before["layer_decay"].default == 1
    assert option([1], "").default_factory() == [1]


@each_program
def test_help_waits_for_no_library_that_it_does_not_need(program):
    """Metrics, data sets and the trainer take seconds to import: they come after the options are parsed."""
    pending, seen = [Path(program.__file__)], set()
    while pending:
        path = pending.pop()
        seen.add(path)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {name.split(".")[0] for name in names} & {"evaluate", "datasets", "sklearn", "scipy"}, path
            for name in names:
                file = RECIPES.joinpath(*name.split(".")).with_suffix(".py")
                if name.startswith("d2v_train") and file.is_file() and file not in seen:
                    pending.append(file)
    assert RECIPES / "d2v_train" / "finetuning" / "run.py" not in seen


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
