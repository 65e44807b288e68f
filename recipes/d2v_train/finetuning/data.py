"""Labelled samples for `Trainer`: data set, collator and held-out validation data.

Legend: B samples, L classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from d2v_train.batching.amounts import amount_of
from d2v_train.batching.order import stable_seed
from d2v_train.data.labels import hold_out
from d2v_train.data.records import RawDataset
from d2v_train.inputs.collate import Collator


logger = logging.getLogger(__name__)


class FinetuningDataset(Dataset):
    """Samples of a `RawDataset` as inputs of a model, with "labels" from `target`.

    Random transforms depend only on seed, epoch and sample, not on the number of workers or on where a run was
    resumed. `FinetuningTrainer` calls `set_epoch`.

    Args:
        raw: Records.
        transform: `transform(record, seed) -> inputs`, for example from `build_transform`.
        target: Function from a record to its label; `None` takes its "label". If the label is `None`, a sample has no
            "labels".
        seed: Seed of the augmentation.
    """

    def __init__(
        self,
        raw: RawDataset,
        transform: Callable[..., dict[str, Any]],
        target: Callable[[dict[str, Any]], Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.raw, self.transform, self.target, self.seed = raw, transform, target, seed
        # In shared memory, for worker processes that persist over epochs.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """Epoch, counted from 0."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.raw[index]
        item = self.transform(record, seed=stable_seed(self.seed, "augment", self.epoch, int(index)))
        label = record["label"] if self.target is None else self.target(record)
        return item if label is None else item | {"labels": label}


class FinetuningCollator:
    """Collator for `FinetuningDataset`: padded inputs with their attention mask, and labels.

    Labels are class ids or numbers (B,), flags or probabilities (B, L), or sequences of ids, which are padded with
    -100.

    Args:
        model_config: `Data2VecConfig` of the model.
    """

    def __init__(self, model_config: Any) -> None:
        self.inputs = Collator(model_config, masks=False)

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        batch = self.inputs(items)
        if "labels" in items[0]:
            batch["labels"] = stack_labels([item["labels"] for item in items])
        return batch


def stack_labels(labels: Sequence[Any]) -> Tensor:
    """Return the labels of B samples as one tensor; sequences of ids of different lengths are padded with -100."""
    tensors = [torch.as_tensor(np.asarray(label)) for label in labels]
    if tensors[0].is_floating_point():
        return torch.stack(tensors).float()
    if tensors[0].ndim == 0:
        return torch.stack(tensors).long()
    return torch.nn.utils.rnn.pad_sequence([tensor.long() for tensor in tensors], True, -100)


def data_facts(datasets: Mapping[str, FinetuningDataset]) -> list[dict[str, Any]]:
    """Return what the card of a model tells of each data set, by name: source, split, size, fingerprint."""
    training = datasets.get("training")
    facts = []
    for name, dataset in datasets.items():
        raw = dataset.raw
        split = raw.split
        if name.startswith("validation") and training is not None:
            own = (training.raw.source, training.raw.split)
            split = f"held out of {split}" if (raw.source, split) == own else split
        amount = amount_of(raw, dataset.transform)
        found = raw.fingerprint()
        facts.append(
            {
                "part": name,
                "source": raw.source,
                "split": split,
                "samples": found["records"],
                "amount": None if amount is None or amount.unit == "pictures" else amount._asdict(),
                "fingerprint": found["names"],
            }
        )
    return facts


def hold_out_validation(training: RawDataset, share: float, reason: str) -> tuple[RawDataset, RawDataset]:
    """Hold out a part of the training data, the same one in every run, and log a warning.

    Args:
        training: All training data.
        share: Share to hold out of every class, or of all data if there are no classes; at least one sample.
        reason: Sentence that explains why there is no validation data.

    Returns:
        Remaining training data and held-out data.

    Raises:
        ValueError: If there are too few samples.
    """
    if training.labels is not None and training.labels.dtype.kind == "i" and (training.labels >= 0).all():
        kept, held = hold_out(training, share=share)
        whole = "each class"
    elif len(training) > 1:
        drawn = np.zeros(len(training), dtype=bool)
        drawn[np.random.default_rng(0).permutation(len(training))[: max(1, round(share * len(training)))]] = True
        kept, held = training.select(np.flatnonzero(~drawn)), training.select(np.flatnonzero(drawn))
        held.bad.before = None  # what was left out before counts once
        whole = "the samples"
    else:
        raise ValueError(f"{reason} Nothing can be held out of a single training sample; add samples.")
    logger.warning(
        "%s %g %% of %s are held out of the training data (%d, %d stay).%s",
        reason,
        100 * share,
        whole,
        len(held),
        len(kept),
        " The same speakers may be in both parts: --exclude_groups and --only_groups keep them apart."
        if training.modality == "audio"
        else "",
    )
    return kept, held
