"""Runs over an encoder of transformers (`backbone=...`): what it takes, its configuration and model, what comes out.

The encoder decides the modality and how its inputs are prepared: its tokenizer, the colours and sizes of its image
processor, whether its feature extractor standardises recordings. The program adds data, masks and training.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCardData
from huggingface_hub.errors import HTTPError
from transformers import AutoConfig, AutoFeatureExtractor, AutoImageProcessor, AutoModel, AutoTokenizer

from modeling_d2v import BackboneForPreTraining, BackbonePreTrainingConfig
from modeling_d2v.backbone_configuration import INPUTS
from modeling_d2v.drafts import draft_of
from modeling_d2v.model_card import CARD, PAPERS, choose_license, license_text
from modeling_d2v.publishing import PublishingError, explain
from modeling_d2v.pushing import upload
from recipes.common.datasets import SAMPLING_RATE
from recipes.common.options import OptionError, Options
from recipes.common.run_card import GENERATED, inherited_license, is_hub_name, training_sections
from recipes.common.tokenizer import load_tokenizer


logger = logging.getLogger(__name__)

PLAIN_FOLDER = "final_backbone"
_USE = """\
```python
from transformers import AutoModel

model = AutoModel.from_pretrained("{name}")
```"""


def complete_options(options: Options) -> Options:
    """The options with what the encoder brings for what they do not say: tokenizer, colours, standardisation.

    Raises:
        OptionError: the encoder cannot be read, takes another modality than the run has, or another sampling rate.
    """
    if options.backbone is None:
        return options
    (name,) = options.modalities
    modality = INPUTS.get(_input_of(options.backbone))
    if modality != name:
        raise OptionError(
            f"backbone={options.backbone} is an encoder of {modality or 'inputs that cannot be masked here'}, and the "
            f"run has a section for {name}. Give the section {modality} instead."
            if modality
            else f"backbone={options.backbone} takes `{_input_of(options.backbone)}`. Text (`input_ids`), images "
            "(`pixel_values`) and waveforms (`input_values`) can be masked."
        )
    section = getattr(options, name)
    if name == "text":
        changed = {"tokenizer": section.tokenizer or options.backbone}
    else:
        changed = {"transform": _input_settings(name, load_processor(options)) | section.transform}
    return dataclasses.replace(options, **{name: dataclasses.replace(section, **changed)})


def _input_of(backbone: str) -> str:
    """Name of the input of an encoder."""
    config = encoder_config(backbone)
    found = AutoModel._model_mapping.get(type(config), None)
    found = found[0] if isinstance(found, tuple | list) else found
    return "nothing" if found is None else found.main_input_name


def encoder_config(backbone: str) -> Any:
    """Configuration of the encoder.

    Raises:
        OptionError: there is no such folder or repository, or it holds no model of transformers.
    """
    try:
        return AutoConfig.from_pretrained(backbone)
    except (OSError, ValueError) as error:
        raise OptionError(
            f"backbone={backbone} cannot be read; give the folder of an encoder of transformers, or the name of one "
            f"on the Hub. ({' '.join(str(error).split())})"
        ) from error


def load_processor(options: Options) -> Any:
    """Tokenizer, image processor or feature extractor beside the encoder, as it is; None where there is none."""
    (name,) = options.modalities
    if name == "text":
        return AutoTokenizer.from_pretrained(options.text.tokenizer)
    try:
        return {"vision": AutoImageProcessor, "audio": AutoFeatureExtractor}[name].from_pretrained(options.backbone)
    except (OSError, ValueError):
        logger.warning("There is nothing beside %s that prepares its inputs: defaults are used.", options.backbone)
        return None


def _input_settings(modality: str, processor: Any) -> dict[str, Any]:
    """Options of the transform that do what a processor does."""
    if processor is None:
        return {}
    if modality == "vision":
        if not getattr(processor, "do_normalize", True):
            return {"mean": 0.0, "std": 1.0}
        return {"mean": list(processor.image_mean), "std": list(processor.image_std)}
    if processor.sampling_rate != SAMPLING_RATE:
        raise OptionError(
            f"The encoder takes recordings of {processor.sampling_rate} Hz; the data is read at {SAMPLING_RATE} Hz."
        )
    return {"standardised": bool(processor.do_normalize)}


def build_backbone_config(options: Options, tokenizer: Any = None) -> BackbonePreTrainingConfig:
    """Configuration of the model, from that of the encoder and the `model` section; no weights are read.

    Args:
        options: the run's options.
        tokenizer: for text; default: the one that the options name.
    """
    if tokenizer is None and "text" in options.modalities:
        tokenizer = load_tokenizer(options.text.tokenizer or options.backbone)
    config = encoder_config(options.backbone)
    with torch.device("meta"):
        encoder = AutoModel.from_config(copy.deepcopy(config))
    return BackbonePreTrainingConfig.of(encoder, tokenizer, **{"mask_seed": options.seed, **options.model})


def build_backbone_model(options: Options, config: BackbonePreTrainingConfig) -> BackboneForPreTraining:
    """Model with the weights of the encoder, the teacher as its copy, and a new head."""
    return BackboneForPreTraining.from_backbone(options.backbone, config=config)


def export_backbone(model: BackboneForPreTraining, folder: Path, processor: Any, card: str | None = None) -> Path:
    """Writes the whole model to `final`, for further pretraining, and the plain encoder beside it.

    Args:
        model: the trained one.
        folder: of the run.
        processor: tokenizer, image processor or feature extractor, for both; None for none.
        card: text of README.md of the plain encoder.

    Returns:
        The folder of the plain encoder, which `AutoModel` loads without this package.
    """
    for name, saved in (("final", model), (PLAIN_FOLDER, model.trained_encoder())):
        with draft_of(folder / name) as draft:
            saved.save_pretrained(draft)
            if processor is not None:
                processor.save_pretrained(draft)
            if card is not None and name == PLAIN_FOLDER:
                (draft / CARD).write_text(card, encoding="utf-8")
    return folder / PLAIN_FOLDER


def backbone_card(run: Path, config: BackbonePreTrainingConfig, backbone: str, name: str) -> str:
    """Text of the card of the plain encoder.

    Args:
        run: folder of the run.
        config: of its model.
        backbone: the encoder that the run started from.
        name: of the repository, for the example.
    """
    license = inherited_license(backbone)
    sections, published = training_sections(run, config.modalities)
    metadata = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag="feature-extraction",
        tags=["data2vec", f"arxiv:{PAPERS['1.0']}"],
        base_model=backbone if is_hub_name(backbone) else None,
        datasets=published or None,
    )
    shown = f"`{backbone}`" if is_hub_name(backbone) else f"`{Path(backbone).name}`"
    parts = {"Use": _USE.format(name=name), **sections, "Licence": license_text(license)}
    body = "\n\n".join(f"## {heading}\n\n{text}" for heading, text in parts.items())
    summary = (
        f"{shown} ({config.encoder_class}), pretrained further with the objective of data2vec 1.0: an encoder without "
        "a head."
    )
    title = name.rsplit("/", 1)[-1]
    return f"---\n{metadata.to_yaml()}\n---\n\n# {title}\n\n{summary}\n\n{body}\n\n{GENERATED}\n"


def push_backbone(folder: Path, repository: str, backbone: str) -> str:
    """Uploads the plain encoder.

    Returns:
        The address of the commit.

    Raises:
        PublishingError: the upload failed.
        ValueError: the licence of the encoder that the run started from is not known.
    """
    choose_license(None, inherited_license(backbone))
    try:
        return upload(folder, repository, commit_message="Upload encoder pretrained further with data2vec").commit_url
    except (HTTPError, OSError, RuntimeError) as error:
        raise PublishingError(explain(error, repository)) from error
