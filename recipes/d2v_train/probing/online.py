"""The online probe: accuracy of a simple classifier on the frozen features of a run, at intervals.

Loss and standard deviations of targets do not show whether a run learns; this does. All processes extract features,
each of a part of the samples; the classifier runs in the main process.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from d2v_train.batching.batches import part
from d2v_train.data.labels import MissingLabelsError
from d2v_train.data.records import RawDataset
from d2v_train.data.source_list import entries_of
from d2v_train.data.tables import SourceSettings
from d2v_train.inputs.modalities import DATA_KINDS
from d2v_train.inputs.transforms import build_transform
from d2v_train.measuring.targets import effective_rank
from d2v_train.models.encoders import observed_encoder, random_encoder
from d2v_train.options.run import Options
from d2v_train.options.sections import ProbeDataOptions
from d2v_train.probing.classifiers import chance_accuracy, knn_accuracy, linear_accuracy
from d2v_train.probing.features import FeatureSet, extract, groups_are_disjoint
from d2v_train.probing.splits import open_parts
from d2v_train.support.processes import ONE_PROCESS, Processes


logger = logging.getLogger(__name__)


class OnlineProbe:
    """An observer that probes each modality with labelled data.

    Args:
        options: Options of the run, with the section `probe`.
        config: Configuration of the model.
        tokenizer: Tokenizer of text.
        processes: Processes of the run.
        transforms: Transforms of the training data, which have what was computed from it; those of a modality that is
            not among them are made from the options alone.

    Attributes:
        every: Steps between two probes.
        parts: Training and test part by modality.

    Raises:
        MissingLabelsError: If the data of a `probe` section has no labels.
        ValueError: If it has no such split or group.
    """

    def __init__(
        self,
        options: Options,
        config: Any,
        tokenizer: Any = None,
        processes: Processes = ONE_PROCESS,
        transforms: Mapping[str, Any] | None = None,
    ):
        self.options, self.config, self.processes = options, config, processes
        self.every, self.kind, self.weights = options.probe.every, options.probe.kind, options.probe.weights
        self.parts: dict[str, tuple[RawDataset, RawDataset]] = {}
        self.transforms: dict[str, Any] = {}
        if not self.every:
            return
        for name in options.modalities:
            parts = self._open(name)
            if parts is not None:
                # Once: each selection keeps its bad samples in shared memory, with a descriptor of its own.
                self.parts[name] = tuple(map(self._own_part, parts))
                kept = DATA_KINDS[name].evaluation_options
                given = {key: value for key, value in getattr(options, name).transform.items() if key in kept}
                if name in (transforms or {}):
                    given |= {key: getattr(transforms[name], key) for key in kept}
                self.transforms[name] = build_transform(name, given, config, tokenizer, train=False)

    def _own_part(self, dataset: RawDataset) -> RawDataset:
        """Return the samples that this process encodes."""
        return dataset.select(part(list(range(len(dataset))), self.processes.rank, self.processes.count))

    def _open(self, name: str) -> tuple[RawDataset, RawDataset] | None:
        """Open the parts of a modality; None if the section names no data and the training data cannot be probed."""
        given: ProbeDataOptions | None = getattr(self.options.probe, name)
        section = given or ProbeDataOptions()
        if section.data is None:
            section = _on_training_data(section, self.options, name)
        try:
            is_new = given is not None and given.data is not None  # that of the training data is in the log
            train, test, _ = open_parts(name, self.config, section, self.options.probe.max_samples, account=is_new)
        except (MissingLabelsError, ValueError) as error:
            if given is not None:
                raise
            logger.warning("%s is not probed (name labelled data with probe.%s.data): %s", name, name, error)
            return None
        return train, test

    def look(self, model: nn.Module, step: int) -> dict[str, float]:
        """Return accuracies in percent, such as `vision/probe_knn`, in the main process; the others get none.

        `probe_rank` is the effective rank of the features of the test part, `probe_chance` the accuracy of always
        predicting the most frequent class. The first probe of a run that does not start from random weights adds
        `probe_knn_random`, of the same encoder with random weights.

        Args:
            model: Pretraining model, which is not changed.
            step: Finished steps.
        """
        started = time.perf_counter()
        found: dict[str, float] = {}
        encoder = observed_encoder(model, self.weights)
        for name in self.parts:
            found |= self._measure(name, encoder, first=step == 0)
        if step == 0 and (self.options.init_from or self.options.backbone) is not None and self.parts:
            torch.manual_seed(self.options.seed)
            random = random_encoder(self.config).to(next(encoder.parameters()).device)
            for name in self.parts:
                key = f"{name}/probe_{self.kind}"
                compared = self._measure(name, random)
                found |= {f"{key}_random": compared[key]} if key in compared else {}
        if found:
            shown = ", ".join(f"{name} {value:.1f}" for name, value in found.items() if not name.endswith("_rank"))
            logger.info("Step %d: %s (%.1f s)", step, shown, time.perf_counter() - started)
        return found

    def _measure(self, name: str, encoder: nn.Module, first: bool = False) -> dict[str, float]:
        """Return the values of a modality in the main process; the others get none. A failure does not end the run."""
        sets = [self._features(name, encoder, dataset) for dataset in self.parts[name]]
        if not self.processes.main or None in sets:
            return {}
        train, test = sets
        data = (train.features, train.labels, test.features, test.labels)
        try:
            if self.kind == "knn":
                accuracy = knn_accuracy(*data, k=self.options.probe.neighbours)
            else:
                groups = train.groups if groups_are_disjoint(train, test) else None
                accuracy = linear_accuracy(*data, groups=groups)
        except ValueError as error:
            logger.warning("%s could not be probed: %s", name, error)
            return {}
        found = {f"{name}/probe_{self.kind}": accuracy, f"{name}/probe_rank": feature_rank(test.features)}
        if first:
            found[f"{name}/probe_chance"] = chance_accuracy(train.labels, test.labels)
        return {key: round(value, 2) for key, value in found.items()}

    def _features(self, name: str, encoder: nn.Module, samples: RawDataset) -> FeatureSet | None:
        """Return the features of a part, gathered from all processes; None if one of them failed."""
        own: FeatureSet | None = None
        try:
            own = extract(encoder, samples, self.transforms[name], batch_size=DATA_KINDS[name].probe_batch_size)
        except ValueError as error:
            logger.warning("%s could not be probed: %s", name, error)
        sets = self.processes.gather(own)
        if None in sets:
            return None
        return FeatureSet(
            np.concatenate([each.features for each in sets]),
            np.concatenate([each.labels for each in sets]),
            [group for each in sets for group in each.groups],
            np.concatenate([each.indices for each in sets]),
        )


def feature_rank(features: np.ndarray) -> float:
    """Return the effective rank of features (N, D)."""
    return effective_rank(torch.from_numpy(np.cov(features, rowvar=False))).item()


def _on_training_data(section: ProbeDataOptions, options: Options, name: str) -> ProbeDataOptions:
    """Return the section with the first source that a modality trains on, opened with the settings of the run."""
    source = entries_of(options, name)[0]
    # Groups that training leaves out may be the test groups of the section.
    given = {field.name: getattr(source, field.name) for field in dataclasses.fields(SourceSettings)
             if getattr(source, field.name) != field.default}  # fmt: skip
    given.pop("max_samples", None)
    left_out = given.pop("exclude_groups", [])
    return dataclasses.replace(
        section,
        data=source.source,
        dataset={**given, **section.dataset},
        exclude_groups=section.exclude_groups or [group for group in left_out if group not in section.test_groups],
    )
