"""The batch plan: ratios, epochs, resume, processes, workers."""

from collections import Counter

import pytest
import torch

from d2v_train.batching.batches import BatchPlan, ModalityData, StepDataset, load_steps, part
from d2v_train.batching.order import Mixture
from d2v_train.batching.turns import FixedTurns
from d2v_train.data.report import NoUsableSample
from d2v_train.support.extras import MissingDependencyError
from d2v_train.support.processes import Processes


def plan(sizes=None, batch_sizes=None, ratios=None, seed=5, mixed=False):
    sizes = sizes or {"audio": 7, "vision": 10}
    batches = batch_sizes or {"audio": 3, "vision": 4}
    turns = {name: FixedTurns(Mixture([size], None, seed, name), batches[name]) for name, size in sizes.items()}
    return BatchPlan(turns, ratios or {"audio": 1.0, "vision": 2.0}, mixed)


class Numbers:
    """Records that are their index."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def read(self, index, report=None, drawn=True):
        return {"id": index}


def transform(record, seed):
    return {"id": record["id"], "seed": seed}


def collate(items, step):
    ids = torch.tensor([item["id"] for item in items])
    seeds = torch.tensor([item["seed"] for item in items])
    return {"id": ids, "seed": seeds, "step": torch.tensor(step), "mask": torch.ones(len(items), 2, 3).bool()}


def steps(rank=0, world_size=1, accumulate=1, **changes):
    shared, sizes = plan(**changes), {"audio": Numbers(7), "vision": Numbers(10)}
    return StepDataset(
        shared,
        {name: ModalityData(numbers, transform, shared.turns[name]) for name, numbers in sizes.items()},
        collate,
        seed=3,
        accumulate=accumulate,
        processes=Processes(rank, world_size),
    )


def flat(micro_batches):
    return [
        (batch.modality, *pair)
        for batch in micro_batches
        for pair in zip(batch.inputs["id"].tolist(), batch.inputs["seed"].tolist(), strict=True)
    ]


def test_each_epoch_holds_every_sample_once_and_has_its_own_order():
    the_plan = plan(ratios={"audio": 1, "vision": 1})
    keys = [key for step in range(0, 2 * 7 * 4, 2) for key in the_plan.samples(step, "audio")]
    orders = {epoch: [key.index for key in keys if key.epoch == epoch] for epoch in range(12)}
    assert all(sorted(order) == list(range(7)) for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) > 6
    assert [key.epoch for key in keys] == sorted(key.epoch for key in keys)


def test_the_order_of_the_samples_is_that_of_earlier_versions():
    """Runs of earlier versions go on, and recorded results can be made again."""
    small = plan(sizes={"vision": 10}, batch_sizes={"vision": 4}, ratios={"vision": 1}, seed=0)
    keys = [key for step in range(3) for key in small.samples(step, "vision")]
    assert [key.index for key in keys] == [8, 3, 9, 1, 0, 4, 2, 5, 6, 7, 9, 6]
    assert [key.epoch for key in keys] == [0] * 10 + [1] * 2
    assert small.samples(5001, "vision") == [(2000, 9), (2000, 4), (2000, 7), (2000, 1)]
    large = plan(sizes={"vision": 50_000}, batch_sizes={"vision": 64}, ratios={"vision": 1}, seed=3)
    assert [key.index for key in large.samples(777, "vision")[:4]] == [36340, 2908, 29903, 24773]
    assert large.samples(5001, "vision")[:3] == [(6, 18569), (6, 31435), (6, 6649)]


def test_batches_run_over_the_end_of_an_epoch():
    keys = plan(sizes={"audio": 7, "vision": 2}).samples(0, "vision")
    assert [key.epoch for key in keys] == [0, 0, 1, 1]


def test_any_step_is_known_without_those_before():
    the_plan = plan()
    counted = Counter()
    for step in range(100):
        (modality,) = the_plan.modalities_at(step)
        assert the_plan.turns_before(step, modality) == counted[modality]
        counted[modality] += 1
    assert counted["vision"] == 2 * counted["audio"] + 1
    far = plan().samples(10**12, "audio")
    assert len(far) == 3 and far == plan().samples(10**12, "audio")


def test_seed_decides_the_order():
    assert plan(seed=5).samples(0, "vision") == plan(seed=5).samples(0, "vision")
    assert plan(seed=5).samples(0, "vision") != plan(seed=6).samples(0, "vision")


def test_mixed_steps_take_every_modality():
    mixed = steps(mixed=True)
    assert [batch.modality for batch in mixed[3]] == ["audio", "vision"]
    assert mixed.plan.turns_before(3, "audio") == 3


@pytest.mark.parametrize("world_size, accumulate", [(2, 1), (3, 1), (1, 3), (2, 2)])
@pytest.mark.parametrize("mixed", [False, True])
def test_processes_and_micro_batches_share_the_same_global_batch(world_size, accumulate, mixed):
    batches = {"audio": 5, "vision": 4}
    for step in range(6):
        whole = flat(steps(mixed=mixed, batch_sizes=batches)[step])
        shares = [flat(steps(rank, world_size, accumulate, mixed=mixed, batch_sizes=batches)[step])
                  for rank in range(world_size)]  # fmt: skip
        assert all(shares)
        for modality in ("audio", "vision"):
            joined = [entry for share in shares for entry in share if entry[0] == modality]
            assert joined == [entry for entry in whole if entry[0] == modality]


def test_parts_are_contiguous_and_even():
    parts = [part(list(range(10)), index, 4) for index in range(4)]
    assert sum(parts, []) == list(range(10)) and {len(piece) for piece in parts} == {2, 3}


def test_a_sample_is_augmented_anew_in_each_epoch():
    seeds = {}
    for step in range(30):
        for modality, index, seed in flat(steps()[step]):
            seeds.setdefault((modality, index), []).append(seed)
    assert all(len(set(values)) == len(values) > 1 for values in seeds.values())
    assert all(0 <= seed < 2**63 for values in seeds.values() for seed in values)


def test_same_batches_for_any_number_of_workers_and_from_any_step():
    alone = [flat(batches) for batches in load_steps(steps(), 0, 8)]
    assert alone == [flat(batches) for batches in load_steps(steps(), 0, 8, num_workers=2)]
    assert alone[5:] == [flat(batches) for batches in load_steps(steps(), 5, 8)]


def test_loading_leaves_the_training_randomness_alone():
    before = torch.get_rng_state()
    next(load_steps(steps(), 0, 2))
    assert torch.equal(before, torch.get_rng_state())


def test_too_small_batches_and_empty_data_are_refused():
    with pytest.raises(ValueError, match="audio.*2 processes"):
        steps(world_size=2, accumulate=2)
    with pytest.raises(ValueError, match="vision"):
        plan(sizes={"audio": 3, "vision": 0})


class Failing:
    """Steps of which one cannot be made."""

    def __init__(self, error):
        self.error = error

    def __getitem__(self, step):
        if step == 1:
            raise self.error
        return []


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", [NoUsableSample, MissingDependencyError])
def test_an_error_for_the_user_comes_out_of_a_worker_as_it_was_raised(kind, workers):
    error = kind("Not\none; the last one: NoUsableSample: NaN.")
    error.sample = 7
    batches = load_steps(Failing(error), 0, 2, num_workers=workers)
    assert next(batches) == []
    with pytest.raises(kind) as caught:
        next(batches)
    assert caught.value.args == error.args and caught.value.sample == 7


def test_errors_of_the_program_keep_the_traceback_of_their_worker():
    with pytest.raises(KeyError, match="Original Traceback"):
        list(load_steps(Failing(KeyError("no such field")), 0, 2, num_workers=1))
