"""Accelerate's engines (one process, DistributedDataParallel, FSDP2) and what a run must tell each of them.

Which engine runs is decided outside, by `accelerate launch` and its configuration file or by the environment that
another launcher sets; `recipes/d2v_train/configs/accelerate/` holds ready files.
"""

from __future__ import annotations

import os
import platform
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from transformers.modeling_layers import GradientCheckpointingLayer

from d2v_train.engine.sharding import everywhere, whole
from d2v_train.options.errors import OptionError
from d2v_train.options.run import Options
from d2v_train.support.processes import Processes


def make_accelerator(options: Options, trackers: Sequence[str] = ()) -> Accelerator:
    """Return Accelerate's engine for the options.

    Args:
        options: of the run.
        trackers: names that Accelerate knows. They are only named here, see `Trackers.start`.

    Raises:
        OptionError: the launcher asks for what the training cannot do.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise OptionError("The launcher asks for DeepSpeed (ACCELERATE_USE_DEEPSPEED is true), which pretraining does "
                          "not support: use FSDP2 instead (fsdp_version: 2, as in "
                          "d2v_train/configs/accelerate/fsdp2.yaml).")  # fmt: skip
    sharding = sharding_plugin()
    accelerator = Accelerator(
        cpu=options.cpu,
        mixed_precision=options.mixed_precision,
        dynamo_backend="inductor" if options.compile else None,
        log_with=list(trackers) or None,
        project_dir=options.output_dir,
        fsdp_plugin=sharding,
        kwargs_handlers=[DistributedDataParallelKwargs()],
    )
    if sharding is not None:
        shard_on_any_device(accelerator, sharding)
    check_precision(accelerator)
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


def check_precision(accelerator: Accelerator) -> None:
    """Refuse half precision that would not be what it says.

    Raises:
        OptionError: fp16 on a CPU, which Accelerate passes over, or on shards, where it has not been tried.
    """
    on_cpu = accelerator.device.type == "cpu"
    if accelerator.mixed_precision == "fp16" and (on_cpu or accelerator.is_fsdp2):
        where = "on a CPU" if on_cpu else "with FSDP2"
        raise OptionError(f"mixed_precision=fp16 does not work {where}. Set mixed_precision=bf16, or no.")


def engine_name(accelerator: Accelerator) -> str:
    """The engine as people call it, which may be another than the launcher asked for."""
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


def check_shared_folder(processes: Processes, folder: Path) -> None:
    """Refuse a folder that is another one on another machine: all processes write and read the same checkpoints.

    Raises:
        OptionError: in every process, where one does not see what the main process has written.
    """
    if processes.count == 1:
        return
    probe = processes.main_decides(lambda: write_probe(folder))
    problem = None
    if not (folder / probe).exists():
        problem = (f"Process {processes.rank} on {platform.node()} does not see what the main process "
                   f"writes into output_dir={folder}. Name a folder that all machines share.")  # fmt: skip
    problem = processes.first_problem(problem)
    if processes.main:
        (folder / probe).unlink()
    if problem is not None:
        raise OptionError(problem)


def write_probe(folder: Path) -> str:
    """Name of a new empty file in a folder."""
    name = f".seen_{uuid.uuid4().hex}"
    (folder / name).touch()
    return name


def prepare_for_engine(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer, modalities: Sequence[str]
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Hand model and optimizer to the engine. FSDP2 replaces the parameters of `model`, in place.

    Args:
        accelerator: the engine.
        model: a pretraining model.
        optimizer: over its parameters.
        modalities: those of the run, of which a step may take a part.
    """
    if accelerator.ddp_handler is not None:
        accelerator.ddp_handler.find_unused_parameters = leaves_out_parameters(model, modalities)
    if accelerator.is_fsdp2:
        wrap_blocks(accelerator.state.fsdp_plugin, model)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    keep_buffers_apart(wrapped)
    return wrapped, optimizer


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


def clip_gradient(accelerator: Accelerator, parameters: list[nn.Parameter], limit: float) -> Tensor:
    """Norm of the whole gradient, over the shards of all processes, which is cut to `limit`; 0 = no limit.

    A gradient that is not finite is left as it is, so that it can be told where that began.
    """
    accelerator.unscale_gradients()
    norm = everywhere(
        nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    )
    if limit:
        nn.utils.clip_grads_with_norm_(parameters, limit, torch.where(norm.isfinite(), norm, torch.zeros_like(norm)))
    return whole(norm)
