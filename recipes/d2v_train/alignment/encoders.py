"""Encoders of a study: of this package or of transformers, trained or as they were before training.

A model of the study names one encoder for each modality. One folder of a joint model serves all of its modalities;
several models of one modality each are given as "vision:runs/a/final,text:FacebookAI/roberta-base".
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, set_seed

from d2v_train.models.backbones import encoder_modality
from d2v_train.models.encoders import load_encoder, random_encoder
from d2v_train.options.errors import OptionError
from d2v_train.options.files import RUN_FILE, read_yaml
from d2v_train.probing.run import load_transform, read_probed_config
from modeling_d2v import Data2VecConfig, Data2VecForPreTraining
from modeling_d2v.modalities import MODALITIES
from modeling_d2v.sharing.places import model_place


@dataclass(frozen=True)
class ModelPart:
    """The encoder of one modality.

    Attributes:
        modality: A key of `MODALITIES`.
        source: Folder or name on the Hub.
        seed: None for the trained weights; otherwise the seed of random ones.
    """

    modality: str
    source: str
    seed: int | None = None

    def __str__(self) -> str:
        return f"{self.source} ({self.modality}{'' if self.seed is None else f', untrained, seed {self.seed}'})"

    def stamp(self) -> list[Any]:
        """Return what changes when the encoder does."""
        files = sorted(Path(self.source).glob("*")) if Path(self.source).is_dir() else []
        status = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file()]
        return [self.modality, str(Path(self.source).resolve()) if files else self.source, self.seed, status]


@dataclass(frozen=True)
class StudiedModel:
    """A model of a study.

    Attributes:
        name: Unique; a number at its end is the seed: "joint 0" and "joint 1" are two seeds of "joint".
        parts: Modality -> its encoder.
    """

    name: str
    parts: dict[str, ModelPart]

    @property
    def family(self) -> str:
        """Name without the seed."""
        return re.sub(r"[ _-]*\d+$", "", self.name)

    @property
    def seed(self) -> int | None:
        """Seed of the training: that of the run if its options are beside the model, or the number in the name."""
        for part in self.parts.values():
            run = Path(part.source).parent / RUN_FILE
            if run.exists():
                return int(read_yaml(run).get("seed", 0))
        number = re.search(r"\d+$", self.name)
        return int(number.group()) if number else None

    @property
    def kind(self) -> str:
        """ "joint" if one encoder serves several modalities, "separate" otherwise."""
        return "joint" if len({part.source for part in self.parts.values()}) == 1 else "separate"

    def untrained(self, seed: int) -> StudiedModel:
        """Return the same architectures with the random weights of a seed."""
        parts = {name: dataclasses.replace(part, seed=seed) for name, part in self.parts.items()}
        return StudiedModel(f"untrained {self.family} {seed}", parts)


def parse_models(texts: Sequence[str]) -> list[StudiedModel]:
    """Read models from "NAME=PLACE" and "NAME=vision:PLACE,audio:PLACE,text:PLACE".

    Raises:
        OptionError: If a text is something else, a name is given twice, or a place cannot be read.
    """
    models: dict[str, StudiedModel] = {}
    for text in texts:
        name, separator, places = text.partition("=")
        name = name.strip()
        if not separator or not name or not places.strip():
            raise OptionError(
                f"The model {text!r} is not NAME=PLACE, such as 'joint 0=runs/joint/final', or "
                "NAME=MODALITY:PLACE,..., such as 'separate 0=vision:runs/a/final,text:FacebookAI/roberta-base'."
            )
        if name in models:
            raise OptionError(f"Two models are called {name!r}. Give each a name of its own.")
        models[name] = StudiedModel(name, _parts(places.strip()))
    return list(models.values())


def _parts(places: str) -> dict[str, ModelPart]:
    named = re.fullmatch(r"((?:%s):[^,]+)(,(?:%s):[^,]+)*" % (("|".join(MODALITIES),) * 2), places)
    if not named:
        return {name: ModelPart(name, places) for name in modalities_of(places)}
    parts = {}
    for place in places.split(","):
        modality, _, source = place.partition(":")
        if modality not in modalities_of(source):
            raise OptionError(f"{source} has no {modality} encoder; it has {', '.join(modalities_of(source))}.")
        parts[modality] = ModelPart(modality, source)
    return parts


def modalities_of(source: str) -> list[str]:
    """Return the modalities of an encoder in a folder or on the Hub.

    Raises:
        OptionError: If it cannot be read.
    """
    try:
        config = AutoConfig.from_pretrained(model_place(source))
    except (OSError, ValueError) as error:
        raise OptionError(f"{source} holds no model that can be read: {' '.join(str(error).split())}") from error
    return list(config.modalities) if isinstance(config, Data2VecConfig) else [encoder_modality(config, source)]


def open_encoder(part: ModelPart) -> tuple[torch.nn.Module, Any]:
    """Return an encoder, and the transform from a record to its input.

    Raises:
        ValueError: If the checkpoint is of another kind or lacks its tokenizer.
    """
    source = model_place(part.source)
    config = read_probed_config(source, part.modality)
    transform = load_transform(source, part.modality, config)
    if part.seed is None:
        return load_encoder(source, config), transform
    return initial_encoder(config, part.seed), transform


def initial_encoder(config: Any, seed: int) -> torch.nn.Module:
    """Return an encoder with random weights; of this package, those that a run with this seed starts from."""
    set_seed(seed)
    if isinstance(config, Data2VecConfig):
        # The whole pretraining model is built as a run does, since the order of the draws matters.
        return Data2VecForPreTraining(config).trained_encoder("student")
    return random_encoder(config)
