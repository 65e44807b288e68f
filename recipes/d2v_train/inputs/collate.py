"""Batches of transformed samples: padding, attention mask, and the masks of the tokens that the student predicts.

Legend: B samples, S waveform samples, T tokens, M masks per sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2v_train.inputs.modalities import DATA_KINDS
from modeling_d2v.masking import sample_masks
from modeling_d2v.modalities import MODALITIES, modality_of_input


class Collator:
    """Collate items of one modality into the arguments of `Data2VecForPreTraining`.

    Waveforms and series are padded with zeros and token ids with the pad id, on the right; "attention_mask" (B, S or
    T, int64, 1 = real) is present only if something was padded. The masks are drawn by the real length of each sample,
    so the mask of a sample does not depend on the rest of the batch. As in the reference, text may be masked anywhere,
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
        """Collate `items`, dicts with "id" and one of the inputs of `MODALITIES`.

        These are "pixel_values" (C, H, W), "input_values" (S,), "input_ids" (T,) and "array_values" (sides ..., C).

        Returns:
            The input (B, ...), "attention_mask" if needed, "mask" (B, M, T) bool, True = masked, "sample_ids" (B,).

        Raises:
            ValueError: If there are no items, or items of several modalities or image sizes.
        """
        name = _common_input(items)
        modality = modality_of_input(name)
        settings, padding = self.model_config.modality_config(modality), DATA_KINDS[modality].padding
        fill = None if padding is None else padding(settings)
        tensors = [torch.as_tensor(np.asarray(item[name])) for item in items]
        if fill is None:
            batch, lengths = {name: _stack(tensors)}, None
        else:
            batch, lengths = _pad(name, tensors, fill)
        if self.masks:
            grid = settings.token_grid(batch[name].shape[1:])
            if lengths is None:
                tokens = torch.full((len(items),), settings.token_count(batch[name].shape[1:]))
            else:
                tokens = settings.num_tokens(lengths)
            ids = torch.tensor([int(item["id"]) for item in items])
            batch["mask"] = sample_masks(settings, tokens, seed=self.seed, step=step, sample_ids=ids, grid=grid)
            batch["sample_ids"] = ids
        return batch

    def count_tokens(self, modality: str, inputs: dict[str, Tensor]) -> int:
        """Return the number of real tokens of a collated batch, masked or not, so that padding is not throughput."""
        real = inputs.get("attention_mask")
        if real is None:
            return inputs["mask"][:, 0].numel()
        return int(self.model_config.modality_config(modality).num_tokens(real.sum(dim=1)).sum())


def _common_input(items: Sequence[dict[str, Any]]) -> str:
    known = [modality.input_name for modality in MODALITIES.values()]
    names = {name for item in items for name in known if name in item}
    if len(names) != 1:
        raise ValueError(f"A batch takes items of one modality; these {len(items)} have {sorted(names) or None}.")
    return names.pop()


def _stack(tensors: list[Tensor]) -> Tensor:
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        raise ValueError(f"The inputs of a batch differ in shape: {sorted(shapes)}. Resize or crop them to one size.")
    return torch.stack(tensors)


def _pad(name: str, tensors: list[Tensor], fill: float) -> tuple[dict[str, Tensor], Tensor]:
    """Stack tensors (length, ...) padded with `fill`; return the batch and the real lengths (B,)."""
    lengths = torch.tensor([len(tensor) for tensor in tensors])
    batch = {name: torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=fill)}
    if lengths.min() < lengths.max():
        batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    return batch, lengths
