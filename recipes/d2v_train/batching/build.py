"""From the source of a modality to the data of its steps: transform, prepared data, order, lengths, turns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from d2v_train.batching.batches import BatchPlan, ModalityData, PassLimit, StepDataset
from d2v_train.batching.lengths import token_lengths
from d2v_train.batching.order import Mixture
from d2v_train.batching.turns import FixedTurns, SortedTurns
from d2v_train.data.report import DataReport
from d2v_train.data.source_list import JoinedDataset, parts_of
from d2v_train.inputs.arrays import ArrayTransform
from d2v_train.inputs.collate import Collator
from d2v_train.inputs.modalities import DATA_KINDS
from d2v_train.inputs.transforms import build_transform
from d2v_train.options.errors import OptionError
from d2v_train.options.run import Options
from d2v_train.options.sections import ModalityOptions
from d2v_train.support.processes import ONE_PROCESS, Processes
from modeling_d2v import Data2VecConfig


def prepare_modality(
    options: Options,
    config: Data2VecConfig,
    modality: str,
    source: Any,
    tokenizer: Any = None,
    report: DataReport | None = None,
) -> ModalityData:
    """Prepare a modality of a run.

    Args:
        options: The run's options.
        config: Configuration of the model.
        modality: Name of the modality.
        source: Raw data set, `RawDataset` or `JoinedDataset`.
        tokenizer: Tokenizer of text.
        report: Receives problems that are found when data is read as a whole.

    Raises:
        ValueError: A transform option is wrong, or there is too little data.
        OptionError: A sample has more tokens than the options allow.
    """
    section = getattr(options, modality)
    block = options.data.shuffle_buffer
    transform = build_transform(modality, section.transform, config, tokenizer, train=True)
    if isinstance(transform, ArrayTransform):
        transform.fit(list(parts_of(source).values()), f"data.{modality}")
    # Separately, as two sources may use the same name for different speakers.
    prepared = [transform.prepare(part, block, report) for part in parts_of(source).values()]
    dataset, ratios = prepared[0], None
    if isinstance(source, JoinedDataset):
        ratios = source.ratios
        dataset = JoinedDataset(prepared, source.names, ratios)
    order = Mixture([len(part) for part in prepared], ratios, options.seed, modality, block)
    if section.needs_lengths:
        lengths = np.concatenate([token_lengths(part, transform, config) for part in prepared])
        turns = _sorted_turns(section, order, lengths, options.seed, modality)
    else:
        turns = FixedTurns(order, section.batch_size)
    fingerprint = {
        f"{name} {what}".strip(): value
        for (name, raw), part in zip(parts_of(source).items(), prepared, strict=True)
        for what, value in (raw.fingerprint() | {"samples": len(part)}).items()
    }
    limit = PassLimit(section.micro_batch_size, section.micro_batch_tokens) if section.is_limited else None
    return ModalityData(dataset, transform, turns, limit, fingerprint)


def _sorted_turns(
    section: ModalityOptions, order: Mixture, lengths: np.ndarray, seed: int, modality: str
) -> SortedTurns:
    for option in ("batch_tokens", "micro_batch_tokens"):
        most = getattr(section, option)
        if most is not None and lengths.max() > most:
            raise OptionError(
                f"{modality}.{option} is {most}, and a sample has up to {lengths.max()} tokens. Raise it, or shorten "
                f"the samples with {modality}.transform.{DATA_KINDS[modality].longest}."
            )
    return SortedTurns(
        order,
        lengths,
        section.batch_size,
        section.batch_tokens,
        stretch=max(1, section.bucket_steps),
        seed=seed,
        label=modality,
    )


def build_steps(
    options: Options,
    config: Data2VecConfig,
    sources: Mapping[str, Any],
    tokenizer: Any = None,
    processes: Processes = ONE_PROCESS,
    report: DataReport | None = None,
) -> StepDataset:
    """Return the micro-batches of this process by step.

    Args:
        options: The run's options.
        config: Configuration of the model.
        sources: Raw data sets by modality.
        tokenizer: Tokenizer of text.
        processes: Processes of the run.
        report: Receives problems that are found when data is read as a whole.

    Raises:
        ValueError: A transform option is wrong, or a modality has too little data or too small a batch.
    """
    data = {
        name: prepare_modality(options, config, name, source, tokenizer, report) for name, source in sources.items()
    }
    plan = BatchPlan(
        {name: each.turns for name, each in data.items()},
        {name: getattr(options, name).ratio for name in data},
        mixed=options.schedule == "mixed",
    )
    collator = Collator(config, options.seed)
    return StepDataset(
        plan,
        data,
        collator,
        collator.count_tokens,
        seed=options.seed,
        accumulate=options.accumulate,
        processes=processes,
    )
