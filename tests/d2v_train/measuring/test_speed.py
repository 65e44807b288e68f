"""Speeds of a log interval, the machine's own rate, and what people read of them."""

import time

import pytest
import torch
from model_factory import tiny_config

from d2v_train.batching.batches import MicroBatch
from d2v_train.measuring import speed as throughput
from d2v_train.measuring.flops import StepFlops
from d2v_train.measuring.speed import SPEED_FACTS, SpeedMeter, matmul_peak
from d2v_train.support.processes import Processes


CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for what a test adds to it."""
    now = [100.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now[0])
    return now


def text_batch():
    mask = torch.zeros(2, 3, 20, dtype=torch.bool)
    mask[:, :, :8] = True
    ids = torch.full((2, 20), 5)
    real = torch.ones_like(ids)
    real[1, 10:] = 0
    return MicroBatch("text", {"input_ids": ids, "attention_mask": real, "mask": mask & real[:, None].bool()}, 30)


def test_facts_are_over_the_time_of_training_alone(clock):
    flops = StepFlops(tiny_config("text"))
    meter = SpeedMeter(flops=flops)
    batch = text_batch()
    operations = flops("text", batch.inputs)
    meter.peak = operations  # a machine that needs a second for such a batch
    for _ in range(2):
        clock[0] += 2.0
        meter.waited += 0.5
        meter.count([batch, batch])
    with meter.paused():
        clock[0] += 60.0  # a checkpoint
    facts = meter.facts()
    assert facts.keys() == set(SPEED_FACTS)
    assert facts["samples_per_s"] == 8 / 4 and facts["tokens_per_s"] == 4 * 30 / 4
    assert facts["step_seconds"] == 2.0 and facts["data_wait"] == pytest.approx(1 / 4)
    assert facts["utilisation"] == pytest.approx(1.0)

    clock[0] += 1.0
    meter.count([batch])
    assert meter.facts()["samples_per_s"] == 2.0  # nothing is carried over


def test_facts_are_of_all_processes(clock, monkeypatch):
    """Two processes: samples are added up, the longest wait and the largest memory count."""
    monkeypatch.setattr(throughput, "peak_memory_gib", lambda device: 3.0)
    others = iter([torch.tensor([6.0, 60.0, 0.0]), torch.tensor([[0.9, 1.0], [0.0, 0.0]])])

    class Two(Processes):
        def sum(self, values):
            return values + next(others)

    meter = SpeedMeter(Two(rank=1, count=2))
    clock[0] += 2.0
    meter.waited = 0.2
    meter.count([text_batch()])
    facts = meter.facts()
    assert facts["samples_per_s"] == 4.0 and facts["tokens_per_s"] == 45.0
    assert facts["data_wait"] == pytest.approx(0.9) and facts["peak_memory_gib"] == 3.0
    assert "utilisation" not in facts  # no counter for this model


def test_a_product_in_which_another_program_had_its_turn_does_not_count(monkeypatch):
    """At least one of the first few is spared; which is the machine's rate."""
    now, calls = [0.0], [0]

    def clock():
        calls[0] += 1
        now[0] += 1e-3 if calls[0] == 13 else 1.0  # before and after a product: one of the sixth is short
        return now[0]

    monkeypatch.setattr(throughput.time, "perf_counter", clock)
    assert matmul_peak(CPU, torch.float32, seconds=0.0) == pytest.approx(2 * 512**3 / 1e-3)


def test_the_rate_of_the_machine_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    started = time.perf_counter()
    rate = matmul_peak(CPU, torch.float32, seconds=0.0)
    assert 1e8 < rate < 1e14 and time.perf_counter() - started < 5
    assert torch.equal(before, torch.get_rng_state())
