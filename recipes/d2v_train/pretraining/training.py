"""The training loop: gradients of the exact global mean, the teacher's update, log records and checkpoints."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from d2v_train.batching.batches import MicroBatch, StepDataset, load_steps
from d2v_train.engine.engine import clip_gradient, engine_name, prepare_for_engine
from d2v_train.health.guard import RunHealth, TrainingStopped
from d2v_train.health.ledger import BadSampleLedger, data_explained
from d2v_train.health.non_finite import NonFinitePolicy, where_not_finite
from d2v_train.measuring.backbone_flops import step_flops
from d2v_train.measuring.speed import SpeedMeter
from d2v_train.measuring.step_meter import StepMeter, one_line
from d2v_train.models.optim import build_optimizer, learning_rate, set_learning_rate
from d2v_train.options.run import Options
from d2v_train.pretraining.state import RunState, Stateful, states_by_name
from d2v_train.probing.observers import Observer, Observers
from d2v_train.runs.checkpoints import CheckpointFolder
from d2v_train.runs.interruptions import Interruptions
from d2v_train.runs.trackers import Trackers
from d2v_train.support.jsonl import RunLog
from d2v_train.support.processes import Processes
from modeling_d2v.objective import num_predicted


logger = logging.getLogger(__name__)


class Pretraining:
    """The training loop of a run.

    Args:
        options: Options of the run.
        accelerator: Engine for devices and precision.
        processes: Processes of the engine.
        model: `Data2VecForPreTraining`.
        steps: Micro-batches of this process by step.
        folder: Folder of the run, for `checkpoints` and `log.jsonl`.
        trackers: Trackers, which receive the log records.
        observers: Observers of the model, called at intervals.
        input_files: Files of the model's processor by name, stored in every checkpoint.

    Attributes:
        stateful: Parts with a state in checkpoints, besides weights, optimizer and random states, by name.
    """

    def __init__(
        self,
        options: Options,
        accelerator: Accelerator,
        processes: Processes,
        model: torch.nn.Module,
        steps: StepDataset,
        folder: Path,
        trackers: Trackers,
        observers: Sequence[Observer] = (),
        input_files: Mapping[str, bytes] | None = None,
    ):
        self.options, self.accelerator, self.processes, self.steps = options, accelerator, processes, steps
        self.inner = model
        optimizer = build_optimizer(model, options.optim)
        self.model, self.optimizer = prepare_for_engine(accelerator, model, optimizer, options.modalities)
        self.engine = engine_name(accelerator)
        # In the same order in all processes; the teacher has no gradient.
        self.trainable = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.log = RunLog(Path(folder) / "log.jsonl" if processes.main else None)
        self.checkpoints = CheckpointFolder(Path(folder) / "checkpoints", options.checkpoints, processes)
        self.state = RunState(
            self.checkpoints, model, self.optimizer, accelerator.scaler, processes, input_files or {}
        )
        self.outside = Interruptions(processes, options.checkpoints.minutes)
        self.speed = SpeedMeter(processes, step_flops(model.config, options.freeze == "blocks"))
        self.trackers = trackers
        self.meter = StepMeter(processes, self.speed)
        self.bad_samples = BadSampleLedger(
            Path(folder) / "bad_samples.jsonl", options.health.max_bad_fraction, processes
        )
        self.health = RunHealth(options, model.config, steps.plan.sizes, folder, processes)
        self.finite = NonFinitePolicy(options.health, self.health.note)
        self.observers = Observers(observers)
        self.stateful: dict[str, Stateful] = {
            "log": self.log,
            "meter": self.meter,
            "non_finite": self.finite,
            "bad_samples": self.bad_samples,
        }
        self.step = 0
        self.seconds = 0.0

    @property
    def samples(self) -> int:
        """Number of samples of all log intervals since the run began."""
        return self.meter.samples

    # -- one step

    def train_step(self, micro_batches: list[MicroBatch]) -> bool:
        """Run forward and backward passes, the optimizer step and the teacher update.

        Returns:
            Whether the weights changed; a step whose loss or gradient is not finite is skipped.
        """
        rate = self.learning_rate_at(self.step)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        counts = self.count_items(micro_batches)
        weights = self.options.loss_weights(list(counts))
        losses = {name: torch.zeros((), device=self.processes.device) for name in counts}
        for place, batch in enumerate(micro_batches):
            last = place + 1 == len(micro_batches)
            # Gradients are reduced with the last micro-batch only.
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                with self.accelerator.autocast():
                    output = self.model(**batch.inputs, step=self.step, **counts[batch.modality])
                # The engines average gradients; the loss of each process is its part of one global sum.
                scaled = output.loss * (weights[batch.modality] * self.processes.count)
                self.accelerator.backward(scaled)
            losses[batch.modality] += output.loss.detach().float()
            first = place == 0 or micro_batches[place - 1].modality != batch.modality
            self.meter.collect(batch, output, first)
        parameters = list(self.trainable.values())
        grad_norm = clip_gradient(self.accelerator, parameters, self.options.optim.max_grad_norm)
        moved = self.step_if_finite(losses, grad_norm)
        self.meter.add_grad_norm(grad_norm, moved)
        self.meter.finish_step()
        self.step += 1
        if moved:
            self.inner.update_teacher(self.step)
        else:
            self.inner.skip_update()
        return moved

    def count_items(self, micro_batches: list[MicroBatch]) -> dict[str, dict[str, Tensor]]:
        """Count the denominators of the losses over all processes and micro-batches.

        Returns:
            `num_items` (predicted tokens) and `num_rows` (samples times masks), by modality.
        """
        counts: dict[str, Tensor] = {}
        for batch in micro_batches:
            mask = batch.inputs["mask"]
            items = num_predicted(self.inner.config.modality_config(batch.modality), mask)
            count = torch.stack([items, mask.new_full((), mask.shape[:2].numel(), dtype=torch.int64)])
            counts[batch.modality] = counts[batch.modality] + count if batch.modality in counts else count
        total = self.processes.sum(torch.stack(list(counts.values())))
        return {name: {"num_items": items, "num_rows": rows}
                for name, (items, rows) in zip(counts, total, strict=True)}  # fmt: skip

    def step_if_finite(self, losses: dict[str, Tensor], grad_norm: Tensor) -> bool:
        """Run the optimizer step, unless the loss or the gradient of any process is not finite.

        Raises:
            TrainingStopped: If there are too many such steps, see `NonFinitePolicy`.
        """
        # The only host synchronisation of a step: the weights must not change before the result is known.
        finite = torch.stack([*losses.values(), grad_norm.float()]).isfinite()
        bad = self.agree(~finite.all())
        scaler = self.accelerator.scaler
        if not bad or scaler is not None:
            self.optimizer.step()  # a gradient scaler skips the step by itself and lowers its scale
        if not bad:
            self.finite.good()
            return True
        # fp16 finds its scale by overflowing; an overflow counts only once the scale cannot be lowered.
        where = where_not_finite(losses, self.trainable.items(), self.processes.sum)
        self.finite.bad(self.step + 1, where, counts=scaler is None or scaler.get_scale() <= 1)
        return False

    def agree(self, bad: Tensor) -> bool:
        """Return whether `bad` holds in any process; the same sum shares signals that one process received."""
        bad, *wishes = self.processes.sum(torch.cat([bad.int().view(1), self.outside.wishes()])).tolist()
        self.outside.agree(wishes)
        return bool(bad)

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step (counted from 0)."""
        optim = self.options.optim
        return learning_rate(
            step,
            peak=optim.lr,
            least=optim.min_lr,
            warmup_steps=self.options.warmup_steps,
            total_steps=self.options.schedule_steps,
            hold_steps=self.options.hold_steps,
            curve=optim.curve,
        )

    # -- the run

    def run(self) -> dict[str, Any]:
        """Train up to `max_steps`.

        Returns:
            Summary: steps, seconds, samples, skipped steps and the last log record.

        Raises:
            RunInterrupted: If a signal stopped the run; a checkpoint of its present step was written.
        """
        options, processes = self.options, self.processes
        self.log.open(self.step)
        self.health.open(self.step)
        self.bad_samples.open(self.step)
        batches = load_steps(
            self.steps,
            self.step,
            options.max_steps,
            options.data.num_workers,
            options.data.prefetch,
            pin_memory=processes.device.type == "cuda",
        )
        self.model.train()
        record: dict[str, Any] = self.log.last
        # Only terminals get a progress bar; a log file gets one line per interval instead.
        shown = processes.main and sys.stderr.isatty()
        bar = tqdm(total=options.max_steps, initial=self.step, disable=not shown, unit="step")
        started = time.perf_counter()
        self.speed.open()
        if self.step == 0 and not self.log.last:
            self.observe(alone=True)
        with self.outside, bar:
            while self.step < options.max_steps:
                before = time.perf_counter()
                with data_explained():
                    micro_batches = next(batches)
                self.speed.waited += time.perf_counter() - before
                self.speed.count(micro_batches)
                self.train_step([self.to_device(batch) for batch in micro_batches])
                self.bad_samples.add(self.step, [batch.report for batch in micro_batches])
                bar.update()
                now = time.perf_counter()
                # At each step, so that the record is right however the run ends.
                self.seconds, started = self.seconds + now - started, now
                logged = self.step % options.logging.every == 0 or self.step == options.max_steps
                seen = self.observe(alone=not logged)
                if logged:
                    record = self.report(seen)
                    line = one_line(record, options.max_steps)
                    bar.set_postfix_str(line.split("  ", 1)[1]) if shown else logger.info("%s", line)
                if self.checkpoint_is_due():
                    with self.speed.paused():
                        self.log.flush()
                        self.health.events.flush()
                        self.save()
                    self.outside.saved()
                if self.outside.stop:
                    raise self.outside.interruption(self.checkpoints.whole()[-1])
            # A signal may have come while the last checkpoint was written.
            self.agree(torch.zeros(1, device=processes.device))
            if self.outside.stop:
                raise self.outside.interruption(self.checkpoints.whole()[-1])
        return {
            "steps": self.step,
            "seconds": round(self.seconds, 3),
            "samples": self.samples,
            "skipped_steps": self.finite.skipped,
            **self.bad_samples.summary(),
            "last": record,
        }

    def save(self) -> Path:
        """Write a checkpoint of the present step and return its folder."""
        # Before the checkpoint: a run resumed from it does not read these samples again.
        self.bad_samples.flush(to_disk=True)
        self.checkpoints.sound_step = self.health.guard.sound_step
        progress = {
            "seconds": self.seconds,
            "data": self.steps.fingerprint,
            "state": {name: part.state_dict() for name, part in self.stateful.items()},
        }
        return self.state.save(self.step, progress, self.meter.window.state_dict())

    def resume(self, checkpoint: Path) -> None:
        """Restore the run from a checkpoint.

        Raises:
            CheckpointError: If the checkpoint is incomplete, or of another model.
            OptionError: If the data is not that of the checkpoint.
        """
        progress, window = self.state.load(checkpoint, self.steps.fingerprint)
        self.step, self.seconds = progress["step"], progress["seconds"]
        states = states_by_name(progress)
        for name, part in self.stateful.items():
            part.load_state_dict(states[name])
        if window is not None:
            self.meter.window.load_state_dict(window)

    def checkpoint_is_due(self) -> bool:
        """Return whether a checkpoint is due after this step."""
        checkpoints = self.options.checkpoints
        intervals = (checkpoints.every, checkpoints.keep_every, self.options.max_steps)
        return self.outside.checkpoint or any(every and self.step % every == 0 for every in intervals)

    def to_device(self, batch: MicroBatch) -> MicroBatch:
        """Return the micro-batch on the device of this process."""
        device = self.processes.device
        return batch._replace(inputs={name: value.to(device, non_blocking=True)
                                      for name, value in batch.inputs.items()})  # fmt: skip

    def observe(self, alone: bool) -> dict[str, Any]:
        """Return the values of the observers that are due after this step; their time does not count as training.

        Args:
            alone: Whether the values get a log line of their own, because no log record follows.
        """
        if not self.observers.due(self.step):
            return {}
        with self.speed.paused():
            seen = self.observers.look(self.inner, self.step)
        if seen and alone:
            self.log.write({"step": self.step} | seen)
            self.trackers.log({"step": self.step} | seen)
        return seen

    def report(self, seen: dict[str, Any]) -> dict[str, Any]:
        """Write the log record of the interval that ends here.

        Args:
            seen: Values of the observers after this step.

        Raises:
            TrainingStopped: If training diverged, collapsed or has too many bad samples.
        """
        record = {"step": self.step, "lr": self.learning_rate_at(self.step - 1),
                  "ema_decay": float(self.inner.teacher_decay(self.step))}  # fmt: skip
        record |= self.meter.record()
        record |= self.steps.epochs(self.step)
        record["skipped_steps"] = self.finite.skipped
        self.bad_samples.flush()
        record |= self.bad_samples.record()
        record |= seen
        self.log.write(record)
        self.trackers.log(record)
        self.bad_samples.check()
        try:
            self.health.check(record)
        except TrainingStopped as error:
            raise TrainingStopped(f"{error} {self.way_back()}") from None
        return record

    def way_back(self) -> str:
        """Return a sentence about the newest checkpoint from before the damage."""
        self.checkpoints.sound_step = self.health.guard.sound_step
        sound = self.checkpoints.newest_sound()
        if sound is None:
            return "There is no checkpoint from before that: start anew, in another output_dir."
        return (
            f"The newest checkpoint from before that is {sound}: start from it with init_from={sound} and another "
            "output_dir. The same command would continue from the newest one and stop again."
        )
