"""What is measured of the targets: against plain formulas, and the same however a step is cut."""

import math

import pytest
import torch

from d2v_train.measuring.targets import MAX_CHANNELS, MAX_ROWS, TargetSums, TargetWatch, effective_rank


def masked(dense, mask):
    """Targets (N, D) as the model gives them, of dense ones (B, T, D)."""
    return dense[:, None].expand(-1, mask.shape[1], -1, -1)[mask]


def measures(*batches, reduce=lambda sums: sums):
    sums = TargetSums(batches[0][0].shape[-1], torch.device("cpu"))
    for dense, predictions, mask in batches:
        sums.add(masked(dense, mask), predictions, mask, torch.tensor(2.0))
    return {name: value.item() for name, value in sums.measures(reduce).items()}


@pytest.fixture
def step():
    """Targets, predictions and mask of a step of four samples."""
    mask = torch.rand(4, 3, 50) < 0.5
    dense = torch.randn(4, 50, 8) * torch.arange(1, 9) + 3
    return dense, torch.randn(int(mask.sum()), 8), mask


def test_std_and_share_of_the_prediction_are_those_of_all_rows(step):
    dense, predictions, mask = step
    targets = masked(dense, mask)
    found = measures(step)
    assert found["target_std"] == pytest.approx(targets.std(dim=0, correction=0).mean().item(), rel=1e-5)
    assert found["prediction_std"] == pytest.approx(predictions.std(dim=0, correction=0).mean().item(), rel=1e-5)
    unexplained = (predictions - targets).square().mean() / targets.var(dim=0, correction=0).mean()
    assert found["explained_by_prediction"] == pytest.approx(1 - unexplained.item(), rel=1e-5)
    assert found["local_std"] == pytest.approx(2.0)
    assert measures((dense, targets, mask))["explained_by_prediction"] == pytest.approx(1)


def test_processes_and_micro_batches_measure_what_one_does(step):
    """Two samples each: a mean of their own standard deviations would miss what lies between them."""
    dense, _, mask = step
    dense[:2] += 20
    predictions = torch.randn(int(mask.sum()), 8)
    cut = int(mask[:2].sum())
    first = dense[:2, :30], predictions[: int(mask[:2, :, :30].sum())], mask[:2, :, :30]
    halves = (dense[:2], predictions[:cut], mask[:2]), (dense[2:], predictions[cut:], mask[2:])
    whole = measures((dense, predictions, mask))
    assert whole["target_std"] > 1.5 * measures(halves[0])["target_std"]

    other = []
    measures(halves[1], reduce=lambda sums: other.append(sums) or sums)
    for found in (measures(*halves), measures(halves[0], reduce=lambda sums: sums + other[0])):
        assert found == pytest.approx(whole, rel=1e-9)
    shorter = measures(first, halves[1])  # the batches of a step need not be of one length
    assert all(math.isfinite(value) for value in shorter.values())


def test_effective_rank_counts_directions():
    rows = torch.randn(20_000, 3) @ torch.linalg.qr(torch.randn(16, 3)).Q.T
    assert effective_rank(rows.T.cov()).item() == pytest.approx(3, abs=0.01)
    assert effective_rank(torch.eye(16)).item() == pytest.approx(16)
    assert effective_rank(torch.zeros(4, 4)).item() == pytest.approx(1)
    assert math.isnan(effective_rank(torch.full((4, 4), float("nan"))).item())


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_position_share_is_found_without_bias(share):
    samples, masks, tokens, width = 4, 3, 400, 8
    common = torch.randn(tokens, width) * share**0.5
    dense = common + torch.randn(samples, tokens, width) * (1 - share) ** 0.5
    mask = torch.rand(samples, masks, tokens) < 0.5
    predictions = torch.zeros(int(mask.sum()), width)
    assert measures((dense, predictions, mask))["explained_by_position"] == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_position_share_is_right_on_average_in_the_smallest_batches(share):
    """Content of a whole sample, as of a loud recording, lies in the mean of all tokens too."""
    common, shares = 3 * torch.randn(20, 8), []
    common = (common - common.mean(dim=0)) / common.std(dim=0, correction=0) * share**0.5
    for _ in range(400):
        dense = 5 + common + torch.randn(3, 1, 8) * (1 - share) ** 0.5
        mask = torch.rand(3, 2, 20) < 0.6
        shares.append(measures((dense, torch.zeros(int(mask.sum()), 8), mask))["explained_by_position"])
    assert sum(shares) / len(shares) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("positions, content", [(1.0, 0.0), (0.0, 1.0), (1.0, 0.5), (0.0, 0.0)])
def test_explained_content_is_what_is_explained_beyond_positions(positions, content):
    common, own = torch.randn(40, 8), torch.randn(30, 40, 8)
    common = (common - common.mean(dim=0)) / common.std(dim=0, correction=0)
    mask = torch.rand(30, 2, 40) < 0.5
    predictions = masked((positions * common).expand(30, -1, -1) + content * own, mask)
    found = measures((common + own, predictions, mask))["explained_content"]
    # Half of the variance is content; a factor f of a part leaves (1 - f)^2 of its variance unexplained.
    unexplained = ((1 - positions) ** 2 + (1 - content) ** 2) / 2
    assert found == pytest.approx((0.5 - unexplained) / 0.5, abs=0.08)


def test_explained_content_of_pure_positions_is_unknown():
    mask = torch.rand(4, 2, 40) < 0.5
    dense = torch.randn(40, 8).expand(4, -1, -1)
    found = measures((dense, masked(dense, mask), mask))
    assert found["explained_by_position"] == pytest.approx(1, abs=0.01) and math.isnan(found["explained_content"])


def test_position_share_of_a_single_sample_is_unknown():
    mask = torch.ones(1, 2, 5, dtype=torch.bool)
    assert math.isnan(measures((torch.randn(1, 5, 3), torch.randn(10, 3), mask))["explained_by_position"])


def test_share_of_the_neighbour():
    mask = torch.ones(4, 1, 300, dtype=torch.bool)
    noise = torch.randn(4, 300, 8)
    predictions = torch.zeros(1200, 8)
    smooth = noise.repeat_interleave(10, dim=1)[:, :300]
    assert measures((noise, predictions, mask))["explained_by_neighbour"] == pytest.approx(0, abs=0.05)
    assert measures((smooth, predictions, mask))["explained_by_neighbour"] == pytest.approx(0.9, abs=0.05)


def test_large_batches_and_widths_are_measured_on_a_part():
    mask = torch.ones(40, 4, 60, dtype=torch.bool)
    dense = torch.randn(40, 60, 2 * MAX_CHANNELS)
    sums = TargetSums(dense.shape[-1], torch.device("cpu"), torch.float32)
    sums.add(masked(dense, mask), masked(dense, mask) + 1, mask)
    assert sums.sums["rows"].item() == 32 * 4 * 60 / 2 <= MAX_ROWS
    found = sums.measures()
    assert found["target_std"].item() == pytest.approx(1, abs=0.02)
    assert 0.8 * MAX_CHANNELS < found["target_rank"].item() <= MAX_CHANNELS


def test_watch_names_modalities_and_starts_anew(step):
    dense, predictions, mask = step
    output = type("Output", (), {"targets": masked(dense, mask), "predictions": predictions, "predicted": mask,
                                 "local_std": torch.tensor(1.0)})  # fmt: skip
    watch = TargetWatch(torch.device("cpu"), torch.float64)
    watch.collect("audio", output)
    found = watch.finish(lambda sums: sums)
    assert found["audio/target_std"] > 1 and len(found) == 9
    assert watch.finish(lambda sums: sums) == {}
