"""Mask sampling: which tokens the student does not see.

Every draw is a pure function of (seed, step, sample id, repeat): a counter-based generator (SplitMix64 in wrapping
int64 arithmetic) replaces torch's, so a row does not depend on the rest of the batch, the padded length, the device or
the number of data-loader workers, and resuming needs no random state.

`SAMPLERS`, by `config.mask_sampler` (p = `mask_prob`, a = `mask_prob_adjust`, n = `mask_length`, L = tokens):

| name          | masked tokens      | centres                  | shape                             | used by      |
|---------------|--------------------|--------------------------|-----------------------------------|--------------|
| random        | L - int(L (1 - p)) |                          | single tokens                     | text         |
| span          | int(L p)           | int(L (p + a) / n)       | spans of n masked tokens          | audio        |
| inverse_span  | L - int(L (1 - p)) | int(L (1 - p + a) / n)   | spans of n *visible* tokens       | any line     |
| block         | int(L p)           | int(L (p + a) / n^2)     | n x n blocks of masked patches    | vision (1.0) |
| inverse_block | L - int(L (1 - p)) | int(L (1 - p + a) / n^2) | n x n blocks of *visible* patches | vision (2.0) |

A sampler only proposes tokens. Centres are uniform with replacement; single random tokens are then added or removed to
make the count exact, whatever the sampler. At least one token is masked and one visible for every L >= 2; a single
token (L = 1) stays visible; L = 0 masks nothing.

Source: the distributions of fairseq's `compute_block_mask_1d`, `compute_block_mask_2d` (`require_same_masks`) and
`random_masking`, except that each sample is masked by its own length instead of that of its padded batch.

Shapes: B samples, M repeats (masks per sample), T tokens (padded), K centres.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import LongTensor, Tensor


# Streams below 16 belong to this file; other users of the generator take higher ones.
_STREAM_SELECT, _STREAM_CENTRE, _STREAM_CORRUPT, _STREAM_REPLACE = 0, 1, 2, 3

# SplitMix64 (Steele, Lea and Flood 2014), constants as signed 64-bit integers.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)

# Sort keys hold, from the top: 1 bit "comes last", 41 random bits, 21 bits of token index that make them distinct.
_INDEX_BITS = 21
_LAST = 1 << 62
_KEY_MAX = (1 << 63) - 1


# Inductor takes products with an index for addresses, in integers that do not wrap, and fails on these.
@torch.compiler.disable
def counter_bits(
    seed: int | Tensor, step: int | Tensor, sample_ids: Tensor, *, count: int, repeats: int = 1, stream: int = 16
) -> LongTensor:
    """Draw 64 random bits keyed by (seed, step, sample id, repeat, stream, index).

    Args:
        seed: Any integer (taken modulo 2^64), or a scalar integer tensor.
        step: Any integer, or a scalar integer tensor (no host synchronisation).
        sample_ids: Integer tensor (...), the identity of each sample.
        count: Numbers drawn for each (sample, repeat). A larger count extends the sequence, it does not change it.
        repeats: Independent sequences for each sample.
        stream: Names the purpose of the draw; draws for different purposes are independent. 0 to 15 are reserved.

    Returns:
        int64 (..., repeats, count) on the device of `sample_ids`, all 64 bits uniform (so half of them are negative).
    """
    device = sample_ids.device
    key = torch.zeros((), dtype=torch.int64, device=device)
    for part in (seed, stream, step, sample_ids.unsqueeze(-1), torch.arange(repeats, device=device)):
        if isinstance(part, Tensor):
            key = _mix(key + (part.to(device, torch.int64) + 1) * _GOLDEN)
        else:
            key = _mix(key + _signed((part + 1) * _GOLDEN))
    return _mix(key.unsqueeze(-1) + torch.arange(1, count + 1, device=device) * _GOLDEN)


def counter_uniform(
    seed: int | Tensor, step: int | Tensor, sample_ids: Tensor, *, count: int, repeats: int = 1, stream: int = 16
) -> Tensor:
    """Draw uniform numbers in [0, 1), multiples of 2^-24.

    Arguments as for `counter_bits`; returns float32 (..., repeats, count).
    """
    bits = counter_bits(seed, step, sample_ids, count=count, repeats=repeats, stream=stream)
    return _logical_shift(bits, 40).to(torch.float32) * 2.0**-24


def sample_masks(
    config: Any,
    lengths: Tensor,
    *,
    seed: int | Tensor,
    step: int | Tensor,
    sample_ids: Tensor,
    grid: tuple[int, int] | None = None,
    num_masks: int | None = None,
) -> Tensor:
    """Sample M masks for each sample of a batch.

    Args:
        config: Modality configuration: `mask_sampler`, `mask_prob`, `mask_length`, `mask_prob_adjust`, `num_masks`.
        lengths: Integer tensor (B,), real tokens of each sample; extra tokens are not counted. On a grid they are the
            first ones, row by row: the samplers of blocks take whole rows.
        seed: Seed of the run.
        step: Optimizer step, or another counter of the visits to a sample.
        sample_ids: Integer tensor (B,), the identity of each sample in its data set.
        grid: Height and width in patches, those of the tallest sample. The samplers of blocks need it.
        num_masks: Masks for each sample, default `config.num_masks`.

    Returns:
        Boolean (B, M, T) on the device of `lengths`, True = masked, False at padding. T is height * width with a grid,
        else the greatest length, which takes one host synchronisation on an accelerator.

    Raises:
        ValueError: The configuration, the shapes or the lengths are invalid.
    """
    sampler, share = _check_config(config)
    repeats = config.num_masks if num_masks is None else num_masks
    if repeats < 1:
        raise ValueError(f"The number of masks for each sample is {repeats}; set num_masks to at least 1.")
    total = _check_lengths(config.mask_sampler, lengths, sample_ids, grid)
    if total < 2:
        return torch.zeros(len(lengths), repeats, total, dtype=torch.bool, device=lengths.device)

    lengths = lengths.to(torch.int64)
    key = {"seed": seed, "step": step, "sample_ids": sample_ids.to(lengths.device), "repeats": repeats}
    covered = None
    if sampler.cover is not None:
        covered = sampler.cover(share + config.mask_prob_adjust, config.mask_length, lengths, total, grid, key)
    chosen = _choose(covered, share, lengths, total, key)
    limit = lengths.view(-1, 1, 1)
    maskable = (torch.arange(total, device=lengths.device) < limit) & (limit > 1)  # (B, 1, T)
    return (~chosen if sampler.inverted else chosen) & maskable


def visible_indices(
    mask: Tensor, token_mask: Tensor | None = None, size: int | None = None
) -> tuple[LongTensor, Tensor]:
    """List the visible real tokens of each repeat.

    Args:
        mask: Boolean (B, M, T), True = masked.
        token_mask: Boolean (B, T), True = real token, default all real.
        size: Columns of the result, for static shapes without host synchronisation. It must not be below the greatest
            number of visible tokens in a row (tokens beyond it are left out); default is exactly that number.

    Returns:
        indices: Int64 (B*M, Tv), ascending in each row, 0 at padding.
        keep: Boolean (B*M, Tv), False at padding.
    """
    B, M, T = mask.shape
    visible = ~mask if token_mask is None else ~mask & token_mask.to(torch.bool).unsqueeze(1)
    visible = visible.reshape(B * M, T)
    rank = visible.cumsum(-1)  # (B*M, T), 1-based among the visible tokens
    counts = visible.sum(-1)
    if size is None:
        size = int(counts.max()) if counts.numel() else 0
    slot = torch.where(visible, rank - 1, size).clamp_(max=size)  # column `size` collects what is not kept
    tokens = torch.arange(T, device=mask.device).expand(B * M, T)
    indices = tokens.new_zeros(B * M, size + 1).scatter_(1, slot, tokens)[:, :size]
    keep = torch.arange(size, device=mask.device) < counts.unsqueeze(-1)
    return indices, keep


def corrupt_tokens(
    input_ids: Tensor,
    mask: Tensor,
    *,
    mask_token_id: int,
    vocab_size: int,
    random_prob: float = 0.1,
    keep_prob: float = 0.1,
    seed: int | Tensor,
    step: int | Tensor,
    sample_ids: Tensor,
    special_ids: Sequence[int] = (),
) -> Tensor:
    """Replace the masked tokens as BERT and data2vec 1.0 do: mask token, random token, or unchanged.

    Args:
        input_ids: Integer tensor (B, T).
        mask: Boolean (B, T) or (B, M, T), True = replace. Special tokens are replaced where it is True.
        mask_token_id: Id of the mask token.
        vocab_size: Random ids are below this.
        random_prob: Share of the masked tokens that becomes a random id.
        keep_prob: Share of the masked tokens that is not changed; the rest becomes the mask token.
        seed, step, sample_ids: As for `sample_masks`.
        special_ids: Ids never drawn as random ids (the mask token never is).

    Returns:
        Integer tensor of the shape of `mask` and the type of `input_ids`.

    Raises:
        ValueError: The probabilities, the shapes or the vocabulary are invalid.
    """
    if random_prob < 0 or keep_prob < 0 or random_prob + keep_prob > 1:
        raise ValueError(
            "random_prob and keep_prob must not be negative and must add up to at most 1, but are "
            f"{random_prob} and {keep_prob}."
        )
    batch, tokens = input_ids.shape
    if mask.ndim not in (2, 3) or (mask.shape[0], mask.shape[-1]) != (batch, tokens) or sample_ids.shape != (batch,):
        raise ValueError(
            f"For input_ids of shape {(batch, tokens)}, mask must be (batch, tokens) or (batch, masks, tokens) and "
            f"sample_ids (batch,), but they are {tuple(mask.shape)} and {tuple(sample_ids.shape)}."
        )
    excluded = sorted({i for i in (mask_token_id, *special_ids) if 0 <= i < vocab_size})
    if len(excluded) >= vocab_size:
        raise ValueError(f"All {vocab_size} ids of the vocabulary are special: no random replacement can be drawn.")

    sample_ids = sample_ids.to(input_ids.device)
    draw = {"count": tokens, "repeats": mask.shape[1] if mask.ndim == 3 else 1}
    action = counter_uniform(seed, step, sample_ids, stream=_STREAM_CORRUPT, **draw)
    bits = counter_bits(seed, step, sample_ids, stream=_STREAM_REPLACE, **draw)
    random_ids = _below(bits, vocab_size - len(excluded))
    for special in excluded:
        random_ids += random_ids >= special  # steps over the excluded ids, in ascending order

    original = input_ids.unsqueeze(1)  # (B, 1, T)
    replaced = torch.where(action < random_prob, random_ids.to(input_ids.dtype), mask_token_id)
    replaced = torch.where(action >= 1 - keep_prob, original, replaced)
    return torch.where(mask.reshape(replaced.shape), replaced, original).reshape(mask.shape)


def _signed(value: int) -> int:
    """Reduce an integer to the range of int64, modulo 2^64."""
    return (int(value) + (1 << 63)) % (1 << 64) - (1 << 63)


def _logical_shift(bits: Tensor, by: int, out: Tensor | None = None) -> Tensor:
    """Shift int64 right and fill with zeros; `>>` alone would repeat the sign."""
    return torch.bitwise_right_shift(bits, by, out=out).bitwise_and_((1 << (64 - by)) - 1)


def _mix(state: Tensor) -> Tensor:
    """Apply the finaliser of SplitMix64, a bijection of int64, in place."""
    # One buffer for all rounds: on a CPU fresh memory costs more than the arithmetic.
    shifted = torch.empty_like(state)
    state.bitwise_xor_(_logical_shift(state, 30, shifted)).mul_(_MIX_1)
    state.bitwise_xor_(_logical_shift(state, 27, shifted)).mul_(_MIX_2)
    return state.bitwise_xor_(_logical_shift(state, 31, shifted))


def _below(bits: Tensor, bound: Tensor | int) -> Tensor:
    """Map random bits to integers in [0, bound); exact in integers, so equal on every device. Bound up to 2^32."""
    return (_logical_shift(bits, 33) * bound) >> 31


def _portion(lengths: Tensor, share: float) -> Tensor:
    """Return int(L * share) in float64, as Python computes it."""
    return (lengths.to(torch.float64) * share).to(torch.int64)


def _count(lengths: Tensor, share: float) -> Tensor:
    """Return int(L * share) kept within [1, L - 1] (0 for L below 2): the number of tokens to choose."""
    return torch.minimum(_portion(lengths, share).clamp(min=1), lengths - 1).clamp(min=0)


def _cover_spans(
    share: float, length: int, lengths: Tensor, total: int, grid: tuple[int, int] | None, key: dict[str, Any]
) -> Tensor:
    """Mark int(L * share / length) spans of `length` tokens around random centres, cut at the ends."""
    rate = share / length
    most = int(total * rate)
    limit = lengths.view(-1, 1, 1)
    drawn = torch.arange(most, device=lengths.device) < _portion(limit, rate)  # (B, 1, K)
    first = _below(counter_bits(**key, count=most, stream=_STREAM_CENTRE), limit) - length // 2  # (B, M, K)
    one = drawn.to(torch.int32).expand_as(first)
    # +1 where a span begins and -1 after its end: the running sum counts the spans over a token at any span length.
    edges = torch.zeros(*first.shape[:2], total + 1, dtype=torch.int32, device=lengths.device)
    edges.scatter_add_(-1, first.clamp(min=0), one)
    edges.scatter_add_(-1, torch.minimum(first + length, limit), -one)
    return edges[..., :total].cumsum(-1, dtype=torch.int32) > 0


def _cover_blocks(
    share: float, length: int, lengths: Tensor, total: int, grid: tuple[int, int], key: dict[str, Any]
) -> Tensor:
    """Mark int(L * share / length^2) squares of `length` tokens a side around random centres, cut at the border."""
    height, width = grid
    rate = share / length**2
    most = int(total * rate)
    limit = lengths.view(-1, 1, 1)
    drawn = torch.arange(most, device=lengths.device) < _portion(limit, rate)  # (B, 1, K)
    position = _below(counter_bits(**key, count=most, stream=_STREAM_CENTRE), limit)  # (B, M, K)
    row = torch.div(position, width, rounding_mode="floor")
    top, left = row - length // 2, position - row * width - length // 2
    bottom, right = torch.minimum(top + length, limit // width), (left + length).clamp(max=width)
    top, left = top.clamp(min=0) * (width + 1), left.clamp(min=0)
    bottom = bottom * (width + 1)
    # The same running sum in two dimensions: +1 and -1 at the corners of a block.
    edges = torch.zeros(*position.shape[:2], (height + 1) * (width + 1), dtype=torch.int32, device=position.device)
    one = drawn.to(torch.int32).expand_as(position)
    one = torch.cat((one, one), -1)
    edges.scatter_add_(-1, torch.cat((top + left, bottom + right), -1), one)
    edges.scatter_add_(-1, torch.cat((top + right, bottom + left), -1), -one)
    over = edges.unflatten(-1, (height + 1, width + 1)).cumsum(-1, dtype=torch.int32).cumsum(-2, dtype=torch.int32)
    return (over[..., :height, :width] > 0).flatten(-2)


@dataclass(frozen=True)
class Sampler:
    """How one kind of mask is drawn.

    Args:
        cover: Function of (share to cover, adjustment included; `mask_length`; lengths (B,); T; grid; key of the
            draws) that returns a boolean (B, M, T): the tokens that are chosen first. None: all are equal.
        inverted: Whether the chosen tokens stay visible, instead of being masked.
        geometry: Required layout of the tokens, "line" or "grid"; None for either.
    """

    cover: Callable[..., Tensor] | None = None
    inverted: bool = False
    geometry: str | None = None


SAMPLERS: dict[str, Sampler] = {
    "random": Sampler(inverted=True),
    "span": Sampler(_cover_spans, geometry="line"),
    "inverse_span": Sampler(_cover_spans, inverted=True, geometry="line"),
    "block": Sampler(_cover_blocks, geometry="grid"),
    "inverse_block": Sampler(_cover_blocks, inverted=True, geometry="grid"),
}


def _choose(covered: Tensor | None, share: float, lengths: Tensor, total: int, key: dict[str, Any]) -> Tensor:
    """Choose exactly int(L * share) tokens, covered ones first and at random among equals; boolean (B, M, T).

    Rows of different counts share one selection of the largest count: in a row that needs fewer, padding has keys
    below all others and fills the difference. There is enough padding, since the count never grows faster than the
    length. The result means nothing at padding. A selection is linear in T, and several times faster than a sort.
    """
    most = max(1, min(int(total * share), total - 1))  # `_count` on the host: no synchronisation
    index = torch.arange(total, device=lengths.device)
    limit, count = lengths.view(-1, 1, 1), _count(lengths, share).view(-1, 1, 1)
    keys = counter_bits(**key, count=total, stream=_STREAM_SELECT)  # (B, M, T)
    keys.bitwise_right_shift_(2).bitwise_and_(_LAST - (1 << _INDEX_BITS)).bitwise_or_(index)
    if covered is not None:
        keys.add_(covered.logical_not(), alpha=_LAST)
    padding = torch.where(index < limit + most - count, -1, _KEY_MAX)  # (B, 1, T)
    torch.where(index < limit, keys, padding, out=keys)
    # topk rather than kthvalue, which raises on CUDA with deterministic algorithms.
    threshold = keys.topk(most, dim=-1, largest=False, sorted=False).values.amax(-1, keepdim=True)
    return keys <= threshold


def _check_config(config: Any) -> tuple[Sampler, float]:
    """Validate the mask options; return the sampler and the share of tokens to choose."""
    name, prob = config.mask_sampler, config.mask_prob
    if name not in SAMPLERS:
        raise ValueError(f"mask_sampler is {name!r}, which is unknown; use one of {', '.join(SAMPLERS)}.")
    if not 0 < prob < 1:
        raise ValueError(
            f"mask_prob is {prob}; it must lie strictly between 0 and 1: some tokens are masked and some visible."
        )
    sampler = SAMPLERS[name]
    share = 1 - prob if sampler.inverted else prob
    if sampler.cover is not None:
        if config.mask_length < 1:
            raise ValueError(f"mask_length is {config.mask_length}; the {name} sampler needs a length of at least 1.")
        if share + config.mask_prob_adjust < 0:
            raise ValueError(
                f"mask_prob_adjust is {config.mask_prob_adjust}, which leaves a negative share of tokens to cover "
                f"({share + config.mask_prob_adjust:.3g}); raise it to at least {-share:.3g}."
            )
    return sampler, share


def _check_lengths(sampler: str, lengths: Tensor, sample_ids: Tensor, grid: tuple[int, int] | None) -> int:
    """Validate shapes and lengths; return T. On an accelerator with a grid the lengths are trusted, not read."""
    if lengths.ndim != 1 or lengths.shape != sample_ids.shape:
        raise ValueError(
            "lengths and sample_ids must both have the shape (batch,), but have the shapes "
            f"{tuple(lengths.shape)} and {tuple(sample_ids.shape)}."
        )
    if lengths.is_floating_point() or sample_ids.is_floating_point():
        raise ValueError(
            f"lengths and sample_ids must be integer tensors, but are {lengths.dtype} and {sample_ids.dtype}."
        )
    on_grid = SAMPLERS[sampler].geometry == "grid"
    if grid is None and on_grid:
        raise ValueError(f"The {sampler} sampler masks a 2-D grid; pass grid=(height, width) in patches.")
    if grid is not None and min(grid) < 1:
        raise ValueError(f"grid is {tuple(grid)}; height and width must be at least 1 patch.")
    total = 0 if grid is None else grid[0] * grid[1]
    if len(lengths) and (grid is None or lengths.device.type == "cpu"):
        least, most = torch.stack(torch.aminmax(lengths)).tolist()
        if least < 0:
            raise ValueError(f"lengths holds {least}; a number of tokens cannot be negative.")
        if grid is not None and most > total:
            raise ValueError(f"The grid {tuple(grid)} has {total} patches, but lengths go up to {most}.")
        if on_grid and bool((lengths % grid[1]).any()):
            raise ValueError(
                f"The {sampler} sampler needs whole rows of {grid[1]} patches, but lengths (from {least} to {most}) "
                f"are not all multiples of {grid[1]}."
            )
        total = total or most
    if total > 1 << _INDEX_BITS:
        raise ValueError(f"A sample of {total} tokens is too long to mask; at most {1 << _INDEX_BITS} are supported.")
    return total
