"""Options: every key checked, in YAML and on the command line."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from d2v_train.options.errors import OptionError, at_least
from d2v_train.options.files import (
    build_options,
    build_section,
    load_options,
    pretraining_configs,
    read_yaml,
    save_options,
)


def options(**changes):
    return build_options({"output_dir": "run", "max_steps": 100, "vision": {"batch_size": 4}, **changes})


# The others are options of the fine-tuning programs, read in the tests of those.
@pytest.mark.parametrize("path", pretraining_configs(), ids=lambda path: path.stem)
def test_every_configuration_of_pretraining_is_valid(path):
    loaded = load_options(path.stem)
    assert loaded.modalities and loaded.output_dir == f"runs/{path.stem}"


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


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["max_steps"], "key=value"),
        (["max_steps=many"], "max_steps.*'many'"),
        (["max_steps=1.5"], "max_steps.*int"),
        (["compile=3"], "compile.*bool"),
        (["max_steps=0"], "max_steps"),
        (["schedule=random"], "alternate"),
        (["mixed_precision=fp8"], "bf16.*fp16"),
        (["vision.ratio=0"], "vision=null"),
        (["vision=null"], "modality"),
        (["accumulate=999"], "999"),
        (["optim=3"], "section"),
        (["max_steps.deep=3"], "section"),
        (["optim.warmup=99999"], "schedule"),
        (["optim.warmup=0.3", "optim.hold=0.8"], "together"),
        (["optim.curve=exponential"], "optim.min_lr=2e-05"),
        (["optim.curve=linear"], "exponential"),
        (["optim.betas=[0.9]"], "two numbers"),
        (["optim.betas=[0.9, 1.0]"], "betas"),
        (["seed=-1"], "seed.*-1"),
        (["seed=99999999999"], "seed"),
        (["optim.lr=0"], "optim.lr.*0.0"),
        (["optim.lr=.nan"], "optim.lr"),
        (["optim.warmup=-1"], "warmup"),
        (["optim.weight_decay=-0.1"], "optim.weight_decay.*-0.1"),
        (["optim.max_grad_norm=.inf"], "max_grad_norm"),
        (["data.num_workers=-1"], "data.num_workers.*-1"),
        (["checkpoints.every=-5"], "checkpoints.every.*-5"),
        (["health.std_check_from=-5"], "std_check_from"),
        (["optim.schedule_steps=0"], "optim.schedule_steps"),
        (["data.vision=[a"], "YAML"),
        (["backbone="], "backbone=.*backbone=null"),
        (["optim.lr= "], "optim.lr=null"),
        (["backbone=''"], "backbone=null"),
        (["init_from=''"], "init_from"),
        (["accumulate=2", "vision.micro_batch_size=4"], "vision.micro_batch_size.*accumulate=1"),
    ],
)
def test_wrong_values_are_explained(overrides, words):
    with pytest.raises(OptionError, match=words):
        load_options("tiny_vision", overrides)


@pytest.mark.parametrize("value", [0.5, -1, float("inf"), float("nan")])
def test_numbers_below_their_bound_or_not_finite_are_refused(value):
    at_least("--few", 1, 1)
    at_least("--few", None, 1)
    with pytest.raises(OptionError, match=f"^--few is {value}. It must be at least 1.$"):
        at_least("--few", value, 1)


def test_accumulation_is_for_the_modalities_without_a_limit_of_their_own():
    limited = {"batch_size": 4, "micro_batch_size": 2}
    with pytest.raises(OptionError, match="vision.micro_batch_size.*audio.micro_batch_tokens"):
        options(accumulate=2, vision=limited, audio={"batch_size": 4, "micro_batch_tokens": 100})
    assert options(accumulate=2, vision=limited, audio={"batch_size": 4}).accumulate == 2
    assert options(vision=limited).vision.is_limited


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


def test_a_backbone_has_options_of_its_own():
    with pytest.raises(OptionError, match="'model.mask_prob'"):
        load_options("tiny_vision", ["model=null", "backbone=some/encoder", "model.mask_probability=0.5"])


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
