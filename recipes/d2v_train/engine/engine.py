"""Accelerate's engines (one process, DistributedDataParallel, FSDP2) and their settings.

The engine is chosen by `accelerate launch` and its configuration file, or by the environment of another launcher;
`recipes/d2v_train/configs/accelerate/` holds such files.
"""

from __future__ import annotations

import logging
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


logger = logging.getLogger(__name__)

BF16_FEATURES = ("avx512_bf16", "amx_bf16", "bf16")
"""Names of the instructions for bfloat16 in the lists of x86 and of ARM."""


def make_accelerator(options: Options, trackers: Sequence[str] = ()) -> Accelerator:
    """Return the Accelerate engine for the options.

    Args:
        options: Options of the run.
        trackers: Accelerate's names of trackers, which `Trackers.start` starts.

    Raises:
        OptionError: The launcher asks for something that is not supported.
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
    if accelerator.is_main_process and accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16":
        warn_of_emulated_bf16()
    check_launched(accelerator)
    return accelerator


def check_launched(accelerator: Accelerator) -> None:
    """Refuse processes that would each train independently.

    Raises:
        OptionError: A launcher started several processes, and Accelerate found no device for them.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1 and accelerator.num_processes == 1:
        raise OptionError(f"The launcher has started {launched} processes, but this machine has no accelerator. "
                          "Set cpu=true to train on CPUs.")  # fmt: skip


def check_precision(accelerator: Accelerator) -> None:
    """Refuse half precision that would not take effect.

    Raises:
        OptionError: fp16 is used on a CPU, where Accelerate ignores it, or on shards, where it is untested.
    """
    on_cpu = accelerator.device.type == "cpu"
    if accelerator.mixed_precision == "fp16" and (on_cpu or accelerator.is_fsdp2):
        where = "on a CPU" if on_cpu else "with FSDP2"
        raise OptionError(f"mixed_precision=fp16 does not work {where}. Set mixed_precision=bf16, or no.")


def warn_of_emulated_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Log a warning if the processor lacks instructions for bfloat16, which is then emulated and many times slower.

    Args:
        cpuinfo: Where Linux lists the features of the processor; without it, nothing is known and nothing is said.
    """
    if not cpuinfo.is_file():
        return
    lines = (line.partition(":") for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines())
    features = {word for name, _, words in lines if name.strip() in ("flags", "Features") for word in words.split()}
    if features and features.isdisjoint(BF16_FEATURES):
        logger.warning(
            "mixed_precision=bf16, but this processor has no instructions for it (%s): steps may take ten times as "
            "long. Set mixed_precision=no.",
            ", ".join(BF16_FEATURES),
        )


def engine_name(accelerator: Accelerator) -> str:
    """Return the usual name of the engine, which may differ from what the launcher asked for."""
    if accelerator.is_fsdp2:
        return "FSDP2"
    return "one process" if accelerator.num_processes == 1 else "DistributedDataParallel"


def sharding_plugin() -> FullyShardedDataParallelPlugin | None:
    """Return FSDP2 settings from the environment of the launcher; None where it asks for no FSDP.

    Raises:
        OptionError: A setting would break the training.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return None
    if os.environ.get("FSDP_VERSION") != "2":
        raise OptionError("The launcher asks for FSDP of version 1. Set fsdp_version: 2 in its configuration.")
    # Weights stay in fp32 and autocast casts them where they are used, as in every other engine.
    precision = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    # Every process makes the same weights from the seed: none needs those of the first.
    plugin = FullyShardedDataParallelPlugin(mixed_precision_policy=precision, cpu_ram_efficient_loading=False)
    if plugin.activation_checkpointing:
        raise OptionError("fsdp_activation_checkpointing is true, which draws other dropout in the backward pass. Set "
                          "it to false, and the option gradient_checkpointing=true instead.")  # fmt: skip
    return plugin


def shard_on_any_device(accelerator: Accelerator, plugin: FullyShardedDataParallelPlugin) -> None:
    """Make Accelerate shard on a CPU too: torch can shard on any device, Accelerate uses accelerators only."""
    if accelerator.distributed_type == DistributedType.MULTI_CPU:
        # The first is filled from the second repeatedly.
        accelerator.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin


def check_shared_folder(processes: Processes, folder: Path) -> None:
    """Refuse a folder that is not shared by all machines: every process reads and writes the checkpoints.

    Raises:
        OptionError: Some process does not see what the main process has written; raised in all of them.
    """
    if processes.count == 1:
        return
    probe = processes.main_decides(lambda: write_probe(folder))
    problem = None
    if not (folder / probe).exists():
        problem = (f"Process {processes.rank} on {platform.node()} does not see what the main process "
                   f"writes into output_dir={folder}. Use a folder that all machines share.")  # fmt: skip
    problem = processes.first_problem(problem)
    if processes.main:
        (folder / probe).unlink()
    if problem is not None:
        raise OptionError(problem)


def write_probe(folder: Path) -> str:
    """Write a new empty file into a folder and return its name."""
    name = f".seen_{uuid.uuid4().hex}"
    (folder / name).touch()
    return name


def prepare_for_engine(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer, modalities: Sequence[str]
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Prepare model and optimizer for the engine. FSDP2 replaces the parameters of `model` in place.

    Args:
        accelerator: The engine.
        model: A pretraining model.
        optimizer: Optimizer of its parameters.
        modalities: Modalities of the run; a step may take a part of them.
    """
    if accelerator.ddp_handler is not None:
        accelerator.ddp_handler.find_unused_parameters = leaves_out_parameters(model, modalities)
    if accelerator.is_fsdp2:
        wrap_blocks(accelerator.state.fsdp_plugin, model)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    keep_buffers_apart(wrapped)
    return wrapped, optimizer


def leaves_out_parameters(model: nn.Module, modalities: Sequence[str]) -> bool:
    """Return whether a backward pass leaves parameters of other modalities without a gradient.

    A forward pass takes one modality. DistributedDataParallel looks for unused parameters only on request, which costs
    a traversal of the graph and one more reduction in every step.
    """
    return len({*model.config.modalities, *modalities}) > 1


def wrap_blocks(plugin: FullyShardedDataParallelPlugin, model: nn.Module) -> None:
    """Shard each transformer block by itself, of the student and of the teacher; the model gathers the rest.

    Modules named by the launcher are ignored: hooks of FSDP2 run when a module is called, but front ends and teacher
    are used through other methods. Their parameters belong to the unit of the model, which is called.
    """
    blocks = {type(module).__name__ for module in model.modules() if isinstance(module, GradientCheckpointingLayer)}
    plugin.auto_wrap_policy = transformer_auto_wrap_policy
    plugin.transformer_cls_names_to_wrap = sorted(blocks)
    # torch warns about writing into the output of a block, which does not happen here.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")


def keep_buffers_apart(model: nn.Module) -> None:
    """Stop DistributedDataParallel from broadcasting buffers: all processes compute the same ones.

    Set afterwards, because torch renames the argument of the constructor and warns about the old name.
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model.broadcast_buffers = False


def clip_gradient(accelerator: Accelerator, parameters: list[nn.Parameter], limit: float) -> Tensor:
    """Clip the gradient of all shards to the norm `limit` (0 = no limit) and return its norm before.

    A gradient that is not finite is not changed, so that its origin can be reported.
    """
    accelerator.unscale_gradients()
    norm = everywhere(
        nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    )
    if limit:
        nn.utils.clip_grads_with_norm_(parameters, limit, torch.where(norm.isfinite(), norm, torch.zeros_like(norm)))
    return whole(norm)
