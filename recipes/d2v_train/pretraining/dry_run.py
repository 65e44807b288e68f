"""Parameters, memory, data, time and disk of a run, without starting it.

A few steps run with the real data, model and engine in a temporary folder; the folder of the run is neither created
nor written to.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from d2v_train.batching.batches import MicroBatch, StepDataset, load_steps
from d2v_train.health.advice import advice_at_start
from d2v_train.measuring.memory import FULL, activation_bytes, current_memory, free_memory, state_bytes
from d2v_train.measuring.speed import DTYPES, peak_memory_gib
from d2v_train.options.errors import OptionError
from d2v_train.options.run import Options
from d2v_train.pretraining.dry_run_table import ADVICE, known_table, measured_table
from d2v_train.pretraining.state import checkpoint_bytes
from d2v_train.pretraining.training import Pretraining
from d2v_train.runs.trackers import Trackers
from d2v_train.support.processes import Processes
from d2v_train.support.text import readable_bytes


STEPS = 3
"""Steps of each kind (each modality, or the mixture) that are run; the first one is not timed."""
SLOW_STEP_SECONDS = 20.0
"""A first step of at least this many seconds is timed, and no other one is run."""
COUNTED = 2000
"""Maximum number of steps whose samples are counted; with token budgets, counting plans all samples before them."""
_OWNERS = {
    "data2vec.encoder": "shared blocks",
    "data2vec.modality_encoders": "front end",
    "decoders": "decoder",
    "teacher": "teacher",
}


def dry_run(
    options: Options, accelerator: Accelerator, processes: Processes, model: nn.Module, steps: StepDataset
) -> dict[str, Any]:
    """Print what is known at once, then run a few steps and print what was measured.

    Returns:
        The content of the table: "model", "memory", "data", "run", "advice".
    """
    parameters = count_parameters(model)
    advice = [finding.message for finding in advice_at_start(options, model.config)]
    if processes.main:
        print(known_table(options, parameters, steps.plan.sizes, advice), flush=True)
    with tempfile.TemporaryDirectory(prefix="dry_run_") as scratch:
        trackers = Trackers(accelerator, options.logging, Path(scratch))
        run = Pretraining(options, accelerator, processes, model, steps, Path(scratch), trackers)
        rehearsal = Rehearsal(run)
        rehearsal.take()
    facts = {"model": parameters, **rehearsal.facts(), "advice": advice}
    if processes.main:
        print(measured_table(options, facts), flush=True)
    return facts


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Count parameters by part: front ends and decoders of each modality, shared blocks, teacher."""
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        prefix = next((prefix for prefix in _OWNERS if name.startswith(prefix)), None)
        part = _OWNERS.get(prefix, name.split(".")[0])
        if part in ("front end", "decoder"):
            part = f"{part} {name.removeprefix(prefix).split('.')[1]}"
        counts[part] += parameter.numel()
    order = ["front end", "shared blocks", "decoder", "teacher"]
    place = {name: next((i for i, part in enumerate(order) if name.startswith(part)), 0) for name in counts}
    return {name: counts[name] for name in sorted(counts, key=place.get)}


class Rehearsal:
    """A few steps of a run, and what was measured in them.

    Args:
        run: Run that was not started.
    """

    def __init__(self, run: Pretraining):
        self.run, self.options, self.plan = run, run.options, run.steps.plan
        self.processes, self.device = run.processes, run.processes.device
        self.kinds = Counter(tuple(self.plan.modalities_at(step)) for step in range(len(self.plan.pattern)))
        self.seconds: dict[tuple[str, ...], list[float]] = {kind: [] for kind in self.kinds}
        self.loading: list[float] = []
        self.batches: list[MicroBatch] = []
        self.activations: dict[str, int] = {}
        self.read: Counter[str] = Counter()
        self.before: int | None = None
        self.measured: float | None = None
        self.failure: str | None = None

    def take(self) -> None:
        """Run `STEPS` steps of each kind, or fewer if they are slow or do not fit into the memory."""
        self.run.speed.measure_peak(DTYPES[self.options.mixed_precision])
        self.before = current_memory(self.device)
        self.run.model.train()
        for kind, step in self._chosen():
            if sum(self.seconds[kind]) > SLOW_STEP_SECONDS:
                continue
            started = time.perf_counter()
            (batches,) = load_steps(self.run.steps, step, step + 1)
            self.loading.append(time.perf_counter() - started)
            self.batches += batches
            self.read.update(kind)
            self.failure = self._tried(self._measure, batches) or self.failure
            if self.failure is None:
                self.failure = self.processes.first_problem(self._shortage(batches))
            if self.failure is None:
                self._step(kind, step, batches)
        self.measured = None if self.failure else peak_memory_gib(self.device) * 2**30

    def _chosen(self) -> list[tuple[tuple[str, ...], int]]:
        """Return the first steps of each kind."""
        steps = ((tuple(self.plan.modalities_at(step)), step) for step in range(STEPS * len(self.plan.pattern)))
        found: dict[tuple[str, ...], list[int]] = {kind: [] for kind in self.kinds}
        for kind, step in steps:
            if len(found[kind]) < STEPS:
                found[kind].append(step)
        return [(kind, step) for kind, taken in found.items() for step in taken]

    def _measure(self, batches: list[MicroBatch]) -> None:
        """Note the activations of the largest micro-batch of each modality, with what to call it."""
        for name in dict.fromkeys(batch.modality for batch in batches):
            own = (batch for batch in batches if batch.modality == name)
            largest = max(own, key=lambda batch: batch.inputs["mask"].numel())
            label = f"{len(largest.inputs['mask'])} samples of {name}"
            inputs = self.run.to_device(largest).inputs
            with self.run.accelerator.autocast():
                size = activation_bytes(self.run.inner, inputs)
            self.activations[label] = max(size, self.activations.get(label, 0))

    def _shortage(self, batches: list[MicroBatch]) -> str | None:
        """Return a message if a step is expected not to fit into the memory."""
        free = free_memory(self.device)
        if free is None:
            return None
        parts = self._state()
        later = 0 if any(self.seconds.values()) else parts["gradients"] + parts["optimizer"]
        needed = later + max(self.activations.values())
        if needed < free:
            return None
        return f"it takes about {readable_bytes(needed)} more, and the machine has {readable_bytes(free)} left."

    def _step(self, kind: tuple[str, ...], step: int, batches: list[MicroBatch]) -> None:
        """Run and time a step; if it does not fit into the memory, record that in `failure`.

        Raises:
            OptionError: If it does not fit, and there are other processes.
        """
        started = time.perf_counter()
        self.run.step = step
        self.failure = self._tried(lambda: self.run.train_step([self.run.to_device(batch) for batch in batches]))
        if self.failure is not None:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        # The same number in all processes, which decide by it whether to run another step.
        taken = torch.tensor(time.perf_counter() - started, device=self.device)
        self.seconds[kind].append(self.processes.sum(taken).item() / self.processes.count)

    def _tried(self, attempt: Callable[..., Any], *arguments: Any) -> str | None:
        """Do what may not fit into the memory, and return what the error says if it does not.

        Raises:
            OptionError: it does not, and there are other processes.
        """
        try:
            attempt(*arguments)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failure = str(error).splitlines()[0]
            if self.processes.count > 1:
                # The others are in the middle of the step and wait for this one.
                raise OptionError(
                    f"A step does not fit into the memory of process {self.processes.rank}: "
                    f"{failure}. {ADVICE} A dry run of a single process tells the estimate all the same."
                ) from error
            return failure
        return None

    def facts(self) -> dict[str, Any]:
        """Return what was measured, for the run as a whole. Every process must call it."""
        return {"memory": self._memory(), "data": self._data(), "run": self._run()}

    def _memory(self) -> dict[str, Any]:
        """Return estimated bytes by part and their sum, bytes in use before, and the measured peak."""
        parts, largest = self._state(), None
        held = parts["weights"] + parts["teacher"]
        if self.activations:
            largest, parts["activations"] = max(self.activations.items(), key=lambda entry: entry[1])
        return {
            "parts": parts,
            "largest": largest,
            "before": 0 if self.before is None else max(self.before - held, 0),
            "estimate": sum(parts.values()),
            "measured": self.measured,
            "failure": self.failure,
        }

    def _state(self) -> dict[str, int]:
        """Return the bytes by part of what a process keeps between steps."""
        shards = self.processes.count if self.run.accelerator.is_fsdp2 else 1
        return state_bytes(self.run.inner, self.options.mixed_precision != "no", shards)

    def _data(self) -> dict[str, dict[str, Any]]:
        """Return by modality: samples, tokens and padding of a step, samples of the data, passes over its sources."""
        counted = min(self.options.max_steps, COUNTED)
        times = self.options.max_steps / counted
        passes = {name: times * epoch for name, epoch in self.run.steps.epochs(counted).items()}
        found = {}
        for name, size in self.plan.sizes.items():
            own = [batch for batch in self.batches if batch.modality == name]
            sums = [
                sum(len(batch.inputs["mask"]) for batch in own),
                sum(batch.tokens for batch in own),
                sum(batch.inputs["mask"][:, 0].numel() for batch in own),
            ]
            sums = self.processes.sum(torch.tensor(sums, dtype=torch.float32, device=self.device)).tolist()
            samples, tokens, places = (value / self.read[name] for value in sums)
            found[name] = {
                "samples a step": round(samples, 1),
                "tokens a step": round(tokens, 1),
                "padding": 1 - tokens / places,
                "samples in the data": size,
                "passes": {key: value for key, value in passes.items() if key.startswith(f"{name}/")},
            }
        return found

    def _run(self) -> dict[str, Any]:
        """Return the time of a step and of the run, and the disk space of its files."""
        speed, total = self.run.speed, sum(self.kinds.values())
        shares = {kind: count / total for kind, count in self.kinds.items()}
        found: dict[str, Any] = {"steps": self.options.max_steps, "loading a step": fmean(self.loading)}
        operations = self._operations(shares)
        if operations:
            found |= {"operations a step": operations, "matmul rate": speed.peak}
        if self.failure is None:
            step = sum(shares[kind] * fmean(taken[1:] or taken) for kind, taken in self.seconds.items())
            if operations:
                found["utilisation"] = operations / step / speed.peak
            found["seconds a step"] = self._with_loading(step, found["loading a step"])
        elif operations:
            found["seconds a step"] = operations / speed.peak
        if "seconds a step" in found:
            found["seconds"] = found["seconds a step"] * self.options.max_steps
        one = checkpoint_bytes(self.run.inner)
        checkpoints = self.options.checkpoints
        kept = checkpoints.keep_last + 1  # the next one is written before the oldest is removed
        kept += self.options.max_steps // checkpoints.keep_every if checkpoints.keep_every else 0
        model = FULL * sum(parameter.numel() for parameter in self.run.inner.parameters())
        return found | {"checkpoint": one, "checkpoints": kept, "disk": one * kept + model}

    def _operations(self, shares: dict[tuple[str, ...], float]) -> float:
        """Return the operations of a step of all processes, averaged over the kinds of steps."""
        flops = self.run.speed.flops
        if flops is None:
            return 0.0
        by_name = Counter[str]()
        for batch in self.batches:
            by_name[batch.modality] += flops(batch.modality, batch.inputs)
        own = sum(share * sum(by_name[name] / self.read[name] for name in kind) for kind, share in shares.items())
        return self.processes.sum(torch.tensor(own, dtype=torch.float32, device=self.device)).item()

    def _with_loading(self, step: float, loading: float) -> float:
        """Return the seconds of a step with its data, which is prepared between steps or by workers meanwhile."""
        workers = self.options.data.num_workers
        return max(step, loading / workers) if workers else step + loading


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is about memory; CPUs have no exception of their own for it."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
