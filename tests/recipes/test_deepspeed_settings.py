"""DeepSpeed's settings against the options of a run: what agrees passes, all else is refused with what to set."""

import base64
import json

import pytest

from recipes.common.deepspeed_settings import BUCKET, asked_settings, deepspeed_plugin, resolved_settings
from recipes.common.option_files import build_options
from recipes.common.options import OptionError


OPTIONS = {"output_dir": "run", "vision": {"batch_size": 64}, "optim": {"lr": 5e-4, "max_grad_norm": 0.5}}
AUTO = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "bf16": {"enabled": "auto"},
    "fp16": {"enabled": "auto"},
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}},
    "zero_optimization": {"stage": 2, "reduce_bucket_size": "auto", "overlap_comm": "auto"},
}
THE_SAME = {
    "train_batch_size": 64,
    "train_micro_batch_size_per_gpu": 16,
    "gradient_accumulation_steps": 2,
    "gradient_clipping": 0.5,
    "bf16": {"enabled": True},
    "fp16": {"enabled": False},
    "optimizer": {"type": "Adam", "params": {"lr": 5e-4, "betas": [0.9, 0.98], "eps": 1e-6, "adam_w_mode": True}},
    "steps_per_print": 10,
    "wall_clock_breakdown": False,
    "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "none"}, "stage3_max_live_parameters": 1e9},
}


def resolve(settings, **options):
    return resolved_settings({"zero_optimization": {"stage": 2}, **settings}, build_options({**OPTIONS, **options}), 2)


@pytest.mark.parametrize(
    "settings",
    [{}, dict.fromkeys(("optimizer", "scheduler", "bf16", "wandb", "gradient_clipping")), AUTO, THE_SAME],
    ids=["nothing", "null", "auto", "the same"],
)
def test_what_agrees_with_the_options_becomes_what_the_loop_needs(settings):
    assert resolve(settings, accumulate=2, mixed_precision="bf16") == {
        "zero_optimization": {"stage": 2, "reduce_bucket_size": BUCKET},
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "train_batch_size": 2,
        "gradient_clipping": 0.0,
    }


def test_how_gradients_are_sent_is_deepspeeds_business():
    sent = {"stage": 2, "reduce_bucket_size": 1000, "overlap_comm": True, "reduce_scatter": False}
    assert resolve({"zero_optimization": sent})["zero_optimization"] == sent


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"train_batch_size": 32}, r"train_batch_size=32, but the run has vision.batch_size=64. Set .* to \"auto\""),
        ({"train_batch_size": "64"}, "train_batch_size='64', but the run has vision.batch_size=64"),
        ({"bf16": True}, 'bf16=True, which must be a section: "bf16": {...}'),
        ({"optimizer": "AdamW"}, "optimizer='AdamW', which must be a section"),
        ({"scheduler": "WarmupLR"}, "scheduler='WarmupLR', which must be a section"),
        ({"zero_optimization": 2}, "zero_optimization=2, which must be a section"),
        ({"zero_optimization": {"stage": "2"}}, "ZeRO stage '2'; stages 1 and 2 are supported"),
        ({"zero_optimization": {"stage": 2, "offload_param": "cpu"}}, "zero_optimization.offload_param='cpu', which"),
        ({"zero_optimization": {"stage": 2, "reduce_bucket_size": 0}}, "reduce_bucket_size=0; it takes a number"),
        ({"zero_optimization": {"stage": 2, "reduce_bucket_size": "big"}}, "reduce_bucket_size='big'; it takes"),
        ({"zero_optimization": {"stage": 2, "overlap_comm": "yes"}}, "overlap_comm='yes'; it takes true or false"),
        ({"train_micro_batch_size_per_gpu": 8}, "train_micro_batch_size_per_gpu=8, but the run has .*=32.0"),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps=4, but the run has accumulate=1"),
        ({"gradient_clipping": 1.0}, "gradient_clipping=1.0, but the run has optim.max_grad_norm=0.5"),
        ({"optimizer": {"type": "Lamb"}}, "the optimizer Lamb, but the run's is AdamW"),
        ({"optimizer": {"type": "Adam", "params": {"adam_w_mode": False}}}, "the run's is AdamW"),
        ({"optimizer": {"type": "AdamW", "params": {"lr": 1e-4}}}, "optimizer.params.lr=0.0001, .* optim.lr=0.0005"),
        ({"optimizer": {"type": "AdamW", "params": {"amsgrad": True}}}, "optimizer.params.amsgrad, which"),
        ({"scheduler": {"type": "WarmupLR"}}, r"a scheduler \(WarmupLR\), but the learning rate is the run's"),
        ({"bf16": {"enabled": True}}, "bf16.enabled=True, but the run has mixed_precision=no"),
        (
            {"torch_autocast": {"enabled": True}},
            "torch_autocast.enabled=true. Precision is the option mixed_precision",
        ),
        ({"tensorboard": {"enabled": True}}, "Trackers are named by the option report_to"),
        ({"communication_data_type": "bf16"}, "communication_data_type=bf16, with which the training would not be"),
        ({"compression_training": {}}, "compression_training, which has not been tried"),
        ({"zero_optimization": {"stage": 3}}, "ZeRO stage 3; stages 1 and 2 are supported.*FSDP2 divides weights too"),
        ({"zero_optimization": {}}, "ZeRO stage 0"),
        ({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}, "Set offload_optimizer.device"),
        ({"zero_optimization": {"stage": 2, "round_robin_gradients": True}}, "round_robin_gradients=True"),
        ({"zero_optimization": {"stage": 1, "overlap_comm": True}}, "overlap_comm with ZeRO stage 1"),
        (
            {"zero_optimization": {"stage": 2, "mics_shard_size": 2}},
            "zero_optimization.mics_shard_size, which has not",
        ),
    ],
)
def test_what_contradicts_the_options_or_would_train_otherwise_is_refused(settings, message):
    with pytest.raises(OptionError, match=message):
        resolve(settings)


def test_batches_of_several_modalities_are_left_to_the_run():
    joint = {"audio": {"batch_size": 32, "micro_batch_size": 4}}
    assert resolve({"train_batch_size": "auto"}, **joint)["train_batch_size"] == 2
    with pytest.raises(OptionError, match="train_batch_size=64, but the run has audio.batch_size=32"):
        resolve({"train_batch_size": 64}, **joint)
    with pytest.raises(OptionError, match="gradient_accumulation_steps=2, but the run has audio.micro_batch_size"):
        resolve({"gradient_accumulation_steps": 2}, **joint)


def test_launcher_names_a_file_or_gives_the_fields_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "1")
    monkeypatch.setenv("ACCELERATE_GRADIENT_CLIPPING", "0.5")
    given = asked_settings()
    assert given["zero_optimization"]["stage"] == 1 and given["gradient_clipping"] == 0.5
    assert resolve(given)["zero_optimization"]["stage"] == 1
    (tmp_path / "deepspeed.json").write_text(json.dumps(AUTO))
    packed = base64.urlsafe_b64encode(json.dumps(AUTO).encode()).decode()
    for source in (str(tmp_path / "deepspeed.json"), packed):
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", source)
        assert asked_settings() == AUTO


@pytest.mark.parametrize("text", ["stage: 2", "", "[]", '{"zero_optimization": 2}', None])
def test_file_that_is_none_of_deepspeed_is_told_with_its_name(tmp_path, monkeypatch, text):
    path = tmp_path / "deepspeed.json"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(path))
    with pytest.raises(OptionError, match=f"deepspeed_config_file {path} cannot be read as JSON of DeepSpeed"):
        asked_settings()


@pytest.mark.parametrize("variable", ["DEEPSPEED_ZERO_STAGE", "GRADIENT_CLIPPING", "GRADIENT_ACCUMULATION_STEPS"])
def test_number_of_the_launcher_that_is_none_is_told(monkeypatch, variable):
    monkeypatch.setenv(f"ACCELERATE_{variable}", "none")
    with pytest.raises(OptionError, match=f"ACCELERATE_{variable}=none, which is no number"):
        asked_settings()


def test_process_that_no_launcher_started_is_told_so(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr("recipes.common.deepspeed_settings.need", lambda module, extra: None)
    with pytest.raises(OptionError, match="Start the program with accelerate launch"):
        deepspeed_plugin(build_options(OPTIONS))


def test_launchers_file_names_a_file_beside_the_precision_and_no_other_field(tmp_path, monkeypatch):
    """The ready file with `deepspeed_config_file` in the place of its other fields."""
    (tmp_path / "deepspeed.json").write_text(json.dumps({"zero_optimization": {"stage": 1}}))
    monkeypatch.setattr("recipes.common.deepspeed_settings.need", lambda module, extra: None)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(tmp_path / "deepspeed.json"))
    monkeypatch.setenv("ACCELERATE_CONFIG_DS_FIELDS", "deepspeed_config_file,mixed_precision")
    assert deepspeed_plugin(build_options(OPTIONS)).zero_stage == 1
    monkeypatch.setenv("ACCELERATE_CONFIG_DS_FIELDS", "deepspeed_config_file,zero_stage")
    with pytest.raises(OptionError, match="settings of DeepSpeed cannot be: When using `deepspeed_config_file`"):
        deepspeed_plugin(build_options(OPTIONS))


def test_without_a_wish_for_deepspeed_there_is_none():
    assert deepspeed_plugin(build_options(OPTIONS)) is None
