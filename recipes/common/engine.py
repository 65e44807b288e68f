"""Accelerate's engines (one process, DistributedDataParallel, FSDP2, DeepSpeed) and what a run must tell each of them.

Which engine runs is decided outside, by `accelerate launch` and its configuration file or by the environment that
another launcher sets; `recipes/configs/accelerate/` holds ready files.
"""

from __future__ import annotations

import contextlib
import os
import platform
import uuid
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin, convert_outputs_to_fp32
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from transformers.modeling_layers import GradientCheckpointingLayer

from recipes.common.agreement import first_problem, main_process_decides
from recipes.common.deepspeed_settings import deepspeed_plugin
from recipes.common.options import OptionError, Options
from recipes.common.sharding import everywhere, whole
from recipes.common.trackers import tracker_names
from recipes.common.zero import ZeroOptimizer


def make_accelerator(options: Options) -> Accelerator:
    """Accelerate's engine for the options. Trackers are only named here, see `Trackers.start`.

    Raises:
        OptionError: the launcher asks for what the training cannot do, or there is no such tracker.
        MissingDependencyError: a tracker is not installed.
    """
    zero = deepspeed_plugin(options)
    sharding = sharding_plugin()
    if zero is not None and sharding is not None:
        raise OptionError("The launcher asks for two engines: ACCELERATE_USE_DEEPSPEED and ACCELERATE_USE_FSDP are "
                          "true. Set one of them to false.")  # fmt: skip
    accelerator = Accelerator(
        cpu=options.cpu,
        # DeepSpeed would turn the weights themselves into half precision; `prepare` casts where they are used.
        mixed_precision="no" if zero is not None else options.mixed_precision,
        dynamo_backend="inductor" if options.compile else None,
        log_with=tracker_names(options.report_to) or None,
        project_dir=options.output_dir,
        fsdp_plugin=sharding,
        deepspeed_plugin=zero,
        kwargs_handlers=[DistributedDataParallelKwargs()],
    )
    if sharding is not None:
        shard_on_any_device(accelerator, sharding)
    if zero is not None:
        divide_on_any_device(accelerator, zero)
    check_precision(accelerator, options)
    check_launched(accelerator)
    return accelerator


def check_launched(accelerator: Accelerator) -> None:
    """Refuses processes that would not know of one another and each train by itself.

    Raises:
        OptionError: a launcher started several, and Accelerate found no device for them.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1 and accelerator.num_processes == 1:
        raise OptionError(f"The launcher has started {launched} processes, but there is no accelerator for them here. "
                          "Set cpu=true to train on CPUs.")  # fmt: skip


def check_precision(accelerator: Accelerator, options: Options) -> None:
    """Refuses half precision that would not be what it says, and a compiler where it has not been tried.

    Raises:
        OptionError: fp16 on a CPU, which Accelerate passes over, or on shards, where it has not been tried; or
            `compile` with DeepSpeed.
    """
    engine = "FSDP2" if accelerator.is_fsdp2 else "DeepSpeed" if uses_zero(accelerator) else None
    if options.mixed_precision == "fp16" and (accelerator.device.type == "cpu" or engine is not None):
        where = "on a CPU" if accelerator.device.type == "cpu" else f"with {engine}"
        raise OptionError(f"mixed_precision=fp16 does not work {where}. Set mixed_precision=bf16, or no.")
    if options.compile and engine == "DeepSpeed":
        raise OptionError("compile=true has not been tried with DeepSpeed. Set compile=false, or use another engine.")


def uses_zero(accelerator: Accelerator) -> bool:
    """Whether the engine is DeepSpeed."""
    return accelerator.distributed_type == DistributedType.DEEPSPEED


def engine_name(accelerator: Accelerator) -> str:
    """The engine as people call it, which may be another than the launcher asked for."""
    if uses_zero(accelerator):
        return f"DeepSpeed, ZeRO {accelerator.deepspeed_plugin.zero_stage}"
    if accelerator.is_fsdp2:
        return "FSDP2"
    return "one process" if accelerator.num_processes == 1 else "DistributedDataParallel"


def sharding_plugin() -> FullyShardedDataParallelPlugin | None:
    """Accelerate's FSDP2 settings from the environment of the launcher; None where it asks for no FSDP.

    Raises:
        OptionError: they ask for what would break the training.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return None
    if os.environ.get("FSDP_VERSION") != "2":
        raise OptionError("The launcher asks for FSDP of version 1. Set fsdp_version: 2 in its configuration.")
    # Weights stay in fp32 and autocast casts them where they are used, as in every other engine.
    precision = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    # Every process makes the same weights from the seed: none waits for those of the first.
    plugin = FullyShardedDataParallelPlugin(mixed_precision_policy=precision, cpu_ram_efficient_loading=False)
    if plugin.activation_checkpointing:
        raise OptionError("fsdp_activation_checkpointing is true, which draws other dropout in the backward pass. Set "
                          "it to false, and the option gradient_checkpointing=true instead.")  # fmt: skip
    return plugin


def shard_on_any_device(accelerator: Accelerator, plugin: FullyShardedDataParallelPlugin) -> None:
    """Has Accelerate shard on a CPU too: it turns to FSDP on accelerators only, torch shards on every device."""
    if accelerator.distributed_type == DistributedType.MULTI_CPU:
        # The second is what the first is filled from again and again.
        accelerator.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin


def divide_on_any_device(accelerator: Accelerator, plugin: DeepSpeedPlugin) -> None:
    """Has Accelerate turn to DeepSpeed on a CPU too, which it does not where it is told to stay on one."""
    if accelerator.distributed_type == DistributedType.MULTI_CPU:
        accelerator.state.distributed_type = PartialState().distributed_type = DistributedType.DEEPSPEED
        accelerator.state.deepspeed_plugins = plugin
        plugin.select(_from_accelerator_state=True)


def check_shared_folder(accelerator: Accelerator, folder: Path) -> None:
    """Refuses a folder that is another one on another machine: all processes write and read the same checkpoints.

    Raises:
        OptionError: in every process, where one does not see what the main process has written.
    """
    if accelerator.num_processes == 1:
        return
    probe = main_process_decides(accelerator, lambda: write_probe(folder))
    problem = None
    if not (folder / probe).exists():
        problem = (f"Process {accelerator.process_index} on {platform.node()} does not see what the main process "
                   f"writes into output_dir={folder}. Name a folder that all machines share.")  # fmt: skip
    problem = first_problem(accelerator, problem)
    if accelerator.is_main_process:
        (folder / probe).unlink()
    if problem is not None:
        raise OptionError(problem)


def write_probe(folder: Path) -> str:
    """Name of a new empty file in a folder."""
    name = f".seen_{uuid.uuid4().hex}"
    (folder / name).touch()
    return name


def prepare(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer, options: Options
) -> tuple[nn.Module, torch.optim.Optimizer | ZeroOptimizer]:
    """Model and optimizer in the hands of the engine. FSDP2 replaces the parameters of `model`, in place.

    Args:
        accelerator: the engine.
        model: a pretraining model.
        optimizer: over its parameters.
        options: of the run, of whose modalities a step may take a part.
    """
    if uses_zero(accelerator):
        return prepare_zero(accelerator, model, optimizer, options.mixed_precision == "bf16")
    if accelerator.ddp_handler is not None:
        accelerator.ddp_handler.find_unused_parameters = leaves_out_parameters(model, options.modalities)
    if accelerator.is_fsdp2:
        wrap_blocks(accelerator.state.fsdp_plugin, model)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    keep_buffers_apart(wrapped)
    return wrapped, optimizer


def prepare_zero(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer, mixed: bool
) -> tuple[nn.Module, ZeroOptimizer]:
    """The same for DeepSpeed.

    Args:
        accelerator: the engine.
        model: a pretraining model.
        optimizer: over its parameters.
        mixed: whether matrix products are to run in bf16.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    trained = {names[id(parameter)]: parameter for group in optimizer.param_groups for parameter in group["params"]}
    if mixed:
        # Inside of the engine, which switches off the autocast around it.
        autocast = torch.autocast(accelerator.device.type, torch.bfloat16)
        model.forward = convert_outputs_to_fp32(autocast(model.forward))
    # DeepSpeed calls it by its old name.
    warnings.filterwarnings("ignore", message="`torch.distributed.all_gather_into_tensor` is deprecated")
    wrapped, _ = accelerator.prepare(model, optimizer)
    return wrapped, ZeroOptimizer(wrapped.optimizer, trained)


def gradient_holders(model: nn.Module, optimizer: torch.optim.Optimizer | ZeroOptimizer) -> dict[str, nn.Parameter]:
    """What holds the gradients of this process after the last backward pass of a step, by name: in a fixed order, the
    same in all processes. The teacher has none."""
    if isinstance(optimizer, ZeroOptimizer):
        return dict(zip(optimizer.names, optimizer.parts, strict=True))
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def leaves_out_parameters(model: nn.Module, modalities: Sequence[str]) -> bool:
    """Whether a backward pass leaves some parameters without a gradient: those of the modalities that it is not of.

    A forward pass takes one modality. DistributedDataParallel looks for the parameters that a pass leaves out only
    where it is told to, which costs a walk over the graph and one more reduction in every step.
    """
    return len({*model.config.modalities, *modalities}) > 1


def wrap_blocks(plugin: FullyShardedDataParallelPlugin, model: nn.Module) -> None:
    """Shards each transformer block by itself, of the student and of the teacher; the model gathers the rest.

    Whatever the launcher names: hooks of FSDP2 sit on the call of a module, and front ends and teacher are entered
    through other methods. What they hold belongs to the model as a whole, which is called.
    """
    blocks = {type(module).__name__ for module in model.modules() if isinstance(module, GradientCheckpointingLayer)}
    plugin.auto_wrap_policy = transformer_auto_wrap_policy
    plugin.transformer_cls_names_to_wrap = sorted(blocks)
    # torch warns of writing into the output of a block, which nothing here does.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")


def keep_buffers_apart(model: nn.Module) -> None:
    """Has DistributedDataParallel leave the buffers alone in each forward pass; all processes compute the same ones.

    Set afterwards, because torch is about to rename the argument of the constructor and warns of the old name.
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model.broadcast_buffers = False


@contextlib.contextmanager
def micro_batch(accelerator: Accelerator, model: nn.Module, last: bool) -> Iterator[None]:
    """Around the forward and backward pass of a micro-batch: gradients are reduced with the last one only.

    Args:
        accelerator: the engine.
        model: as `prepare` gave it.
        last: whether it is the last one of its step.
    """
    # DeepSpeed is told with the backward pass. Its stage 2 reduces all of them, to hold no more than its part.
    with contextlib.nullcontext() if last or uses_zero(accelerator) else accelerator.no_sync(model):
        yield


def backward(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | ZeroOptimizer,
    loss: Tensor,
    last: bool,
) -> None:
    """Backward pass of a micro-batch, within `micro_batch`.

    Args:
        accelerator: the engine.
        model, optimizer: as `prepare` gave them.
        loss: of this process, scaled by the number of processes, over which engines average.
        last: whether it is the last one of its step.
    """
    if not uses_zero(accelerator):
        accelerator.backward(loss)
        return
    # Accelerate's own way would step at once.
    model.set_gradient_accumulation_boundary(last)
    model.backward(loss)
    if last:
        optimizer.take_gradients()


def clip_gradient(accelerator: Accelerator, parameters: list[nn.Parameter], limit: float) -> Tensor:
    """Norm of the whole gradient, over the shards of all processes, which is cut to `limit`; 0 = no limit.

    A gradient that is not finite is left as it is, so that it can be told where that began.
    """
    if not uses_zero(accelerator):
        accelerator.unscale_gradients()
    norm = everywhere(
        nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    )
    if uses_zero(accelerator):
        norm = accelerator.reduce(norm.square(), reduction="sum").sqrt()
    if limit:
        nn.utils.clip_grads_with_norm_(parameters, limit, torch.where(norm.isfinite(), norm, torch.zeros_like(norm)))
    return whole(norm)
