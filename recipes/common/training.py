"""The training loop: gradients of the exact global mean, the teacher's update, guards, log and checkpoints."""

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
from recipes.common.checkpointing import CheckpointError, CheckpointFolder, load_checkpoint, restore_random_states
from recipes.common.diagnostics import explained_by_position, explained_by_prediction
from recipes.common.optim import build_optimizer, learning_rate, set_learning_rate
from recipes.common.options import OptionError, Options
from recipes.common.runlog import MetricsWindow, RunLog, one_line, peak_memory_gib


logger = logging.getLogger(__name__)


# Share of the targets' variance explained by position above which a run is warned; pictures of digits reach 0.88 in a
# run that learns well.
POSITION_ALARM = 0.95


class TrainingStopped(RuntimeError):
    """Training cannot usefully go on; the message says why and what to change."""


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
        self.window = MetricsWindow(accelerator.device)
        self.step = 0
        self.skipped = 0
        self.bad_in_a_row = 0
        self.seconds = 0.0
        self.samples = 0
        self.warned: set[str] = set()

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
            self.collect(batch, output, first)
        limit = self.options.optim.max_grad_norm or float("inf")
        grad_norm = self.accelerator.clip_grad_norm_(self.trainable, limit)
        moved = self.step_if_finite(loss, grad_norm)
        self.window.add("grad_norm", grad_norm if moved else 0.0, int(moved))
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
            self.bad_in_a_row = 0
            return True
        self.skipped += 1
        # fp16 finds its scale by overflowing; only once that is exhausted does an overflow mean trouble.
        self.bad_in_a_row += scaler is None or scaler.get_scale() <= 1
        logger.warning("Step %d was skipped: its loss or gradient is not finite.", self.step + 1)
        if self.bad_in_a_row >= self.options.max_bad_steps:
            raise TrainingStopped(
                f"The loss or gradient was not finite in {self.bad_in_a_row} steps in a row, the last one step "
                f"{self.step + 1}; the weights were left as they were before. Lower optim.lr, lengthen optim.warmup, "
                "set optim.max_grad_norm, use mixed_precision=bf16 instead of fp16, or check the data for values "
                "that are not finite. The last checkpoint is from before these steps."
            )
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

    def collect(self, batch: MicroBatch, output: Any, first: bool) -> None:
        """Adds what a forward pass reports to the window; `first` of its modality in the step counts the step."""
        # A step's loss is the sum over micro-batches and processes: one process's first part carries its weight.
        weight = int(first and self.accelerator.is_main_process)
        self.window.add(f"{batch.modality}/loss", output.loss, weight)
        for name, value in output.losses.items():
            self.window.add(f"{batch.modality}/loss_{name}", value, weight)
        for name in ("prediction_std", "target_std"):
            self.window.add(f"{batch.modality}/{name}", getattr(output, name))
        masks = batch.inputs["mask"].shape[1]
        self.window.add(f"{batch.modality}/masked_fraction", output.num_items, batch.tokens * masks)
        # Once an interval is enough for what is only watched.
        if f"{batch.modality}/explained_by_position" not in self.window.sums:
            prediction = explained_by_prediction(output.predictions, output.targets)
            self.window.add(f"{batch.modality}/explained_by_prediction", prediction)
            position = explained_by_position(output.targets, output.mask)
            self.window.add_if_known(f"{batch.modality}/explained_by_position", position)
        self.window.add("samples", len(batch.inputs["mask"]))
        self.window.add("tokens", batch.tokens)

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
        opened, waited = started, 0.0
        with bar:
            while self.step < options.max_steps:
                before = time.perf_counter()
                micro_batches = next(batches)
                waited += time.perf_counter() - before
                self.train_step([self.to_device(batch) for batch in micro_batches])
                bar.update()
                if self.step % options.log_every == 0 or self.step == options.max_steps:
                    elapsed = time.perf_counter() - opened
                    record = self.report(elapsed, waited, log)
                    bar.set_postfix_str(one_line(record).split("  ", 1)[1])
                    opened, waited = time.perf_counter(), 0.0
                due = options.checkpoint_every and self.step % options.checkpoint_every == 0
                if due or self.step == options.max_steps:
                    self.seconds += time.perf_counter() - started
                    started = time.perf_counter()
                    self.save()
        return {
            "steps": self.step,
            "seconds": round(self.seconds, 3),
            "samples": self.samples,
            "skipped_steps": self.skipped,
            "last": record,
        }

    def to_device(self, batch: MicroBatch) -> MicroBatch:
        """The micro-batch on the device of this process."""
        device = self.accelerator.device
        return batch._replace(inputs={name: value.to(device, non_blocking=True)
                                      for name, value in batch.inputs.items()})  # fmt: skip

    def report(self, elapsed: float, waited: float, log: RunLog) -> dict[str, Any]:
        """Writes the log line of the interval that ends here.

        Raises:
            TrainingStopped: targets or predictions have collapsed.
        """
        accelerator = self.accelerator
        totals = {name: self.window.sums[name] for name in ("samples", "tokens")}
        means = self.window.means(self.sum_over_processes)
        samples, tokens = self.sum_over_processes(torch.stack(list(totals.values()))).tolist()
        self.samples += round(samples)
        self.window.clear()
        record = {"step": self.step, "lr": self.learning_rate_at(self.step - 1),
                  "ema_decay": float(self.inner.teacher_decay(self.step))}  # fmt: skip
        record |= {name: value for name, value in means.items() if name not in totals}
        record |= {f"{name}/epoch": round(self.steps.plan.epoch(self.step, name), 4) for name in self.steps.plan.sizes}
        record |= {
            "skipped_steps": self.skipped,
            "samples": self.samples,
            "samples_per_s": samples / elapsed,
            "tokens_per_s": tokens / elapsed,
            "data_wait": waited / elapsed,
            "peak_memory_gib": peak_memory_gib(accelerator.device),
        }
        log.write(record)
        if self.options.report_to:
            accelerator.log({name: value for name, value in record.items() if name != "step"}, step=self.step)
        self.warn_of_empty_targets(record)
        self.check_collapse(record)
        return record

    def sum_over_processes(self, values: Tensor) -> Tensor:
        """Sum of a tensor over all processes."""
        return self.accelerator.reduce(values, reduction="sum") if self.accelerator.num_processes > 1 else values

    def check_collapse(self, record: dict[str, Any]) -> None:
        """Stops a run whose targets or predictions no longer differ from token to token."""
        if self.step <= self.options.warmup_steps or self.step < self.options.std_check_from:
            return
        floors = {"target_std": self.options.min_target_std, "prediction_std": self.options.min_prediction_std}
        for name in self.steps.plan.sizes:
            for kind, floor in floors.items():
                value = record.get(f"{name}/{kind}")
                if value is not None and value < floor:
                    raise TrainingStopped(
                        f"The {kind} of {name} is {value:.4f} at step {self.step}, below min_{kind}={floor}: tokens "
                        "no longer differ. Lower optim.lr, lengthen optim.warmup, raise model.ema_decay, or mask more "
                        f"of the input; min_{kind}=0 switches this check off."
                    )

    def warn_of_empty_targets(self, record: dict[str, Any]) -> None:
        """Says so when a good loss would be no good sign."""
        for name in self.steps.plan.sizes:
            share = record.get(f"{name}/explained_by_position", 0.0)
            early = self.step <= self.options.warmup_steps or self.step < self.options.std_check_from
            if not early and share > POSITION_ALARM and name not in self.warned:
                self.warned.add(name)
                logger.warning(
                    "Step %d: %.0f %% of the variance of the %s targets is the same in every sample at the same "
                    "position, so they can be predicted without looking at the input. Vary the position of the "
                    "content (random crops, concatenation), or narrow the position convolutions; trust a probe, not "
                    "the loss.",
                    self.step,
                    100 * share,
                    name,
                )

    # -- saving and resuming

    def save(self) -> Path:
        """Writes a checkpoint of the present step."""
        scaler = self.accelerator.scaler
        optimizer_state = {
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        progress = {
            "skipped": self.skipped,
            "bad_in_a_row": self.bad_in_a_row,
            "seconds": self.seconds,
            "samples": self.samples,
            "processes": self.accelerator.num_processes,
            "data": self.steps.fingerprint,
        }
        return self.checkpoints.save(
            self.step,
            self.inner.state_dict(),
            optimizer_state,
            progress,
            own_state=self.window.state(),
            texts={"config.json": self.inner.config.to_json_string()},
        )

    def resume(self, checkpoint: Path) -> None:
        """Puts everything back to what it was when the checkpoint was written.

        Raises:
            CheckpointError: the checkpoint is torn, or of another model.
            OptionError: the data is not that of the checkpoint.
        """
        content = load_checkpoint(checkpoint, self.accelerator.process_index)
        check_same_data(content["progress"].get("data"), self.steps.fingerprint, checkpoint)
        try:
            self.inner.load_state_dict(content["model"])
        except RuntimeError as error:
            raise CheckpointError(f"The weights in {checkpoint} are of another model: {error}") from error
        self.optimizer.load_state_dict(content["optimizer"]["optimizer"])
        if self.accelerator.scaler is not None and content["optimizer"]["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(content["optimizer"]["scaler"])
        progress = content["progress"]
        self.step, self.skipped = progress["step"], progress["skipped"]
        self.bad_in_a_row, self.seconds = progress["bad_in_a_row"], progress["seconds"]
        self.samples = progress["samples"]
        if content["own"] is not None:
            self.window.restore(content["own"]["state"])
            restore_random_states(content["own"]["random"])
        if progress["processes"] != self.accelerator.num_processes:
            logger.warning(
                "The checkpoint was written by %d processes, this run has %d: samples and masks go on as planned, "
                "dropout and noise do not.",
                progress["processes"],
                self.accelerator.num_processes,
            )


def keep_buffers_apart(model: torch.nn.Module) -> None:
    """Has DistributedDataParallel leave the buffers alone in each forward pass; all processes compute the same ones.

    Set afterwards, because torch is about to rename the argument of the constructor and warns of the old name.
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    if isinstance(model, torch.nn.parallel.DistributedDataParallel):
        model.broadcast_buffers = False


def check_same_data(saved: dict[str, Any] | None, present: dict[str, Any] | None, checkpoint: Path) -> None:
    """Refuses to go on with data that would not give the sample order of the run.

    Args:
        saved: `StepDataset.fingerprint` of the checkpoint; None in those written before it was kept.
        present: that of the data now.
        checkpoint: for the message.

    Raises:
        OptionError: names the modality and what differs.
    """
    for name, before in (saved or {}).items():
        now = (present or {}).get(name)
        if now is None or now == before:
            continue
        changed = [f"{what} {before.get(what)} -> {value}" for what, value in now.items() if before.get(what) != value]
        raise OptionError(
            f"The {name} data is not what it was when {checkpoint} was written ({', '.join(changed)}), so the samples "
            "of the run would not come in their order. Put the data back to resume, or choose a new output_dir, with "
            f"init_from={checkpoint} to start from these weights."
        )
