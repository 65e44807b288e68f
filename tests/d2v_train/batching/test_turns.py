"""Token budgets, buckets of similar length, and forward passes of about equal cost."""

import numpy as np
import pytest
import torch

from d2v_train.batching.batches import BatchPlan, ModalityData, PassLimit, StepDataset
from d2v_train.batching.order import Mixture
from d2v_train.batching.turns import FixedTurns, SortedTurns
from d2v_train.support.processes import Processes


LENGTHS = np.random.default_rng(0).integers(5, 100, size=300)


def order():
    return Mixture([200, 100], [1, 2], 4, "audio")


def turns(**changes):
    settings = {"batch_tokens": 700, "stretch": 1, "seed": 4, "label": "audio"}
    return SortedTurns(order(), LENGTHS, **{**settings, **changes})


def lengths_of(keys):
    return [int(LENGTHS[key.index]) for key in keys]


def test_a_budget_without_buckets_takes_as_many_samples_in_their_order_as_fit():
    the_turns, positions = turns(), order().keys(0, 2000)
    taken = [the_turns.keys(turn) for turn in range(100)]
    place = 0
    for turn, keys in enumerate(taken):
        assert the_turns.position(turn) == place
        assert sorted(keys) == sorted(positions[place : place + len(keys)])
        assert lengths_of(keys) == sorted(lengths_of(keys)) and sum(lengths_of(keys)) <= 700
        place += len(keys)
        assert sum(lengths_of(keys)) + LENGTHS[positions[place].index] > 700
        assert len(keys) >= the_turns.least


@pytest.mark.parametrize("size", [{"batch_tokens": 700}, {"batch_tokens": None, "batch_size": 12}])
def test_buckets_hold_the_samples_of_their_stretch_and_little_padding(size):
    the_turns = turns(stretch=10, **size)
    taken = [the_turns.keys(turn) for turn in range(90)]
    flat = [key for keys in taken for key in keys]
    first_stretch = the_turns.position(10)
    assert sorted(flat[:first_stretch]) == sorted(order().keys(0, first_stretch))
    assert len(set(flat)) == len(flat), "a sample comes once in an epoch"
    assert [the_turns.position(turn) for turn in range(90)] == [0, *np.cumsum([len(keys) for keys in taken])[:-1]]
    for keys in taken:
        assert len(keys) == 12 if "batch_size" in size else sum(lengths_of(keys)) <= 700
        assert len(keys) >= the_turns.least
    assert sum(map(sum, map(lengths_of, taken))) > 0.85 * 90 * 700

    def padded(samples):
        return sum(len(keys) * max(lengths_of(keys)) for keys in samples) / sum(
            sum(lengths_of(keys)) for keys in samples
        )

    assert padded(taken) < 1.15 < 1.5 < padded([turns().keys(turn) for turn in range(90)])
    longest = [max(lengths_of(keys)) for keys in taken[:10]]
    assert longest != sorted(longest), "the turns of a stretch come in a random order"


def test_a_turn_is_known_without_those_before_and_chunks_change_nothing(monkeypatch):
    expected = [turns(stretch=3).keys(turn) for turn in range(60)]
    assert turns(stretch=3).keys(59) == expected[59] and turns(stretch=3).position(40) == sum(map(len, expected[:40]))
    monkeypatch.setattr("d2v_train.batching.turns.CHUNK", 7)
    small = turns(stretch=3)
    assert [small.keys(turn) for turn in range(60)] == expected


def test_the_least_number_of_samples_holds_for_any_lengths():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        lengths = np.where(rng.random(300) < 0.5, 100, rng.integers(1, 100, 300))
        lengths[0] = 100
        for stretch in (1, 2, 7):
            the_turns = SortedTurns(order(), lengths, batch_tokens=900, stretch=stretch)
            assert min(len(the_turns.keys(turn)) for turn in range(60)) >= the_turns.least


class Numbers:
    """Records that are their index."""

    def __len__(self):
        return 300

    def read(self, index, report=None, drawn=True):
        return {"id": index}


def steps(rank=0, world_size=1, limit=None, accumulate=1):
    def collate(items, step):
        ids = torch.tensor([item["id"] for item in items])
        return {"id": ids, "mask": torch.ones(len(items), 1, 1).bool()}

    plan = BatchPlan({"audio": turns(stretch=4)})
    data = ModalityData(Numbers(), lambda record, seed: record, plan.turns["audio"], limit)
    return StepDataset(
        plan,
        {"audio": data},
        collate,
        accumulate=accumulate,
        processes=Processes(rank, world_size),
    )


@pytest.mark.parametrize(
    "world_size, limit, accumulate",
    [(1, PassLimit(None, 150), 1), (3, PassLimit(None, 150), 1), (3, PassLimit(4, None), 1), (2, None, 2)],
)
def test_processes_share_a_step_of_a_token_budget_in_as_many_passes_each(world_size, limit, accumulate):
    for step in range(12):
        (whole,) = steps()[step]
        shares = [steps(rank, world_size, limit, accumulate)[step] for rank in range(world_size)]
        assert len({len(share) for share in shares}) == 1
        assert [id for share in shares for batch in share for id in batch.inputs["id"].tolist()] == whole.inputs[
            "id"
        ].tolist()


def test_a_budget_too_small_for_the_processes_is_refused_before_the_run():
    with pytest.raises(ValueError, match="audio.*6 processes"):
        steps(world_size=6)


def test_fixed_turns_take_the_samples_of_an_order_one_after_another():
    the_turns = FixedTurns(order(), 7)
    assert [key for turn in range(5) for key in the_turns.keys(turn)] == order().keys(0, 35)
