"""The card of a published model, and the licence of its weights.

Fine-tuning, further pretraining and conversion do not change the licence of the original weights: it is read from the
card of the source.
"""

import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.errors import EntryNotFoundError, HTTPError

from .configuration_data2vec import Data2VecConfig
from .markdown import Markdown, escape, facts_table, python_string
from .modalities import MODALITIES
from .remote_code import AUTO_MAP


CARD = "README.md"
NON_COMMERCIAL = "cc-by-nc"
PAPERS = {"1.0": "2202.03555", "2.0": "2212.07525"}
PIPELINE_TAGS = {
    "AutoModel": "feature-extraction",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForMultipleChoice": "multiple-choice",
    "AutoModelForCTC": "automatic-speech-recognition",
    "AutoModelForAudioClassification": "audio-classification",
    "AutoModelForImageClassification": "image-classification",
    "AutoModelForSemanticSegmentation": "image-segmentation",
    # The Hub has no task for the classification of series.
    "AutoModelForArrayClassification": "other",
}
_USE = """\
```python
from transformers import {auto}, AutoProcessor

model = {auto}.from_pretrained({name}, trust_remote_code=True)
processor = AutoProcessor.from_pretrained({name}, trust_remote_code=True)
```

The code of the model lies beside its weights; read it before you trust it."""
ARRAYS_USE = """\
```python
import numpy as np
from transformers import AutoConfig, AutoProcessor
from transformers.dynamic_module_utils import get_class_from_dynamic_module

config = AutoConfig.from_pretrained({name}, trust_remote_code=True)
place = config.auto_map["AutoModelForArrayClassification"].split("--")[-1]
model = get_class_from_dynamic_module(place, config.name_or_path).from_pretrained({name})
processor = AutoProcessor.from_pretrained({name}, trust_remote_code=True)

arrays = [np.load("sample.npy")]  # {shape}
logits = model(**processor(arrays=arrays, return_tensors="pt")).logits
classes = [config.id2label[number] for number in logits.argmax(dim=-1).tolist()]
```

The code of the model lies beside its weights; read it before you trust it. With the package modeling-d2v installed,
the model is `modeling_d2v.AutoModelForArrayClassification.from_pretrained({name})`."""
"""Example of a classifier of arrays, for which transformers has no Auto class."""
_ENCODER_LIMITS = """\
- It turns raw input into features; it classifies, transcribes and generates nothing by itself. The cosine of the
  features of two texts does not measure their similarity before fine-tuning.
"""
_LIMITS = """\
- It repeats the biases of its training data. Measure before you use it on languages, accents, pictures or recording
  conditions that these data lack.
- It is not made for identifying people by voice or face, for judging emotion, health or character, or for any decision
  about a person."""


def model_card(
    config: Data2VecConfig,
    architecture: str,
    name: str,
    *,
    license: str | None = None,
    base_model: str | None = None,
    datasets: list[str] | None = None,
    summary: str | None = None,
    sections: Mapping[str, str] | None = None,
) -> str:
    """Return the text of a card with its metadata.

    Args:
        config: Configuration of the model.
        architecture: Name of its class, such as "Data2VecModel".
        name: Name of the repository, as `from_pretrained` takes it.
        license: Identifier of the Hub; `None` for an unknown one, which `publish` does not accept.
        base_model: Name on the Hub of the model that this one was made from.
        datasets: Names on the Hub of the training data.
        summary: Sentence below the title. Default: a description of the model.
        sections: Further text by heading, such as "Training data".
    """
    auto = auto_class(architecture)
    version = "2.0" if config.masked_tokens == "dropped" else "1.0"
    metadata = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag=PIPELINE_TAGS.get(auto),
        tags=["data2vec", f"arxiv:{PAPERS[version]}"],
        base_model=base_model,
        datasets=datasets,
    )
    taken = " or ".join(MODALITIES[modality].content for modality in config.modalities)
    is_encoder = auto in ("AutoModel", "AutoBackbone", "AutoModelForPreTraining")
    parts = {
        "Use": use_of(config, auto, name),
        "Model": facts_table(
            {
                "class": Markdown(
                    f"`{architecture}`, of data2vec {version} ([arXiv](https://arxiv.org/abs/{PAPERS[version]}))"
                ),
                "input": taken,
                "shared blocks": f"{config.num_hidden_layers}, width {config.hidden_size}, "
                f"{config.num_attention_heads} heads, feed-forward width {config.intermediate_size}",
            }
        ),
        **(sections or {}),
        "Limits": (_ENCODER_LIMITS if is_encoder else "") + _LIMITS,
        "Licence": license_text(license),
    }
    task = "encoder" if is_encoder else f"model for {PIPELINE_TAGS.get(auto, 'a task of its own').replace('-', ' ')}"
    summary = summary or f"A data2vec {task}; it takes {taken}."
    body = "\n\n".join(f"## {heading}\n\n{text}" for heading, text in parts.items())
    return f"---\n{metadata.to_yaml()}\n---\n\n# {escape(name.rsplit('/', 1)[-1])}\n\n{summary}\n\n{body}\n"


def use_of(config: Data2VecConfig, auto: str, name: str) -> str:
    """Return the example of a card: how the model and its processor are loaded.

    Args:
        config: Configuration of the model.
        auto: Auto class that loads it.
        name: Name of the repository.
    """
    if auto != "AutoModelForArrayClassification":
        return _USE.format(auto=auto, name=python_string(name))
    arrays = config.arrays_config
    sides = ("length",) if arrays.num_dims == 1 else ("depth", "height", "width")[-arrays.num_dims :]
    shape = f"numbers of shape ({', '.join(sides)}, {arrays.num_channels}), the channels last"
    return ARRAYS_USE.format(name=python_string(name), shape=shape)


def auto_class(architecture: str) -> str:
    """Return the Auto class that loads an architecture, `AutoModel` for an unknown one."""
    return next((auto for auto, place in AUTO_MAP.items() if place.endswith(f".{architecture}")), "AutoModel")


def license_text(license: str | None, has_code: bool = True) -> str:
    """Return a card's sentence about the licence of the weights, and of the code beside them if there is some."""
    if license is None:
        return "The licence of the weights is not known: none was chosen, and no source of the weights states one."
    limit = ", which excludes commercial use" if license.startswith(NON_COMMERCIAL) else ""
    return f"The weights are under {license}{limit}{'; the code beside them is under Apache-2.0' * has_code}."


def read_license(source: str | PathLike | None, **hub: Any) -> str | None:
    """Return the licence that the card of a model names.

    Args:
        source: Folder, or name on the Hub.
        hub: `token`.

    Returns:
        The identifier in lower case, or `None` without a model, a card or a licence in it.
    """
    if not source:
        return None
    try:
        if Path(source).is_dir():
            card = ModelCard.load(Path(source) / CARD, ignore_metadata_errors=True)
        else:
            card = ModelCard.load(str(source), ignore_metadata_errors=True, **hub)
    except (EntryNotFoundError, HTTPError, OSError, ValueError):
        return None
    return license_in(str(card))


def license_in(card: str) -> str | None:
    """Return the licence that the text of a card names, in lower case."""
    license = ModelCard(card, ignore_metadata_errors=True).data.license
    return str(license).lower() if license else None


def choose_license(chosen: str | None, stated: str | None) -> str:
    """Return the licence to publish under.

    Args:
        chosen: The user's choice.
        stated: Licence in the card of the weights, or of the weights that they were made from.

    Raises:
        ValueError: Neither is given, or the chosen one allows commercial use and the stated one does not.
    """
    if chosen is None and stated is None:
        raise ValueError(
            f"The licence of these weights is unknown. Set `license`, such as 'apache-2.0' for weights that "
            f"you trained from scratch, or {NON_COMMERCIAL + '-4.0'!r} for those that come from the vision "
            "checkpoints of the reference implementation."
        )
    if chosen and stated and stated.startswith(NON_COMMERCIAL) and not chosen.lower().startswith(NON_COMMERCIAL):
        raise ValueError(
            f"These weights come from a source under {stated}, which excludes commercial use; {chosen!r} would allow "
            f"it. Leave `license` out to keep {stated}."
        )
    return (chosen or stated).lower()


def with_license(card: str, license: str) -> str:
    """Return the card with this licence in its metadata."""
    parsed = ModelCard(card, ignore_metadata_errors=True)
    parsed.data.license = license
    text = str(parsed)
    return text.replace(license_text(None), license_text(license))


def with_name(card: str, name: str) -> str:
    """Return the card with examples that load the model by this name."""
    literal = r"""(["'])(?:\\.|(?!\2)[^\\\n])*\2"""
    calls = (r"(from_pretrained\()", r"""(pipeline\(["'][\w-]+["'], )""")
    for call in calls:
        card = re.sub(call + literal, lambda found: found[1] + python_string(name), card)
    return card


def without_processor(card: str) -> str:
    """Return the card without the processor in its example, for a folder that has none."""
    return re.sub(
        r"(import \w+), AutoProcessor\n|processor = AutoProcessor\..*\n",
        lambda line: f"{line[1]}\n" if line[1] else "",
        card,
    )


def for_encoder(card: str) -> str:
    """Return the card of a pretraining model, for its encoder alone."""
    parsed = ModelCard(card, ignore_metadata_errors=True)
    parsed.data.pipeline_tag = parsed.data.pipeline_tag or PIPELINE_TAGS["AutoModel"]
    return (
        str(parsed).replace("AutoModelForPreTraining", "AutoModel").replace("Data2VecForPreTraining", "Data2VecModel")
    )
