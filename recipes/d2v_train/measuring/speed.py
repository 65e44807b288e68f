"""Speed of a run, and its share of the machine's measured matrix-product rate.

Everything is counted on the host, from the batches before they go to the device: no synchronisation is added. Padding
counts as work but not as tokens. `paused` excludes the time of checkpoints and probes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from d2v_train.batching.batches import MicroBatch
from d2v_train.measuring.backbone_flops import FlopCounter
from d2v_train.support.processes import ONE_PROCESS, Processes


SPEED_FACTS = ("samples_per_s", "tokens_per_s", "step_seconds", "utilisation", "data_wait", "peak_memory_gib")
"""Measurements of `SpeedMeter.facts`, which differ between runs of the same options."""
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def matmul_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.05) -> float:
    """Return the best rate of square matrix products on random data, in operations per second.

    Args:
        device: Device of the run; a CPU is measured with the threads of this process.
        dtype: Dtype of the products.
        seconds: Time of the repetitions; there are at least eight, of which the first is a warm-up.
    """
    # On a busy CPU other programs interrupt products; of several short ones some are not interrupted.
    size = 8192 if device.type == "cuda" else 512
    generator = torch.Generator(device).manual_seed(0)  # does not change the random states of the run
    a, b = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
    times: list[float] = []
    opened = time.perf_counter()
    while len(times) < 8 or time.perf_counter() - opened < seconds:
        before = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - before)
    return 2 * size**3 / min(times[1:])


def peak_memory_gib(device: torch.device) -> float:
    """Return the peak memory in GiB: of the accelerator if there is one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource  # missing on Windows, where a run can be published but not trained

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


class SpeedMeter:
    """Meter of the speeds of a log interval, over all processes.

    Args:
        processes: Processes of the run.
        flops: Counter of the operations of a micro-batch; None omits the utilisation.

    Attributes:
        peak: Matrix-product rate of all processes together in operations per second; 0 before `measure_peak`.
        waited: Seconds of this interval spent waiting for data.
    """

    def __init__(self, processes: Processes = ONE_PROCESS, flops: FlopCounter | None = None):
        self.processes, self.flops = processes, flops
        self.dtype = torch.float32 if processes.device.type == "mps" else torch.float64
        self.peak = 0.0
        self.open()

    def open(self) -> None:
        """Start the clock of an interval."""
        self.opened, self.waited, self.idle = time.perf_counter(), 0.0, 0.0
        self.steps = self.samples = self.tokens = self.operations = 0

    def measure_peak(self, dtype: torch.dtype) -> float:
        """Measure the matrix-product rate in all processes at once. Every process must call it."""
        device = self.processes.device
        own = torch.tensor(matmul_peak(device, dtype), dtype=self.dtype, device=device)
        self.peak = self.processes.sum(own).item()
        return self.peak

    def count(self, batches: Sequence[MicroBatch]) -> None:
        """Add a step's micro-batches of this process, as the loader gives them."""
        self.steps += 1
        for batch in batches:
            self.samples += len(batch.inputs["mask"])
            self.tokens += batch.tokens
            self.operations += self.flops(batch.modality, batch.inputs) if self.flops is not None else 0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time spent in the `with` block from the interval."""
        before = time.perf_counter()
        try:
            yield
        finally:
            self.idle += time.perf_counter() - before

    def facts(self) -> dict[str, float]:
        """Return `SPEED_FACTS` of the interval and begin the next one. Every process must call it."""
        elapsed = max(time.perf_counter() - self.opened - self.idle, 1e-9)
        device = self.processes.device
        sums = torch.tensor([self.samples, self.tokens, self.operations], dtype=self.dtype, device=device)
        samples, tokens, operations = self.processes.sum(sums).tolist()
        # Each process fills its own row: the sum holds them all.
        rows = torch.zeros(self.processes.count, 2, dtype=self.dtype, device=device)
        rows[self.processes.rank] = torch.tensor([self.waited / elapsed, peak_memory_gib(device)], dtype=self.dtype)
        wait, memory = self.processes.sum(rows).amax(dim=0).tolist()
        facts = {
            "samples_per_s": samples / elapsed,
            "tokens_per_s": tokens / elapsed,
            "step_seconds": elapsed / max(self.steps, 1),
            "data_wait": wait,
            "peak_memory_gib": memory,
        }
        if self.peak and operations:
            facts["utilisation"] = operations / elapsed / self.peak
        self.open()
        return facts
