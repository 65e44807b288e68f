"""Conversion of models of transformers (data2vec-audio, data2vec-text, data2vec-vision) to models of this package.

Each modality has a module with two functions:

- `settings(source)`: arguments of `Data2VecConfig` for a whole configuration of transformers, given as a dictionary.
  Label names, `num_labels` and `problem_type` are added here.
- `place(name)`: the place of a tensor. Names are those of models with a head, in transformers
  ("data2vec_text.encoder...") and here ("data2vec.encoder..."): models without one get these prefixes here. `place`
  returns unknown names unchanged, and they become an error.

Example:
    >>> model, unused = from_transformers("facebook/data2vec-text-base")
    >>> model.save_pretrained("data2vec-text-base")
"""

import json
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from modeling_d2v.configuration_data2vec import Data2VecConfig
from modeling_d2v.conversion.files import read_file
from modeling_d2v.conversion.hf.audio import place as place_audio
from modeling_d2v.conversion.hf.audio import settings as settings_audio
from modeling_d2v.conversion.hf.text import place as place_text
from modeling_d2v.conversion.hf.text import settings as settings_text
from modeling_d2v.conversion.hf.vision import place as place_vision
from modeling_d2v.conversion.hf.vision import settings as settings_vision
from modeling_d2v.conversion.tensors import Filler, Place, Unused, expected_shapes, walk
from modeling_d2v.heads_audio import (
    Data2VecForAudioClassification,
    Data2VecForAudioFrameClassification,
    Data2VecForCTC,
)
from modeling_d2v.heads_text import (
    Data2VecForMaskedLM,
    Data2VecForMultipleChoice,
    Data2VecForQuestionAnswering,
    Data2VecForSequenceClassification,
    Data2VecForTokenClassification,
)
from modeling_d2v.heads_vision import Data2VecForImageClassification, Data2VecForSemanticSegmentation
from modeling_d2v.heads_xvector import Data2VecForXVector
from modeling_d2v.modeling_data2vec import Data2VecModel, Data2VecPreTrainedModel


class Kind(NamedTuple):
    """One model type of transformers."""

    settings: Callable[[Mapping[str, Any]], dict[str, Any]]
    place: Callable[[str], Place | Unused]
    prefix: str  # of the encoder in a model with a head
    classes: dict[str, type[Data2VecPreTrainedModel]]  # by the name in transformers
    without_key_bias: bool = False
    optional: tuple[str, ...] = ()  # tensors that theirs may lack: they are then initialised


KINDS = {
    "data2vec-text": Kind(
        settings_text,
        place_text,
        "data2vec_text.",
        {
            "Data2VecTextModel": Data2VecModel,
            "Data2VecTextForMaskedLM": Data2VecForMaskedLM,
            "Data2VecTextForSequenceClassification": Data2VecForSequenceClassification,
            "Data2VecTextForTokenClassification": Data2VecForTokenClassification,
            "Data2VecTextForQuestionAnswering": Data2VecForQuestionAnswering,
            "Data2VecTextForMultipleChoice": Data2VecForMultipleChoice,
        },
    ),
    "data2vec-audio": Kind(
        settings_audio,
        place_audio,
        "data2vec_audio.",
        {
            "Data2VecAudioModel": Data2VecModel,
            "Data2VecAudioForCTC": Data2VecForCTC,
            "Data2VecAudioForSequenceClassification": Data2VecForAudioClassification,
            "Data2VecAudioForAudioFrameClassification": Data2VecForAudioFrameClassification,
            "Data2VecAudioForXVector": Data2VecForXVector,
        },
        optional=("modality_encoders.audio.mask_token", "data2vec.modality_encoders.audio.mask_token"),
    ),
    "data2vec-vision": Kind(
        settings_vision,
        place_vision,
        "data2vec_vision.",
        {
            "Data2VecVisionModel": Data2VecModel,
            "Data2VecVisionForImageClassification": Data2VecForImageClassification,
            "Data2VecVisionForSemanticSegmentation": Data2VecForSemanticSegmentation,
        },
        without_key_bias=True,
        optional=("modality_encoders.vision.mask_token", "data2vec.modality_encoders.vision.mask_token"),
    ),
}
ENCODER = "data2vec."
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def from_transformers(
    source: PreTrainedModel | str | PathLike, *, architecture: str | None = None, **hub: Any
) -> tuple[Data2VecPreTrainedModel, list[Unused]]:
    """Build our model with the weights of a model of transformers.

    Args:
        source: A model in memory, a folder, or a name on the Hub.
        architecture: Name of their class, such as "Data2VecTextForMaskedLM". Default: the model's class, or that of
            the configuration. The plain model ("Data2VecTextModel") can be taken from one with a head.
        hub: `revision`, `token`, `cache_dir`, `subfolder`, ... for a name on the Hub.

    Returns:
        The model in evaluation mode, with the source's dtype, and the unused tensors of the source, each with the
        reason.

    Raises:
        ValueError: The model type, the class or a setting has no counterpart, or tensors do not fit; the message names
            all of them.
        FileNotFoundError: The folder has no weights.
    """
    if isinstance(source, PreTrainedModel):
        settings, named = source.config.to_dict(), type(source).__name__
    else:
        settings, _ = PreTrainedConfig.get_config_dict(source, **hub)
        named = (settings.get("architectures") or [None])[0]
    kind, architecture = kind_of(settings), architecture or named
    model_class = kind.classes.get(architecture)
    if model_class is None:
        raise ValueError(
            f"{architecture} has no counterpart here; {', '.join(kind.classes)} have one. Pass one as `architecture` "
            "if the configuration does not name the class of the weights."
        )

    config = config_from_transformers(settings)
    state = source.state_dict() if isinstance(source, PreTrainedModel) else dict(_tensors(source, **hub))
    plain = model_class is Data2VecModel
    what = f"{settings['model_type']} ({architecture})"
    filler = Filler(expected_shapes(model_class, config), what, kind.without_key_bias)
    headed = any(name.startswith(kind.prefix) for name in state)
    for name, tensor in walk(state):
        place = kind.place(name if headed else kind.prefix + name)
        if isinstance(place, Unused):
            place = Unused(name, place.reason)
        elif plain and headed and not name.startswith(kind.prefix):
            place = Unused(name, "belongs to the head")
        elif plain:
            place = place._replace(name=place.name.removeprefix(ENCODER))
        filler.put(name, place, tensor)
    conversion = filler.finish(kind.optional)
    model = model_class.from_pretrained(None, config=config, state_dict=conversion.tensors)
    return model, conversion.unused


def config_from_transformers(source: Mapping[str, Any]) -> Data2VecConfig:
    """Return the configuration that computes what a model of transformers computes.

    Args:
        source: Its configuration as a dictionary (the content of `config.json`).

    Raises:
        ValueError: The model type or a setting has no counterpart.
    """
    kind = kind_of(source)
    whole = CONFIG_MAPPING[source["model_type"]].from_dict(dict(source))
    names = whole.id2label
    numbers = whole.label2id or {name: number for number, name in names.items()}
    labels = {"id2label": names, "label2id": numbers, "problem_type": whole.problem_type}
    return Data2VecConfig(**kind.settings(whole.to_dict()), **labels)


def kind_of(source: Mapping[str, Any]) -> Kind:
    """Return the entry of `KINDS` for the model type of a configuration.

    Raises:
        ValueError: The type is not in `KINDS`.
    """
    kind = KINDS.get(source.get("model_type"))
    if kind is None:
        raise ValueError(
            f"This is a model of type {source.get('model_type')!r}; those that can be converted are "
            f"{', '.join(KINDS)}. Checkpoints of fairseq are converted by `convert_checkpoint`; a checkpoint of type "
            f"{Data2VecConfig.model_type!r} is one of this package: load it with `from_pretrained`."
        )
    return kind


def _tensors(source: str | PathLike, **hub: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) of every weight file; files are mapped, so unread tensors are not loaded."""
    for file in _files(source, **hub):
        content = read_file(Path(file))
        yield from (content["model"] if file.endswith(".safetensors") else content).items()


def _files(source: str | PathLike, **hub: Any) -> list[str]:
    for name in WEIGHT_FILES:
        whole = cached_file(source, name, _raise_exceptions_for_missing_entries=False, **hub)
        if whole:
            return [whole]
        index = cached_file(source, f"{name}.index.json", _raise_exceptions_for_missing_entries=False, **hub)
        if index:
            with open(index, encoding="utf-8") as file:
                parts = sorted(set(json.load(file)["weight_map"].values()))
            return [cached_file(source, part, **hub) for part in parts]
    raise FileNotFoundError(f"{source} holds none of {', '.join(WEIGHT_FILES)}, nor an index of their parts.")
