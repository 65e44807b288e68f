"""Probe an encoder, its randomly initialised twin and simple features on one labelled dataset."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig

from d2v_train.data.records import RawDataset
from d2v_train.inputs.modalities import DATA_KINDS
from d2v_train.inputs.tokenizer import check_vocabulary, load_tokenizer
from d2v_train.inputs.transforms import build_transform
from d2v_train.models.backbones import encoder_modality, input_settings, load_processor, wrapped_config
from d2v_train.models.encoders import load_encoder, random_encoder
from d2v_train.probing.classifiers import (
    chance_accuracy,
    few_label_accuracy,
    knn_accuracy,
    linear_accuracy,
)
from d2v_train.probing.features import FeatureSet, extract, groups_are_disjoint
from d2v_train.probing.settings import ProbeSettings
from d2v_train.probing.simple_features import simple_features
from d2v_train.probing.splits import open_parts
from modeling_d2v import BackbonePreTrainingConfig, Data2VecConfig
from modeling_d2v.sharing.places import model_place


logger = logging.getLogger("probe")


def run_probe(settings: ProbeSettings) -> dict[str, Any]:
    """Measure the accuracy of simple classifiers on frozen features.

    Returns:
        The output of the command: accuracies in percent of the encoder ("pretrained"), of the same one with random
        weights ("random") and of features without training ("simple"), with data and settings.

    Raises:
        FileNotFoundError: If there is no model in the folder.
        MissingLabelsError: If the data has no class labels.
        ValueError: If the checkpoint is of another kind or lacks the modality, the parts overlap, or the device does
            not exist.
    """
    started = time.perf_counter()
    device = find_device(settings.device)
    settings = dataclasses.replace(settings, model=model_place(str(settings.model)))
    config = read_probed_config(settings.model, settings.modality)
    train, test, held_out = open_parts(settings.modality, config, settings, settings.max_samples)
    unlabelled = sum(part.bad.before.total for part in (train, test) if part.bad.before)
    transform = load_transform(settings.model, settings.modality, config, settings.transform)
    batch_size = settings.batch_size or DATA_KINDS[settings.modality].probe_batch_size

    def features(model: torch.nn.Module) -> list[FeatureSet]:
        how = {"batch_size": batch_size, "device": device, "layer": settings.layer, "pooling": settings.pooling}
        return [extract(model, part, transform, **how) for part in (train, test)]

    torch.manual_seed(settings.random_seed)
    measured = {"random": measure(settings, *features(random_encoder(config)))}
    logger.info("random weights: %s", measured["random"])
    parts = features(load_encoder(settings.model, config))
    measured["pretrained"] = measure(settings, *parts)
    logger.info("pretrained weights: %s", measured["pretrained"])
    measured["simple"] = {}
    if settings.simple:
        # The same samples as for the encoder: those that it could read.
        records = [_Readable(part, found) for part, found in zip((train, test), parts, strict=True)]
        shape = config.modality_config(settings.modality)
        for name, matrices in simple_features(settings.modality, *records, shape).items():
            sets = [dataclasses.replace(part, features=matrix) for part, matrix in zip(parts, matrices, strict=True)]
            measured["simple"][name] = measure(settings, *sets)
            logger.info("%s: %s", name, measured["simple"][name])
    return {
        "model": str(settings.model),
        "modality": settings.modality,
        "data": settings.data or "builtin",
        "layer": "last" if settings.layer is None else settings.layer,
        "pooling": settings.pooling,
        "classes": len(np.unique(parts[0].labels)),
        "train_samples": len(parts[0].labels),
        "test_samples": len(parts[1].labels),
        "held_out": held_out,
        "bad_samples": len(parts[0].bad) + len(parts[1].bad) + unlabelled,
        "chance": round(chance_accuracy(parts[0].labels, parts[1].labels), 2),
        **measured,
        "few_labels": settings.few,
        "neighbours": settings.neighbours,
        "seeds": list(settings.seeds),
        "seconds": round(time.perf_counter() - started, 1),
    }


def measure(settings: ProbeSettings, train: FeatureSet, test: FeatureSet) -> dict[str, float]:
    """Return accuracies in percent of the linear, the kNN and the few-label probe, with "few_std" over its draws."""
    data = (train.features, train.labels, test.features, test.labels)
    groups = train.groups if groups_are_disjoint(train, test) else None
    few = few_label_accuracy(*data, per_class=settings.few, seeds=settings.seeds)
    return {
        "linear": round(linear_accuracy(*data, groups=groups, seed=settings.random_seed), 2),
        "knn": round(knn_accuracy(*data, k=settings.neighbours), 2),
        "few": round(few.mean, 2),
        "few_std": round(few.std, 2),
    }


def find_device(name: str | None) -> torch.device:
    """Return the device of a name; None takes the GPU if there is one.

    Raises:
        ValueError: If the device cannot be used on this machine.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # `torch.device` accepts names of devices that do not exist.
        torch.zeros(1).to(name).cpu()
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"The device {name!r} cannot be used here ({str(error).splitlines()[0]}). Name another one with --device, "
            "such as cpu or cuda:0, or leave it out."
        ) from error


def read_probed_config(model_path: str, modality: str) -> Data2VecConfig | BackbonePreTrainingConfig:
    """Read the configuration of a checkpoint and check that it has the modality.

    Returns:
        Configuration of a data2vec model; a plain encoder of transformers is wrapped as in pretraining.

    Raises:
        ValueError: If the checkpoint is of another kind, or lacks the modality.
    """
    config = AutoConfig.from_pretrained(model_path)
    own = isinstance(config, Data2VecConfig)
    modalities = config.modalities if own else [encoder_modality(config, model_path)]
    if modality not in modalities:
        raise ValueError(f"{model_path} has no {modality} encoder; it has {', '.join(modalities)}.")
    if own:
        return config
    # Probing needs no masks or predictions: an encoder that lacks settings for them can be probed too.
    tokenizer = load_probe_tokenizer(model_path, modality)
    unused = {"end_of_block_targets": True} | ({} if tokenizer is None else {"mask_token_id": 0})
    return wrapped_config(config, tokenizer, **unused)


class _Readable:
    """The records of a dataset that an extraction could read; may be iterated several times."""

    def __init__(self, dataset: RawDataset, found: FeatureSet) -> None:
        self.dataset, self.indices = dataset, found.indices

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self.dataset[int(index)] for index in self.indices)


def load_transform(model_path: str, modality: str, config: Any, options: dict[str, Any] | None = None) -> Any:
    """Build the evaluation transform of a model from its configuration and its saved processor or tokenizer.

    Args:
        model_path: Folder or Hub name of the model.
        modality: A key of `DATA_KINDS`.
        config: Configuration of the model.
        options: Options of `build_transform`, which override those of the processor.

    Raises:
        ValueError: If the tokenizer is missing or does not fit the model, or an option is wrong.
    """
    tokenizer, saved = load_probe_tokenizer(model_path, modality), {}
    if tokenizer is None:
        saved = input_settings(modality, load_processor(model_path, modality))
    else:
        rows = config.modality_config(modality).vocab_size
        check_vocabulary(tokenizer, rows, "(in its folder, with tokenizer.save_pretrained)")
    return build_transform(modality, saved | (options or {}), config, tokenizer=tokenizer, train=False)


def load_probe_tokenizer(model_path: str, modality: str) -> Any:
    """Load the tokenizer that was saved with a text model; None for modalities without one.

    Raises:
        ValueError: If a text model has no usable tokenizer.
    """
    if not DATA_KINDS[modality].has_tokenizer:
        return None
    try:
        return load_tokenizer(model_path)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"There is no usable tokenizer in {model_path} ({error}). Text is probed with the tokenizer of the "
            "training: save it into that folder with tokenizer.save_pretrained."
        ) from error
