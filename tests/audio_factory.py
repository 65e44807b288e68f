"""Tiny speech heads, labels and padding, shared by the tests of the speech heads."""

import torch
from model_factory import randomise, tiny_config

import modeling_d2v


HEADS = ("CTC", "AudioClassification", "AudioFrameClassification", "XVector")
SIZES = dict(
    vocab_size=12,
    classifier_proj_size=24,
    tdnn_dim=[16, 16, 20],
    tdnn_kernel=[3, 2, 1],
    tdnn_dilation=[1, 2, 1],
    xvector_output_dim=14,
    mask_time_length=3,
    mask_feature_length=4,
)
LABELS = 3
FRAMES = 18  # of 6000 samples


def make(head: str, audio: dict | None = None, **overrides) -> torch.nn.Module:
    config = tiny_config("audio", audio_config=SIZES | (audio or {}), **{"num_labels": LABELS, **overrides})
    return randomise(getattr(modeling_d2v, f"Data2VecFor{head}")(config)).eval()


def targets(head: str, batch: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if head == "CTC":
        labels = torch.randint(1, 12, (batch, 3), generator=generator)
        labels[:, 1:] = labels[:, 1:].where(labels[:, 1:] != labels[:, :-1], torch.tensor(-100))
        return labels
    if head == "AudioFrameClassification":
        return torch.randint(0, LABELS, (batch, FRAMES), generator=generator)
    return torch.arange(batch) % LABELS


def left_padded(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same recordings at the end of their rows, moved by a multiple of the frames' stride."""
    lengths = batch["attention_mask"].sum(1).tolist()
    rows = {}
    for name, x in batch.items():
        moved = [row.roll((len(row) - n) // 320 * 320) for row, n in zip(x, lengths, strict=True)]
        rows[name] = torch.stack(moved)
    return rows
