"""Options: every key checked, in YAML and on the command line."""

import pytest

from d2v_train.options.errors import OptionError
from d2v_train.options.files import (
    build_options,
    load_options,
    pretraining_configs,
)


def options(**changes):
    return build_options({"output_dir": "run", "max_steps": 100, "vision": {"batch_size": 4}, **changes})


# The others are options of the fine-tuning programs, read in the tests of those.
@pytest.mark.parametrize("path", pretraining_configs(), ids=lambda path: path.stem)
def test_every_configuration_of_pretraining_is_valid(path):
    loaded = load_options(path.stem)
    assert loaded.modalities and loaded.output_dir == f"runs/{path.stem}"


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


def test_accumulation_is_for_the_modalities_without_a_limit_of_their_own():
    limited = {"batch_size": 4, "micro_batch_size": 2}
    with pytest.raises(OptionError, match="vision.micro_batch_size.*audio.micro_batch_tokens"):
        options(accumulate=2, vision=limited, audio={"batch_size": 4, "micro_batch_tokens": 100})
    assert options(accumulate=2, vision=limited, audio={"batch_size": 4}).accumulate == 2
    assert options(vision=limited).vision.is_limited


def test_a_backbone_has_options_of_its_own():
    with pytest.raises(OptionError, match="'model.mask_prob'"):
        load_options("tiny_vision", ["model=null", "backbone=some/encoder", "model.mask_probability=0.5"])


def test_data_of_a_modality_that_the_run_lacks_is_refused():
    with pytest.raises(OptionError, match="data.audio is given, but the run has no audio: it trains vision"):
        load_options("tiny_cifar10", ["output_dir=x", "data.audio=recordings"])
    assert load_options("tiny_joint", ["output_dir=x", "text=null"]).modalities == ["vision", "audio"]
