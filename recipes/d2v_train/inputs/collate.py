"""Batches of transformed samples: padding, attention mask, and the masks that the student is to predict behind.

Legend: B samples, S waveform samples, T tokens, M masks per sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeling_d2v.masking import sample_masks


MODALITY_OF_INPUT = {"pixel_values": "vision", "input_values": "audio", "input_ids": "text"}


class Collator:
    """Collate items of one modality into the arguments of `Data2VecForPreTraining`.

    Waveforms are padded with zeros and token ids with the pad id, on the right; "attention_mask" (B, S or T, int64,
    1 = real) is there only if something was padded. The masks are drawn by the real length of each sample, so a
    sample is masked in the same way whatever it is batched with. As in the reference, text may be masked anywhere,
    its start and end tokens included.

    Args:
        model_config: `Data2VecConfig`.
        seed: Seed of the masks.
        masks: False leaves "mask" and "sample_ids" out, for feature extraction.
    """

    def __init__(self, model_config: Any, seed: int = 0, masks: bool = True):
        self.model_config = model_config
        self.seed = seed
        self.masks = masks

    def __call__(self, items: Sequence[dict[str, Any]], step: int = 0) -> dict[str, Tensor]:
        """Collate `items`, dicts with "id" and one of "pixel_values" (C, H, W), "input_values" (S,), "input_ids" (T,).

        Returns:
            The input (B, ...), "attention_mask" if needed, "mask" (B, M, T) bool, True = masked, "sample_ids" (B,).

        Raises:
            ValueError: If there are no items, or items of several modalities or image sizes.
        """
        name = _common_input(items)
        modality = MODALITY_OF_INPUT[name]
        config = self.model_config.modality_config(modality)
        tensors = [torch.as_tensor(np.asarray(item[name])) for item in items]
        grid = None
        if modality == "vision":
            shapes = {tuple(tensor.shape) for tensor in tensors}
            if len(shapes) > 1:
                raise ValueError(f"The images of a batch differ in shape: {sorted(shapes)}. Resize them to one size.")
            batch = {name: torch.stack(tensors)}
            grid = config.grid_size(*tensors[0].shape[-2:])
            tokens = torch.full((len(items),), grid[0] * grid[1])
        else:
            fill = config.pad_token_id if modality == "text" else 0.0
            batch, lengths = _pad(name, tensors, fill)
            tokens = config.num_frames(lengths) if modality == "audio" else lengths
        if self.masks:
            ids = torch.tensor([int(item["id"]) for item in items])
            batch["mask"] = sample_masks(config, tokens, seed=self.seed, step=step, sample_ids=ids, grid=grid)
            batch["sample_ids"] = ids
        return batch


def _common_input(items: Sequence[dict[str, Any]]) -> str:
    names = {name for item in items for name in MODALITY_OF_INPUT if name in item}
    if len(names) != 1:
        raise ValueError(f"A batch takes items of one modality; these {len(items)} hold {sorted(names) or None}.")
    return names.pop()


def _pad(name: str, tensors: list[Tensor], fill: float) -> tuple[dict[str, Tensor], Tensor]:
    """Stack 1-D tensors padded with `fill`; return the batch and the real lengths (B,)."""
    lengths = torch.tensor([len(tensor) for tensor in tensors])
    batch = {name: torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=fill)}
    if lengths.min() < lengths.max():
        batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    return batch, lengths
