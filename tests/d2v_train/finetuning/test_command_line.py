"""The command line of the fine-tuning programs: one dialect, help from the fields, configurations, old names."""

import dataclasses
import json
import os
from importlib import import_module
from pathlib import Path

import pytest

from d2v_train.finetuning.arguments import FinetuningArguments, ModelArguments, option, with_defaults
from d2v_train.finetuning.command_line import (
    check_folder,
    launch,
    parse_arguments,
    with_options_of_file,
)
from d2v_train.programs import (
    finetune_audio_classification,
    finetune_ctc,
    finetune_glue,
    finetune_image_classification,
    probe,
)


RECIPES = Path(__file__).resolve().parents[3] / "recipes"
PROGRAMS = {
    program: tuple(
        getattr(import_module(place.split(":")[0]), place.split(":")[1]) for place in program.PROGRAM.classes
    )
    for program in (finetune_audio_classification, finetune_ctc, finetune_glue, finetune_image_classification)
}
each_program = pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__.split(".")[-1])
GIVEN = ["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "o", "--use_cpu"]


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


EVERY_PROGRAM = """
    --per_device_train_batch_size -1; --per_device_train_batch_size 0; --per_device_eval_batch_size 0
    --gradient_accumulation_steps 0; --learning_rate -1e-3; --learning_rate nan; --learning_rate inf
    --weight_decay -0.1; --adam_beta1 1.5; --adam_beta2 1; --adam_epsilon -1; --max_grad_norm -1; --warmup_steps -1
    --seed -1; --data_seed -1; --dataloader_num_workers -2; --dataloader_prefetch_factor 0; --max_steps 0
    --max_steps -5; --num_train_epochs 0; --num_train_epochs -1; --logging_steps -1; --save_steps -1; --eval_steps -1
    --save_total_limit 0; --label_smoothing_factor 1.5; --label_smoothing_factor -0.1; --layer_decay 0
    --layer_decay 1.1; --freeze_encoder_steps -1; --tri_stage 0.5,0.6; --weights_ema_decay 1; --max_bad_fraction 1.5
    --max_bad_fraction -0.1; --max_bad_fraction nan; --early_stopping_threshold -1; --train_val_split 0
    --train_val_split 1; --max_train_samples 0; --max_eval_samples -1; --max_predict_samples 0
    --early_stopping_patience 0 --eval_strategy epoch --save_strategy epoch
"""
SPEECH = """
    --hidden_dropout 1; --attention_dropout -0.1; --activation_dropout 2; --feat_proj_dropout nan; --layerdrop 1
    --mask_time_prob 1.5; --mask_time_prob -0.1; --mask_feature_prob 1; --mask_time_length 0; --mask_feature_length -1
    --mask_time_min_masks -1; --mask_feature_min_masks -1; --early_stopping_patience 2
"""
CLASSES = """
    --train_fraction 0; --train_fraction 1.5; --threshold 0; --threshold 1; --problem_type multilabel
    --problem_type regression; --problem_type single_label_classification --threshold 0.3
    --problem_type multi_label_classification --metric_for_best_model accuracy
"""
OUT_OF_RANGE = {
    finetune_ctc: EVERY_PROGRAM + SPEECH + """
        --final_dropout 1; --ctc_loss_reduction average; --case Upper; --unit word; --language turkish
        --word_delimiter ||; --chars_to_ignore sil; --min_duration_in_seconds -1; --max_duration_in_seconds 0
        --max_duration_in_seconds nan; --max_duration_in_seconds 1 --min_duration_in_seconds 2
        --max_steps 10 --num_train_epochs 3""",
    finetune_audio_classification: EVERY_PROGRAM + SPEECH + CLASSES + """
        --classifier_proj_size 0; --max_length_seconds 0; --max_length_seconds nan
        --problem_type multi_label_classification --label_smoothing_factor 0.1""",
    finetune_image_classification: EVERY_PROGRAM + CLASSES + """
        --drop_path_rate 1; --image_size 0; --crop_pct 0; --crop_pct 1.5; --crop_scale 0.5; --crop_scale 0.9 0.1
        --crop_scale 0 1; --crop_scale 0.1 1.2; --crop_ratio 2 1; --crop_ratio -1 1; --color_jitter 2
        --randaugment_operations -1; --randaugment_magnitude 11; --randaugment_std -1; --random_erasing 1.5
        --mixup -1; --cutmix -1; --mix_probability 2; --cutmix_probability -1""",
    finetune_glue: EVERY_PROGRAM + """
        --max_seq_length 2; --dropout 1; --dropout -0.1; --learning_rates -1 1e-5; --seeds -1; --threshold 1
        --problem_type scores; --text_column a b c; --task_name imdb; --problem_type regression --threshold 0.3
        --task_name cola --problem_type regression
        --problem_type multi_label_classification --label_smoothing_factor 0.1""",
}  # fmt: skip


@each_program
def test_options_out_of_range_or_against_each_other_are_refused(program, capsys):
    """Before any data is opened or a model is loaded; every message names the option."""
    lines = [part.split() for line in OUT_OF_RANGE[program].splitlines() for part in line.split(";") if part.strip()]
    for words in lines:
        with pytest.raises(SystemExit) as end:
            program.run_program([*GIVEN, "--do_train", "--do_eval", *words])
        message = capsys.readouterr().err
        assert end.value.code == 2 and any(word in message for word in words if word.startswith("--")), (
            words,
            message,
        )
        assert message.count("\n") == 1, message


@each_program
@pytest.mark.parametrize(
    ("asked", "named", "missing"),
    [
        ("do_train", "test", "train"),
        ("do_predict", "train", "test"),
        ("do_eval", "train", "validation"),
    ],
)
def test_data_that_a_run_needs_is_named(program, asked, named, missing, capsys):
    place = "file" if program is finetune_glue else "dir"
    words = ["--model_name_or_path", "m", "--output_dir", "o", "--use_cpu", f"--{asked}", f"--{named}_{place}", "x"]
    with pytest.raises(SystemExit):
        program.run_program(words)
    message = capsys.readouterr().err
    assert f"--{asked} needs {missing} data" in message and f"--{missing}_{place}" in message


@each_program
def test_options_at_the_ends_of_their_ranges_are_taken(program):
    words = (
        "--learning_rate 0 --weight_decay 0 --max_grad_norm 0 --warmup_steps 0 --adam_beta1 0 --max_bad_fraction 1 "
        "--label_smoothing_factor 0 --layer_decay 1 --freeze_encoder_steps 0 --dataloader_num_workers 0 --seed 0"
    )
    parse_arguments(*PROGRAMS[program], argv=[*GIVEN, "--do_train", "--do_eval", *words.split()])


def test_the_old_name_of_the_case_leads_to_the_new_one(capsys):
    with pytest.raises(SystemExit):
        finetune_ctc.run_program([*GIVEN, "--do_lower_case"])
    assert "The nearest valid one is --case." in capsys.readouterr().err
