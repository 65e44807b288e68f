"""Masks: distributions of the reference, exact counts, purity of every draw, and the helpers around them."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from model_factory import tiny_config
from torch.nn import functional as F
from torch.utils.data import DataLoader

from modeling_d2v import masking
from modeling_d2v.masking import (
    SAMPLERS,
    corrupt_tokens,
    counter_bits,
    counter_uniform,
    sample_masks,
    visible_indices,
)


STATISTICS = json.loads((Path(__file__).parents[1] / "fixtures" / "mask_statistics.json").read_text())
DEFAULTS = {
    "random": {"mask_prob": 0.48, "mask_length": 1, "mask_prob_adjust": 0.0},
    "span": {"mask_prob": 0.5, "mask_length": 5, "mask_prob_adjust": 0.05},
    "inverse_span": {"mask_prob": 0.7, "mask_length": 4, "mask_prob_adjust": 0.05},
    "block": {"mask_prob": 0.6, "mask_length": 4, "mask_prob_adjust": 0.07},
    "inverse_block": {"mask_prob": 0.8, "mask_length": 3, "mask_prob_adjust": 0.07},
}
REFERENCE_1D = ("random", "span")
ONE_D = (*REFERENCE_1D, "inverse_span")
BLOCKS = ("block", "inverse_block")


def test_every_sampler_is_among_those_that_are_tested():
    assert set(DEFAULTS) == set(ONE_D + BLOCKS) == set(SAMPLERS)


def make_config(sampler, num_masks=3, **options):
    return SimpleNamespace(mask_sampler=sampler, num_masks=num_masks, **(DEFAULTS.get(sampler, {}) | options))


def draw(sampler, lengths, *, seed=0, step=0, sample_ids=None, grid=None, num_masks=3, **options):
    lengths = torch.as_tensor(lengths, dtype=torch.int64)
    sample_ids = torch.arange(len(lengths)) if sample_ids is None else torch.as_tensor(sample_ids, dtype=torch.int64)
    config = make_config(sampler, num_masks, **options)
    return sample_masks(config, lengths, seed=seed, step=step, sample_ids=sample_ids, grid=grid)


def draw_blocks(sampler, grid, batch=4, **options):
    return draw(sampler, [grid[0] * grid[1]] * batch, grid=grid, **options)


def expected_masked(sampler, length, prob):
    """Masked tokens by the rule of the module, in plain Python."""
    if length < 2:
        return 0
    if sampler in ("random", "inverse_block", "inverse_span"):
        return length - min(max(int(length * (1 - prob)), 1), length - 1)
    return min(max(int(length * prob), 1), length - 1)


def neighbour_share(marked):
    """P(a 4-neighbour is marked | marked) on grids (N, H, W), counting each pair once in each direction."""
    pairs = (marked[:, 1:] & marked[:, :-1]).sum() + (marked[:, :, 1:] & marked[:, :, :-1]).sum()
    sides = marked[:, 1:].sum() + marked[:, :-1].sum() + marked[:, :, 1:].sum() + marked[:, :, :-1].sum()
    return (2 * pairs / sides).item()


# Distributions


@pytest.mark.parametrize("sampler", REFERENCE_1D)
def test_one_dimensional_masks_have_the_statistics_of_the_reference(sampler):
    reference = STATISTICS[sampler]
    masks = draw(sampler, [reference["T"]] * 1000, num_masks=8, seed=3, step=7, **reference["config"]).flatten(0, 1)
    counts = masks.sum(-1)
    assert counts.min() == reference["min_count"] and counts.max() == reference["max_count"]

    edges = F.pad(masks.int(), (1, 1)).diff(dim=-1)
    run_lengths = (edges == -1).nonzero()[:, 1] - (edges == 1).nonzero()[:, 1]
    assert len(run_lengths) / len(masks) == pytest.approx(reference["mean_runs"], rel=0.01)
    assert run_lengths.double().mean().item() == pytest.approx(reference["mean_run_length"], rel=0.01)
    following = (masks[:, 1:] & masks[:, :-1]).sum() / masks[:, :-1].sum()
    assert following.item() == pytest.approx(reference["p_next_masked_given_masked"], abs=0.003)

    histogram = run_lengths.clamp(max=25).bincount(minlength=26)[1:] / len(run_lengths)
    assert histogram.tolist() == pytest.approx(reference["run_length_hist_1_to_25plus"], abs=0.005)
    # The reference has 2,000 draws: a standard error of .011, of which 40 positions may see nearly four.
    marginal = masks.double().mean(0)
    assert marginal[:10].tolist() == pytest.approx(reference["marginal_first10"], abs=0.045)
    assert marginal[-10:].tolist() == pytest.approx(reference["marginal_last10"], abs=0.045)


def test_inverse_blocks_have_the_statistics_of_the_reference():
    reference = STATISTICS["inverse_block"]
    height, width = reference["grid"]
    masks = draw_blocks("inverse_block", (height, width), 1000, num_masks=8, seed=3, step=7, **reference["config"])
    counts = masks.sum(-1)
    assert counts.min() == counts.max() == reference["min_count"] == height * width - 39

    masks = masks.flatten(0, 1).unflatten(-1, (height, width))
    assert neighbour_share(~masks) == pytest.approx(reference["p_neighbour_visible_given_visible"], abs=0.005)
    assert neighbour_share(masks) == pytest.approx(reference["p_neighbour_masked_given_masked"], abs=0.002)
    marginal = masks.double().mean(0)
    corner = torch.stack((marginal[0, 0], marginal[0, -1], marginal[-1, 0], marginal[-1, -1])).mean()
    border = torch.cat((marginal[0, 1:-1], marginal[-1, 1:-1], marginal[1:-1, 0], marginal[1:-1, -1])).mean()
    assert corner.item() == pytest.approx(reference["marginal_masked_corner"], abs=0.01)
    assert border.item() == pytest.approx(reference["marginal_masked_edge"], abs=0.005)
    assert marginal[1:-1, 1:-1].mean().item() == pytest.approx(reference["marginal_masked_interior"], abs=0.003)


def test_blocks_are_the_complement_of_inverse_blocks():
    block = draw_blocks("block", (14, 14), mask_prob=0.2, mask_length=3, mask_prob_adjust=0.07)
    assert torch.equal(block, ~draw_blocks("inverse_block", (14, 14)))
    assert block.sum(-1).unique().tolist() == [39]


def test_blocks_cluster_and_thin_out_at_the_border():
    masks = draw_blocks("block", (14, 14), 300, num_masks=8).flatten(0, 1).unflatten(-1, (14, 14))
    assert masks.sum((1, 2)).unique().tolist() == [int(196 * 0.6)]
    assert neighbour_share(masks) > 0.72  # single patches would give 0.6
    marginal = masks.double().mean(0)
    corner, middle = marginal[[0, 0, -1, -1], [0, -1, 0, -1]].mean(), marginal[3:-3, 3:-3].mean()
    assert corner < marginal[0, 4:-4].mean() < middle


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8, 40])
def test_span_cover_equals_a_loop(length):
    lengths = torch.tensor([30, 17, 2, 1, 0])
    key = {"seed": 1, "step": 2, "sample_ids": torch.arange(5), "repeats": 4}
    rate = 0.6 / length
    covered = masking._cover_spans(0.6, length, lengths, 30, None, key)
    bits = counter_bits(**key, count=30, stream=masking._STREAM_CENTRE)
    naive = torch.zeros(5, 4, 30, dtype=torch.bool)
    for b, L in enumerate(lengths.tolist()):
        for m in range(4):
            for k in range(int(L * rate)):
                centre = ((bits[b, m, k].item() % 2**64) >> 33) * L >> 31
                for token in range(centre - length // 2, centre - length // 2 + length):
                    naive[b, m, min(max(token, 0), L - 1)] = True
    assert torch.equal(covered, naive)


@pytest.mark.parametrize(("grid", "length"), [((5, 7), 3), ((6, 4), 2), ((1, 9), 4), ((1, 1), 3), ((3, 3), 1)])
def test_block_cover_equals_a_loop(grid, length):
    """Of whole grids, and of samples that have the first rows of a grid."""
    height, width = grid
    rows = [height, (height + 1) // 2, 0]
    key = {"seed": 1, "step": 2, "sample_ids": torch.arange(3), "repeats": 4}
    share = 3.5 * length**2 / (height * width)  # three centres in a whole grid
    covered = masking._cover_blocks(share, length, torch.tensor(rows) * width, height * width, grid, key)
    bits = counter_bits(**key, count=3, stream=masking._STREAM_CENTRE)
    naive = torch.zeros(3, 4, height, width, dtype=torch.bool)
    for b, own in enumerate(rows):
        for m in range(4):
            for k in range(int(3.5 * own / height)):
                row, column = divmod(((bits[b, m, k].item() % 2**64) >> 33) * own * width >> 31, width)
                top, left = row - length // 2, column - length // 2
                naive[b, m, max(top, 0) : min(top + length, own), max(left, 0) : left + length] = True
    assert torch.equal(covered, naive.flatten(-2))


@pytest.mark.parametrize("sampler", BLOCKS)
def test_a_sample_of_fewer_rows_is_masked_as_alone(sampler):
    rows, width = [9, 4, 6, 1], 5
    together = draw(sampler, [n * width for n in rows], grid=(9, width))
    for i, n in enumerate(rows):
        alone = draw(sampler, [n * width], grid=(n, width), sample_ids=[i])
        assert torch.equal(together[i, :, : n * width], alone[0])
        assert not together[i, :, n * width :].any()


def test_a_sampler_is_an_entry_of_one_table(monkeypatch):
    """Settings and masks know a new one at once."""

    def cover_first(share, length, lengths, total, grid, key):
        first = torch.arange(total) < (lengths * share).long()[:, None, None]
        return first.expand(-1, key["repeats"], -1)

    monkeypatch.setitem(masking.SAMPLERS, "first", masking.Sampler(cover_first, geometry="line"))
    config = tiny_config("text", text_config={"mask_sampler": "first", "mask_prob": 0.5}).text_config
    ids = torch.arange(2)
    masks = sample_masks(config, torch.tensor([8, 4]), seed=0, step=0, sample_ids=ids, num_masks=2)
    assert masks.sum(-1).tolist() == [[4, 4], [2, 2]]
    assert masks[0, :, :4].all() and masks[1, :, :2].all()
    with pytest.raises(ValueError, match="first"):
        tiny_config("vision", vision_config={"mask_sampler": "first"})


# Counts and short inputs


@pytest.mark.parametrize("prob", [0.02, 0.15, 0.5, 0.65, 0.98])
@pytest.mark.parametrize("sampler", ONE_D)
def test_each_row_has_the_exact_count_of_its_own_length(sampler, prob):
    lengths = [*range(14), 57, 100, 301]
    masks = draw(sampler, lengths, mask_prob=prob, mask_prob_adjust=0.0)
    assert masks.shape == (len(lengths), 3, 301) and masks.dtype == torch.bool
    for row, length in zip(masks, lengths, strict=True):
        assert row.sum(-1).tolist() == [expected_masked(sampler, length, prob)] * 3
        assert not row[:, length:].any()
        assert length < 2 or 0 < expected_masked(sampler, length, prob) < length


@pytest.mark.parametrize("adjust", [-0.3, 0.0, 0.6, 3.0])
def test_the_adjustment_changes_the_shape_but_not_the_count(adjust):
    assert draw("span", [200, 40], mask_prob_adjust=adjust).sum(-1).tolist() == [[100] * 3, [20] * 3]
    assert draw_blocks("block", (14, 14), mask_prob_adjust=adjust).sum(-1).unique().tolist() == [117]


@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (2, 1), (1, 7), (5, 1), (2, 2), (3, 5)])
@pytest.mark.parametrize("sampler", BLOCKS)
def test_small_grids(sampler, grid):
    patches = grid[0] * grid[1]
    masks = draw_blocks(sampler, grid)
    assert masks.shape == (4, 3, patches)
    assert masks.sum(-1).unique().tolist() == [expected_masked(sampler, patches, DEFAULTS[sampler]["mask_prob"])]


def test_lone_and_missing_tokens_are_not_masked():
    for sampler in ONE_D:
        assert not draw(sampler, [1, 0]).any() and draw(sampler, [1, 0]).shape == (2, 3, 1)
        assert not draw(sampler, [1, 0, 9])[:2].any()
        assert draw(sampler, [0, 0]).shape == (2, 3, 0)
        assert draw(sampler, []).shape == (0, 3, 0)
    assert not draw_blocks("inverse_block", (1, 1)).any()
    assert draw_blocks("inverse_block", (14, 14), batch=0).shape == (0, 3, 196)


def test_one_dimensional_samplers_accept_a_grid():
    masks = draw("random", [12, 6], grid=(3, 4))
    assert masks.shape == (2, 3, 12)
    assert torch.equal(masks, draw("random", [12, 6]))


# Purity


@pytest.mark.parametrize("sampler", ONE_D)
def test_a_row_does_not_depend_on_batch_order_or_padding(sampler):
    lengths, ids = torch.tensor([60, 41, 128, 5, 2]), torch.tensor([9, 4, 77, 10**12, 0])
    together = draw(sampler, lengths, sample_ids=ids)
    order = torch.tensor([3, 1, 4, 0, 2])
    assert torch.equal(draw(sampler, lengths[order], sample_ids=ids[order]), together[order])
    for row, length, sample_id in zip(together, lengths, ids, strict=True):
        alone = draw(sampler, [length], sample_ids=[sample_id])
        assert torch.equal(alone[0], row[:, :length])
        assert torch.equal(draw(sampler, [length], sample_ids=[sample_id], num_masks=2)[0], row[:2, :length])


def test_a_grid_row_does_not_depend_on_the_batch():
    together = draw_blocks("inverse_block", (14, 14), batch=5)
    assert torch.equal(draw("inverse_block", [196], sample_ids=[3], grid=(14, 14))[0], together[3])


def test_no_global_random_state_is_used():
    torch.manual_seed(0)
    first, state = draw("span", [100]), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(draw("span", [100]), first)
    torch.manual_seed(0)
    draw("span", [100])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("sampler", DEFAULTS)
def test_masks_differ_by_seed_step_sample_and_repeat(sampler):
    options = {"grid": (14, 14)} if sampler in BLOCKS else {}
    draws = [draw(sampler, [196] * 4, seed=s, step=t, num_masks=4, **options) for s in range(3) for t in range(3)]
    masks = torch.cat(draws).flatten(0, 1)
    assert len(masks.unique(dim=0)) == len(masks) == 3 * 3 * 4 * 4


def _collate(items):
    return draw("span", [40 + i for i in items], sample_ids=items, step=5), items


def test_data_loader_workers_draw_the_same_masks():
    expected = {i: draw("span", [40 + i], sample_ids=[i], step=5)[0] for i in range(8)}
    for masks, items in DataLoader(range(8), batch_size=3, shuffle=True, num_workers=2, collate_fn=_collate):
        for row, i in zip(masks, items, strict=True):
            assert torch.equal(row[:, : 40 + i], expected[i])


# Generator


def test_generator_stays_out_of_compiled_code():
    """Inductor takes its products with an index for addresses, and overflows."""
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def draw(ids):
        return counter_uniform(1, 2, ids + 1, count=3) * 2

    ids = torch.arange(4)
    assert torch.equal(torch.compile(draw, backend=keep)(ids), draw(ids))
    constants = [value for graph in graphs for node in graph.graph.nodes for value in node.args
                 if isinstance(value, int)]  # fmt: skip
    assert graphs and max(map(abs, constants)) < 2**32


def test_counter_bits_equal_splitmix64_in_python_integers():
    modulus, golden = 1 << 64, 0x9E3779B97F4A7C15

    def mix(z):
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % modulus
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % modulus
        return z ^ (z >> 31)

    assert mix(golden) == 0xE220A8397B1DCDAF  # first output of SplitMix64 seeded with 0
    seed, step, ids, stream = 2**70 + 5, -3, [0, -7, 2**62 + 11], 20
    bits = counter_bits(seed, step, torch.tensor(ids), count=3, repeats=2, stream=stream)
    for b, sample_id in enumerate(ids):
        for repeat in range(2):
            key = 0
            for part in (seed, stream, step, sample_id, repeat):
                key = mix((key + (part + 1) * golden) % modulus)
            assert [x % modulus for x in bits[b, repeat].tolist()] == [
                mix((key + (i + 1) * golden) % modulus) for i in range(3)
            ]


def test_counter_accepts_tensors_for_seed_and_step():
    ids = torch.arange(4, dtype=torch.int32)
    expected = counter_uniform(11, 12, ids.long(), count=5)
    assert torch.equal(counter_uniform(torch.tensor(11), torch.tensor(12), ids, count=5), expected)
    assert torch.equal(counter_uniform(11, 12, ids, count=9, repeats=3)[:, :1, :5], expected)
    assert counter_uniform(0, 0, torch.arange(6).view(2, 3), count=5, repeats=4).shape == (2, 3, 4, 5)


@pytest.mark.parametrize("axis", ["seed", "step", "sample", "repeat", "stream", "index"])
def test_uniform_along_every_counter(axis):
    n = 4096
    one = torch.zeros(1, dtype=torch.int64)
    if axis in ("seed", "step"):
        numbers = [counter_uniform(*((i, 0) if axis == "seed" else (0, i)), one, count=1) for i in range(n)]
        uniform = torch.cat(numbers).flatten()
    elif axis == "stream":
        uniform = torch.cat([counter_uniform(0, 0, one, count=1, stream=i) for i in range(n)]).flatten()
    else:
        ids = torch.arange(n) if axis == "sample" else one
        repeats, count = (n if axis == "repeat" else 1), (n if axis == "index" else 1)
        uniform = counter_uniform(0, 0, ids, count=count, repeats=repeats).flatten()
    assert uniform.shape == (n,) and uniform.dtype == torch.float32
    assert 0 <= uniform.min() and uniform.max() < 1
    expected = n / 32
    chi_square = ((torch.histc(uniform, 32, 0, 1) - expected) ** 2 / expected).sum()
    assert chi_square < 66  # 31 degrees of freedom: one in 4,000
    centred = uniform - uniform.mean()
    for lag in (1, 2, 3, 8):
        correlation = (centred[lag:] * centred[:-lag]).mean() / centred.square().mean()
        assert abs(correlation) < 4 / n**0.5


def test_all_bits_are_balanced():
    bits = counter_bits(0, 0, torch.arange(64), count=256, repeats=4).flatten()
    ones = ((bits.unsqueeze(-1) >> torch.arange(64)) & 1).double().mean(0)
    assert (ones - 0.5).abs().max() < 4.5 * 0.5 / len(bits) ** 0.5


# Visible tokens


@pytest.mark.parametrize("padded", [False, True])
def test_visible_indices_equal_a_loop(padded):
    lengths = torch.tensor([12, 7, 1, 0])
    mask = draw("span", lengths)
    token_mask = torch.arange(12) < lengths.unsqueeze(-1) if padded else None
    indices, keep = visible_indices(mask, token_mask)
    visible = ~mask if token_mask is None else ~mask & token_mask.unsqueeze(1)
    rows = [row.nonzero().flatten().tolist() for row in visible.flatten(0, 1)]
    assert indices.shape == keep.shape == (12, max(map(len, rows)))
    assert indices.dtype == torch.int64 and keep.dtype == torch.bool
    for row, index, kept in zip(rows, indices, keep, strict=True):
        assert index[: len(row)].tolist() == row and kept[: len(row)].all()
        assert not index[len(row) :].any() and not kept[len(row) :].any()


def test_visible_indices_with_a_fixed_size():
    mask = draw_blocks("inverse_block", (14, 14))
    indices, keep = visible_indices(mask)
    assert indices.shape == (12, 39) and keep.all()
    assert mask.flatten(0, 1).gather(1, indices).sum() == 0
    wide, wide_keep = visible_indices(mask, size=50)
    assert torch.equal(wide[:, :39], indices) and not wide[:, 39:].any()
    assert wide_keep.sum(-1).unique().tolist() == [39]


# Corruption of text


def corrupt(ids, mask, **options):
    options = {"mask_token_id": 99, "vocab_size": 100, "seed": 0, "step": 0, "special_ids": (0, 1, 2, 3)} | options
    return corrupt_tokens(ids, mask, sample_ids=options.pop("sample_ids", torch.arange(len(ids))), **options)


def test_corruption_is_80_10_10():
    ids, mask = torch.full((64, 512), 50), torch.ones(64, 512, dtype=torch.bool)
    corrupted = corrupt(ids, mask)
    assert (corrupted == 99).double().mean().item() == pytest.approx(0.8, abs=0.01)
    drawn = corrupted[(corrupted != 99) & (corrupted != 50)]
    assert len(drawn) / ids.numel() == pytest.approx(0.1 * 94 / 95, abs=0.007)
    assert (corrupted == 50).double().mean().item() == pytest.approx(0.1 + 0.1 / 95, abs=0.007)
    counts = drawn.bincount(minlength=100)
    assert counts[[0, 1, 2, 3, 99]].sum() == 0
    rest = counts[[i for i in range(4, 99) if i != 50]].double()
    assert ((rest - rest.mean()) ** 2 / rest.mean()).sum() < 150  # 93 degrees of freedom: one in 5,000


def test_corruption_leaves_visible_tokens_and_repeats_differ():
    ids = torch.arange(4, 68).repeat(3, 1).to(torch.int32)
    mask = draw("random", [64] * 3, mask_prob=0.4)
    corrupted = corrupt(ids, mask)
    assert corrupted.shape == mask.shape and corrupted.dtype == ids.dtype
    assert torch.equal(corrupted[~mask], ids.unsqueeze(1).expand_as(mask)[~mask])
    full = corrupt(ids, torch.ones(3, 3, 64, dtype=torch.bool))
    assert not torch.equal(full[0, 0], full[0, 1]) and not torch.equal(full[0, 0], full[1, 0])
    assert torch.equal(corrupt(ids, mask[:, 0]), corrupted[:, 0])


def test_corruption_is_pure():
    ids = torch.arange(4, 68).repeat(3, 1)
    mask = torch.ones(3, 64, dtype=torch.bool)
    together = corrupt(ids, mask)
    alone = corrupt(ids[2:, :20], mask[2:, :20], sample_ids=torch.tensor([2]))
    assert torch.equal(alone[0], together[2, :20])
    assert not torch.equal(corrupt(ids, mask, step=1), together)
    assert not torch.equal(corrupt(ids, mask, seed=1), together)


def test_corruption_limits():
    ids, mask = torch.full((2, 50), 7), torch.ones(2, 50, dtype=torch.bool)
    assert torch.equal(corrupt(ids, mask, random_prob=0.0, keep_prob=1.0), ids)
    assert (corrupt(ids, mask, random_prob=0.0, keep_prob=0.0) == 99).all()
    assert (corrupt(ids, mask, random_prob=1.0, keep_prob=0.0, vocab_size=5) == 4).all()
    # With a mask token outside the range of random ids, the last id below it can be drawn.
    assert (corrupt(ids, mask, random_prob=1.0, keep_prob=0.0, special_ids=()) == 98).any()


# Errors


@pytest.mark.parametrize(
    ("sampler", "options", "message"),
    [
        ("blocks", {"mask_prob": 0.5}, "inverse_block"),
        ("random", {"mask_prob": 0.0}, "between"),
        ("span", {"mask_prob": 1.0}, "between"),
        ("span", {"mask_length": 0}, "length"),
        ("span", {"mask_prob_adjust": -0.6}, "at least -0.5"),
        ("inverse_block", {}, "grid"),
        ("block", {}, "grid"),
        ("block", {"grid": (0, 4)}, "patch"),
        ("block", {"grid": (3, 4)}, "rows of 4"),
        ("random", {"grid": (3, 3)}, "9 patches"),
        ("span", {"num_masks": 0}, "num_masks.*1"),
        ("span", {"sample_ids": [1, 2]}, r"\(1,\) and \(2,\)"),
    ],
)
def test_errors_say_what_to_do(sampler, options, message):
    with pytest.raises(ValueError, match=message):
        draw(sampler, [10], **options)


def test_bad_lengths_are_errors():
    config, ids = make_config("span"), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match="negative"):
        sample_masks(config, torch.tensor([-1]), seed=0, step=0, sample_ids=ids)
    with pytest.raises(ValueError, match="integer"):
        sample_masks(config, torch.tensor([4.0]), seed=0, step=0, sample_ids=ids)
    with pytest.raises(ValueError, match="too long"):
        sample_masks(config, torch.tensor([2**21 + 1]), seed=0, step=0, sample_ids=ids)


def test_bad_corruption_arguments_are_errors():
    ids, mask = torch.full((2, 5), 7), torch.ones(2, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match="at most 1"):
        corrupt(ids, mask, random_prob=0.6, keep_prob=0.6)
    with pytest.raises(ValueError, match="mask"):
        corrupt(ids, mask[:, :4])
    with pytest.raises(ValueError, match="replacement"):
        corrupt(ids, mask, vocab_size=4)
