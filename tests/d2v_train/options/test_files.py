"""Options from files and the command line: overrides, unknown keys, files that cannot be read."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from d2v_train.options.errors import OptionError
from d2v_train.options.files import (
    as_overrides,
    build_options,
    build_section,
    find_config,
    load_options,
    read_yaml,
    save_options,
)


def test_overrides_reach_into_sections_and_are_read_as_yaml():
    loaded = load_options(
        "tiny_vision",
        [
            "optim.lr=3e-4",
            "optim.betas=[0.8, 0.9]",
            "vision.transform.crop_scale=[0.4, 1.0]",
            "data.vision=a/b=c",
            "model.vision_config.num_masks=2",
            "mixed_precision=no",
            "optim.warmup=5",
            "logging.report_to=tensorboard",
        ],
    )
    assert loaded.optim.lr == 3e-4 and loaded.optim.betas == [0.8, 0.9] and loaded.warmup_steps == 5
    assert loaded.vision.transform["crop_scale"] == [0.4, 1.0] and loaded.data.vision == "a/b=c"
    assert loaded.model["vision_config"]["num_masks"] == 2
    assert loaded.model["vision_config"]["patch_size"] == 1, "the file's other fields of the section stay"
    assert loaded.mixed_precision == "no" and loaded.logging.report_to == ["tensorboard"]


def test_a_preset_of_the_command_line_replaces_a_model_of_a_file(caplog):
    loaded = load_options("tiny_vision", ["model.ema_decay=0.5", "model.preset=vision-base"])
    assert loaded.model == {"preset": "vision-base", "ema_decay": 0.5}
    assert "replaces" in caplog.text and "vision_config.image_size" in caplog.text


def test_changes_of_a_file_to_its_preset_stay_beside_another_and_are_named(caplog):
    loaded = load_options("audio_base_1gpu", ["model.preset=audio-large"])
    assert loaded.model["preset"] == "audio-large" and loaded.model["ema_decay"] == 0.999
    assert "ema_decay" in caplog.text and "model=null" in caplog.text


@pytest.mark.parametrize(
    "overrides, kept",
    [
        (["model=null", "model.preset=audio-large"], {"preset": "audio-large"}),
        (["model.preset=null"], {"preset": None, "ema_decay": 0.999}),
        (["model.ema_decay=0.5"], {"preset": "audio-base", "ema_decay": 0.5}),
    ],
)
def test_where_no_preset_meets_fields_of_a_file_nothing_is_said(overrides, kept, caplog):
    loaded = load_options("audio_base_1gpu", overrides)
    assert loaded.model.items() >= kept.items() and not caplog.text


def test_a_modality_can_be_added_and_left_out_on_the_command_line():
    assert load_options("tiny_joint", ["text=null"]).modalities == ["vision", "audio"]
    assert load_options("tiny_vision", ["audio.batch_size=2"]).modalities == ["vision", "audio"]


@pytest.mark.parametrize(
    "override, nearest",
    [
        ("max_step=3", "max_steps"),
        ("optim.weight_decy=1", "optim.weight_decay"),
        ("vision.batchsize=1", "vision.batch_size"),
        ("model.hiden_size=1", "model.hidden_size"),
        ("model.layers=1", "model.num_hidden_layers"),
        ("log_every=1", "logging.every"),
        ("checkpoint_every=1", "checkpoints.every"),
        ("push_to_hub=true", "hub.push"),
        ("optim.learning_rate=1", "optim.lr"),
        ("batch_sizes=4", "vision.batch_size"),
        ("model.vision_config.mask_probability=0.5", "model.vision_config.mask_prob"),
    ],
)
def test_unknown_key_names_the_nearest_one(override, nearest):
    with pytest.raises(OptionError, match="Unknown") as error:
        load_options("tiny_vision", [override])
    assert f"'{nearest}'" in str(error.value)


def test_unknown_configuration_lists_those_that_exist():
    with pytest.raises(OptionError, match="tiny_joint"):
        load_options("tiny_joined")


def test_unreadable_yaml_is_explained(tmp_path: Path):
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"output_dir: caf\xe9")
    with pytest.raises(OptionError, match="latin.yaml.*UTF-8"):
        load_options(path)
    with pytest.raises(OptionError, match="cannot be read"):
        read_yaml(tmp_path)


def test_saved_options_are_read_back_equal(tmp_path: Path):
    before = load_options("tiny_joint", ["optim.lr=1e-7"])
    save_options(before, tmp_path / "run.yaml")
    assert build_options(read_yaml(tmp_path / "run.yaml")) == before


def test_only_modalities_of_the_run_are_proposed():
    for name, other in (("vision", "audio"), ("audio", "vision")):
        with pytest.raises(OptionError, match=f"'{name}.micro_batch_tokens'"):
            load_options(f"tiny_{name}", ["micro_batch_token=3"])
        with pytest.raises(OptionError, match=f"'model.{other}_config.num_masks'"):
            load_options(f"tiny_{name}", [f"model.{other}_config.masks=3", f"{other}.batch_size=1"])


def test_any_dataclass_may_be_a_section():
    @dataclass
    class Section:
        size: int | None = None
        names: list[str] = field(default_factory=list)

    assert build_section(Section, {"size": 3, "names": "one"}, "entry.") == Section(3, ["one"])
    with pytest.raises(OptionError, match="'entry.sizes'.*'entry.size'"):
        build_section(Section, {"sizes": 3}, "entry.")
    with pytest.raises(OptionError, match="entry.size is 'many', which is not an int"):
        build_section(Section, {"size": "many"}, "entry.")


def test_only_switches_need_no_value():
    assert as_overrides(["--dry_run", "--cpu", "max_steps=3"]) == ["dry_run=true", "cpu=true", "max_steps=3"]
    for arguments in (["--output_dir"], ["--output_dir", "--max_steps", "3"], ["--backbone", "cpu=true"]):
        with pytest.raises(OptionError, match=f"{arguments[0]} has no value"):
            as_overrides(arguments)


@pytest.mark.parametrize(
    "name, words",
    [
        ("tiny_jont", "'tiny_joint'"),
        ("elsewhere/tiny_joint.yaml", "'tiny_joint'"),
        ("output_dir=x", "before all options"),
        ("ctc_10m", "fine-tuning"),
    ],
)
def test_a_wrong_configuration_says_what_may_be_meant(name, words):
    with pytest.raises(OptionError, match=words):
        load_options(name)


def test_a_configuration_is_found_without_its_suffix(tmp_path):
    (tmp_path / "mine.yaml").write_text("vision: {}")
    assert find_config(tmp_path / "mine") == tmp_path / "mine.yaml"
