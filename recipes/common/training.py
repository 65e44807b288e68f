"""The training loop: gradients of the exact global mean, the teacher's update, log records and checkpoints."""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from recipes.common.batches import MicroBatch, StepDataset, load_steps
from recipes.common.checkpointing import CheckpointFolder
from recipes.common.health import HealthGuard, NonFinitePolicy
from recipes.common.optim import build_optimizer, learning_rate, set_learning_rate
from recipes.common.options import Options
from recipes.common.reporting import StepMeter
from recipes.common.run_state import save_run
from recipes.common.runlog import RunLog, one_line


logger = logging.getLogger(__name__)


class Pretraining:
    """A run over the steps of a plan.

    Args:
        options: the run's options.
        accelerator: engine for devices, processes and precision.
        model: a `Data2VecForPreTraining`.
        steps: this process's micro-batches by step.
        folder: folder of the run, for `checkpoints` and `log.jsonl`.
    """

    def __init__(
        self,
        options: Options,
        accelerator: Accelerator,
        model: torch.nn.Module,
        steps: StepDataset,
        folder: Path,
    ):
        self.options, self.accelerator, self.steps = options, accelerator, steps
        self.inner = model
        self.model, self.optimizer = accelerator.prepare(model, build_optimizer(model, options.optim))
        keep_buffers_apart(self.model)
        # In the fixed order of one list: the teacher has no gradient.
        self.trainable = [parameter for parameter in self.inner.parameters() if parameter.requires_grad]
        self.log_path = Path(folder) / "log.jsonl"
        self.checkpoints = CheckpointFolder(
            Path(folder) / "checkpoints",
            options.keep_last,
            accelerator.process_index,
            accelerator.wait_for_everyone,
        )
        self.meter = StepMeter(accelerator.device, self.sum_over_processes, accelerator.is_main_process)
        self.finite = NonFinitePolicy(options.max_bad_steps)
        self.guard = HealthGuard(options, list(steps.plan.sizes))
        self.step = 0
        self.seconds = 0.0

    # -- one step

    def train_step(self, micro_batches: list[MicroBatch]) -> bool:
        """Forward, backward, optimizer step and teacher update.

        Returns:
            Whether the weights moved; they do not when the loss or the gradient is not finite.
        """
        rate = self.learning_rate_at(self.step)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        masked = self.count_masked(micro_batches)
        weights = self.loss_weights(list(masked))
        loss = torch.zeros((), device=self.accelerator.device)
        for place, batch in enumerate(micro_batches):
            synchronise = place + 1 == len(micro_batches)
            with contextlib.nullcontext() if synchronise else self.accelerator.no_sync(self.model):
                output = self.model(**batch.inputs, step=self.step, num_items=masked[batch.modality])
                # DistributedDataParallel averages gradients; each process holds its part of one global sum.
                scaled = output.loss * (weights[batch.modality] * self.accelerator.num_processes)
                self.accelerator.backward(scaled)
            loss += output.loss.detach().float()
            first = place == 0 or micro_batches[place - 1].modality != batch.modality
            self.meter.collect(batch, output, first)
        limit = self.options.optim.max_grad_norm or float("inf")
        grad_norm = self.accelerator.clip_grad_norm_(self.trainable, limit)
        moved = self.step_if_finite(loss, grad_norm)
        self.meter.add_grad_norm(grad_norm, moved)
        self.meter.finish_step()
        self.step += 1
        if moved:
            self.inner.update_teacher(self.step)
        return moved

    def count_masked(self, micro_batches: list[MicroBatch]) -> dict[str, Tensor]:
        """Masked tokens by modality over all processes and micro-batches: what the losses are divided by."""
        counts: dict[str, Tensor] = {}
        for batch in micro_batches:
            count = batch.inputs["mask"].sum()
            counts[batch.modality] = counts[batch.modality] + count if batch.modality in counts else count
        if self.accelerator.num_processes > 1:
            total = self.sum_over_processes(torch.stack(list(counts.values())))
            counts = dict(zip(counts, total.unbind(), strict=True))
        return counts

    def loss_weights(self, modalities: list[str]) -> dict[str, float]:
        """Weight of each modality's loss in the step: its ratio, normalised over the modalities of the step."""
        ratios = {name: getattr(self.options, name).ratio for name in modalities}
        return {name: ratio / sum(ratios.values()) for name, ratio in ratios.items()}

    def step_if_finite(self, loss: Tensor, grad_norm: Tensor) -> bool:
        """Optimizer step, unless the loss or the gradient of any process is not finite.

        Raises:
            TrainingStopped: after `max_bad_steps` such steps in a row.
        """
        bad = ~(torch.isfinite(loss) & torch.isfinite(grad_norm))
        # The one host synchronisation of a step: the weights must not move before it is known.
        bad = bool(self.sum_over_processes(bad.int()))
        scaler = self.accelerator.scaler
        if not bad or scaler is not None:
            self.optimizer.step()  # a gradient scaler leaves out the step by itself and lowers its scale
        if not bad:
            self.finite.good()
            return True
        # fp16 finds its scale by overflowing; only once that is exhausted does an overflow mean trouble.
        self.finite.bad(self.step + 1, counts=scaler is None or scaler.get_scale() <= 1)
        return False

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step (counted from 0)."""
        optim = self.options.optim
        return learning_rate(
            step,
            peak=optim.lr,
            least=optim.min_lr,
            warmup_steps=self.options.warmup_steps,
            total_steps=self.options.schedule_steps,
        )

    # -- the run

    def run(self) -> dict[str, Any]:
        """Trains to `max_steps`.

        Returns:
            Summary: steps, seconds, samples, skipped steps and the last log record.
        """
        options, accelerator = self.options, self.accelerator
        log = RunLog(self.log_path if accelerator.is_main_process else None, self.step)
        batches = load_steps(
            self.steps,
            self.step,
            options.max_steps,
            options.data.num_workers,
            options.data.prefetch,
            pin_memory=accelerator.device.type == "cuda",
        )
        self.model.train()
        record: dict[str, Any] = log.last
        bar = tqdm(total=options.max_steps, initial=self.step, disable=not accelerator.is_main_process, unit="step")
        started = time.perf_counter()
        self.meter.open()
        with bar:
            while self.step < options.max_steps:
                before = time.perf_counter()
                micro_batches = next(batches)
                self.meter.waited += time.perf_counter() - before
                self.train_step([self.to_device(batch) for batch in micro_batches])
                bar.update()
                if self.step % options.log_every == 0 or self.step == options.max_steps:
                    record = self.report(log)
                    bar.set_postfix_str(one_line(record).split("  ", 1)[1])
                due = options.checkpoint_every and self.step % options.checkpoint_every == 0
                if due or self.step == options.max_steps:
                    self.seconds += time.perf_counter() - started
                    started = time.perf_counter()
                    save_run(self)
        return {
            "steps": self.step,
            "seconds": round(self.seconds, 3),
            "samples": self.meter.samples,
            "skipped_steps": self.finite.skipped,
            "last": record,
        }

    def to_device(self, batch: MicroBatch) -> MicroBatch:
        """The micro-batch on the device of this process."""
        device = self.accelerator.device
        return batch._replace(inputs={name: value.to(device, non_blocking=True)
                                      for name, value in batch.inputs.items()})  # fmt: skip

    def report(self, log: RunLog) -> dict[str, Any]:
        """Writes the log record of the interval that ends here.

        Raises:
            TrainingStopped: the record shows that training cannot usefully go on.
        """
        record = {"step": self.step, "lr": self.learning_rate_at(self.step - 1),
                  "ema_decay": float(self.inner.teacher_decay(self.step))}  # fmt: skip
        record |= self.meter.record()
        record |= {f"{name}/epoch": round(self.steps.plan.epoch(self.step, name), 4) for name in self.steps.plan.sizes}
        record["skipped_steps"] = self.finite.skipped
        log.write(record)
        if self.options.report_to:
            self.accelerator.log({name: value for name, value in record.items() if name != "step"}, step=self.step)
        self.guard.check(record)
        return record

    def sum_over_processes(self, values: Tensor) -> Tensor:
        """Sum of a tensor over all processes."""
        return self.accelerator.reduce(values, reduction="sum") if self.accelerator.num_processes > 1 else values


def keep_buffers_apart(model: torch.nn.Module) -> None:
    """Has DistributedDataParallel leave the buffers alone in each forward pass; all processes compute the same ones.

    Set afterwards, because torch is about to rename the argument of the constructor and warns of the old name.
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    if isinstance(model, torch.nn.parallel.DistributedDataParallel):
        model.broadcast_buffers = False
