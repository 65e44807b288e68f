"""DeepSpeed's settings, from the launcher's file or a JSON file that it names, brought in line with a run's options.

DeepSpeed reduces gradients, and divides them and the optimizer's states among the processes (`zero.py`). All else that
its settings can ask for is the run's business: they must say the same as the options, or "auto".
"""

from __future__ import annotations

import os
from typing import Any

from accelerate import DeepSpeedPlugin
from accelerate.utils.deepspeed import HfDeepSpeedConfig

from recipes.common.optional import need
from recipes.common.options import OptionError, Options


BUCKET = 50_000_000
"""Elements that are reduced together unless a file says otherwise. DeepSpeed's own 500 million are 2 GB in fp32, which
every backward pass takes."""

# Settings of ZeRO that are handed on, since they only change how the same sums are made.
_HANDED_ON = ("reduce_bucket_size", "allgather_bucket_size", "allgather_partitions", "reduce_scatter", "overlap_comm",
              "contiguous_gradients", "use_multi_rank_bucket_allreduce")  # fmt: skip
# Those that may be named with the value that the program relies on.
_FIXED_ZERO = {
    "round_robin_gradients": False,
    "parameter_alignment": False,
    "zero_quantized_weights": False,
    "zero_quantized_gradients": False,
    "zero_hpz_partition_size": 1,
    "cpu_offload": False,
    "elastic_checkpoint": False,
    "ignore_unused_parameters": True,
}
_FIXED = {
    "communication_data_type": "fp32",
    "prescale_gradients": False,
    "gradient_predivide_factor": 1.0,
    "wall_clock_breakdown": False,
    "memory_breakdown": False,
    "dump_state": False,
}
# Sections that are off unless they say otherwise, and what the program has in their place.
_SECTIONS = {
    "amp": "Precision is the option mixed_precision.",
    "torch_autocast": "Precision is the option mixed_precision.",
    "flops_profiler": "The log has the speed.",
    "comms_logger": "The log has the speed.",
    "tensorboard": "Trackers are named by the option report_to.",
    "wandb": "Trackers are named by the option report_to.",
    "comet": "Trackers are named by the option report_to.",
    "csv_monitor": "The log is log.jsonl.",
}
# About the making of an optimizer, or of what DeepSpeed prints in a step: neither is DeepSpeed's here.
_WITHOUT_EFFECT = ("steps_per_print", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer")


def deepspeed_plugin(options: Options) -> DeepSpeedPlugin | None:
    """Accelerate's DeepSpeed settings from the environment of the launcher; None where it asks for no DeepSpeed.

    Raises:
        OptionError: they contradict the options, or ask for what would break the training.
        MissingDependencyError: DeepSpeed is not installed.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() != "true":
        return None
    if options.cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when DeepSpeed is imported
    need("deepspeed", "deepspeed")
    if "LOCAL_RANK" not in os.environ:
        raise OptionError("ACCELERATE_USE_DEEPSPEED is set, but no launcher has started this process. Start the "
                          "program with accelerate launch, or with python -m torch.distributed.run.")  # fmt: skip
    settings = resolved_settings(asked_settings(), options, int(os.environ.get("WORLD_SIZE", 1)))
    # Accelerate refuses any of its own fields beside a JSON file, also the precision, which is the run's in any case.
    given = os.environ.get("ACCELERATE_CONFIG_DS_FIELDS", "").split(",")
    os.environ["ACCELERATE_CONFIG_DS_FIELDS"] = ",".join(name for name in given if name != "mixed_precision")
    try:
        plugin = DeepSpeedPlugin()
    except ValueError as error:  # a launcher's file that contradicts the JSON file
        raise OptionError(f"The launcher's settings of DeepSpeed cannot be: {' '.join(str(error).split())}") from error
    plugin.hf_ds_config = HfDeepSpeedConfig(settings)
    plugin.deepspeed_config = plugin.hf_ds_config.config
    plugin.zero_stage = settings["zero_optimization"]["stage"]
    return plugin


def asked_settings() -> dict[str, Any]:
    """What the launcher asks for, in the form of DeepSpeed's JSON files.

    Raises:
        OptionError: a file or number of the launcher cannot be read.
    """
    source = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if source != "none":
        try:
            return HfDeepSpeedConfig(source).config
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise OptionError(f"The launcher's deepspeed_config_file {source} cannot be read as JSON of DeepSpeed, "
                              f'{{"zero_optimization": {{"stage": 2}}, ...}}: {error}') from error  # fmt: skip
    offload = {part: {"device": os.environ.get(f"ACCELERATE_DEEPSPEED_{part.upper()}_DEVICE", "none")}
               for part in ("offload_optimizer", "offload_param")}  # fmt: skip
    return {
        "zero_optimization": {"stage": _number("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"), **offload},
        "gradient_accumulation_steps": _number("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "auto"),
        "gradient_clipping": _number("ACCELERATE_GRADIENT_CLIPPING", "auto"),
    }


def _number(variable: str, default: str) -> float | str:
    text = os.environ.get(variable, default)
    try:
        return text if text == "auto" else int(text) if text.isdigit() else float(text)
    except ValueError as error:
        raise OptionError(f"The launcher sets {variable}={text}, which is no number. Give one, or auto.") from error


def _section(settings: dict[str, Any], name: str, where: str = "") -> dict[str, Any]:
    """Takes a section out of settings; an empty one where it is missing or null."""
    section = settings.pop(name, None)
    if section is not None and not isinstance(section, dict):
        raise OptionError(f"DeepSpeed is given {where}{name}={section!r}, which must be a section: "
                          f'"{name}": {{...}}.')  # fmt: skip
    return dict(section or {})


def resolved_settings(settings: dict[str, Any], options: Options, processes: int) -> dict[str, Any]:
    """DeepSpeed's settings for a run: weights in fp32, gradients averaged, and no step, schedule or clipping.

    Args:
        settings: as asked for.
        options: of the run.
        processes: of the run.

    Raises:
        OptionError: names the setting that cannot be, and what to set instead.
    """
    left = dict(settings)
    zero = _zero_settings(_section(left, "zero_optimization"))
    _check_batches(left, options, processes)
    _check_same("gradient_clipping", left.pop("gradient_clipping", "auto"), "optim.max_grad_norm",
                options.optim.max_grad_norm)  # fmt: skip
    _check_optimizer(_section(left, "optimizer"), options)
    scheduler = _section(left, "scheduler")
    if scheduler:
        raise OptionError(f"DeepSpeed is given a scheduler ({scheduler.get('type')}), but the learning rate "
                          "is the run's: optim.warmup, optim.hold, optim.curve. Remove that section.")  # fmt: skip
    for half in ("bf16", "fp16"):
        if _section(left, half).get("enabled", False) not in (False, "auto") and options.mixed_precision != half:
            _check_same(f"{half}.enabled", True, "mixed_precision", options.mixed_precision)
    for name, instead in _SECTIONS.items():
        if _section(left, name).get("enabled", False):
            raise OptionError(f"DeepSpeed is given {name}.enabled=true. {instead} Remove that section.")
    for name, value in _FIXED.items():
        _check_fixed(name, left.pop(name, value), value)
    unknown = sorted(set(left) - set(_WITHOUT_EFFECT))
    if unknown:
        raise OptionError(f"DeepSpeed is given {', '.join(unknown)}, which has not been tried with this program. "
                          "Remove it.")  # fmt: skip
    # What the loop does itself, DeepSpeed is told not to.
    return {
        "zero_optimization": zero,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "train_batch_size": processes,
        "gradient_clipping": 0.0,
    }


def _zero_settings(asked: dict[str, Any]) -> dict[str, Any]:
    left = dict(asked)
    stage = left.pop("stage", 0)
    if type(stage) is not int or stage not in (1, 2):
        raise OptionError(
            f"DeepSpeed is asked for ZeRO stage {stage!r}; stages 1 and 2 are supported. Stage 0 would do what "
            "DistributedDataParallel does. Stage 3 gathers weights when a module is called, but the teacher and the "
            "front ends are entered through other methods: FSDP2 divides weights too, see "
            "recipes/configs/accelerate/fsdp2.yaml."
        )
    for part in ("offload_optimizer", "offload_param"):
        device = _section(left, part, "zero_optimization.").get("device", "none")
        if device not in ("none", "auto"):
            raise OptionError(f"DeepSpeed is asked to keep {part.removeprefix('offload_')} states on {device}, which "
                              "its own optimizers step. They would step before a gradient that is not finite can be "
                              f"skipped. Set {part}.device to none.")  # fmt: skip
    handed_on = _handed_on(left)
    if stage == 1 and handed_on.get("overlap_comm", False):
        raise OptionError("DeepSpeed is asked for overlap_comm with ZeRO stage 1, which then leaves the gradients of "
                          "parameters that the last micro-batch does not reach as they are in each process. Set it to "
                          "false, or take stage 2.")  # fmt: skip
    for name, value in _FIXED_ZERO.items():
        _check_fixed(f"zero_optimization.{name}", left.pop(name, value), value)
    unknown = sorted(name for name in left if not name.startswith("stage3_") and name != "sub_group_size")
    if unknown:
        raise OptionError(f"DeepSpeed is given zero_optimization.{unknown[0]}, which has not been tried with this "
                          "program. Remove it.")  # fmt: skip
    return {
        "stage": stage,
        "reduce_bucket_size": BUCKET,
        **handed_on,
    }


def _handed_on(left: dict[str, Any]) -> dict[str, Any]:
    """Takes out of ZeRO's settings what DeepSpeed is given as it is, of the right kind: its own message of a wrong one
    does not come before the model is made."""
    given = {name: left.pop(name, None) for name in _HANDED_ON}
    given = {name: value for name, value in given.items() if value not in ("auto", None)}
    for name, value in given.items():
        if name.endswith("_bucket_size"):
            fits, kind = type(value) in (int, float) and value >= 1, "a number of elements"
        else:
            fits, kind = isinstance(value, bool), "true or false"
        if not fits:
            raise OptionError(f"DeepSpeed is given zero_optimization.{name}={value!r}; it takes {kind}.")
    return given


def _check_batches(left: dict[str, Any], options: Options, processes: int) -> None:
    """Batch sizes and accumulation, which the options give by modality and for all processes together."""
    sections = {name: getattr(options, name) for name in options.modalities}
    steps = left.pop("gradient_accumulation_steps", "auto")
    if steps not in ("auto", 1):  # 1 is what Accelerate's questionnaire writes
        limited = [name for name, section in sections.items() if section.is_limited]
        if limited:
            _check_same("gradient_accumulation_steps", steps, f"{limited[0]}.micro_batch_size", "what follows from it")
        _check_same("gradient_accumulation_steps", steps, "accumulate", options.accumulate)
    whole, own = left.pop("train_batch_size", "auto"), left.pop("train_micro_batch_size_per_gpu", "auto")
    for name, section in sections.items():
        size = section.batch_size or "what batch_tokens holds"
        _check_same("train_batch_size", whole, f"{name}.batch_size", size)
        if section.is_limited:
            _check_same("train_micro_batch_size_per_gpu", own, f"{name}.micro_batch_size", section.micro_batch_size)
        elif section.batch_size:
            share = section.batch_size / processes / options.accumulate
            _check_same("train_micro_batch_size_per_gpu", own, f"{name}.batch_size a process and pass", share)


def _check_optimizer(section: dict[str, Any], options: Options) -> None:
    """The optimizer is the run's AdamW; a section that describes the same one is no contradiction."""
    if not section:
        return
    params = _section(section, "params", "optimizer.")
    if section.get("type") not in ("AdamW", "Adam") or params.pop("adam_w_mode", True) is not True:
        raise OptionError(f"DeepSpeed is given the optimizer {section.get('type')}, but the run's is AdamW with its "
                          "own groups of parameters. Remove that section.")  # fmt: skip
    for name in ("torch_adam", "fused", "fp32_optimizer_states"):
        params.pop(name, None)
    for name in ("lr", "betas", "eps", "weight_decay"):
        _check_same(
            f"optimizer.params.{name}", params.pop(name, "auto"), f"optim.{name}", getattr(options.optim, name)
        )
    if params:
        raise OptionError(f"DeepSpeed is given optimizer.params.{min(params)}, which the run's AdamW does not know. "
                          "Remove it.")  # fmt: skip


def _check_same(setting: str, asked: Any, option: str, value: Any) -> None:
    if asked in ("auto", None, value):
        return
    raise OptionError(f"DeepSpeed is given {setting}={asked!r}, but the run has {option}={value}. Set {setting} to "
                      '"auto" or remove it, and give the run what you mean.')  # fmt: skip


def _check_fixed(setting: str, asked: Any, value: Any) -> None:
    if asked not in ("auto", None, value):
        raise OptionError(f"DeepSpeed is given {setting}={asked}, with which the training would not be the same. "
                          "Remove it.")  # fmt: skip
