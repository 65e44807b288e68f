"""Runs over an encoder of transformers (`backbone=...`): what it takes, its configuration and model, what comes out.

The encoder decides the modality and how its inputs are prepared: its tokenizer, the colours and sizes of its image
processor, whether its feature extractor standardises recordings. The program adds data, masks and training.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCardData
from torch import Tensor, nn
from transformers import AutoConfig, AutoFeatureExtractor, AutoImageProcessor, AutoModel, AutoTokenizer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from modeling_d2v import BackboneForPreTraining, BackbonePreTrainingConfig, Data2VecConfig, Data2VecModel
from modeling_d2v.backbone_configuration import INPUTS, auto_classes
from modeling_d2v.drafts import draft_of
from modeling_d2v.model_card import CARD, PAPERS, choose_license, license_text
from modeling_d2v.modeling_data2vec import masked_mean
from recipes.common.datasets import SAMPLING_RATE
from recipes.common.option_files import read_yaml
from recipes.common.options import OptionError, Options
from recipes.common.run_card import GENERATED, OPTIONS_FILE, inherited_license, is_hub_name, training_sections
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
    modality = _modality_of(options.backbone)
    if modality != name:
        raise OptionError(
            f"backbone={options.backbone} is an encoder of {modality}, and the run has a section for {name}. Give the "
            f"section {modality} instead."
        )
    section = getattr(options, name)
    if name == "text":
        changed = {"tokenizer": section.tokenizer or options.backbone}
    else:
        changed = {"transform": _input_settings(name, load_processor(options)) | section.transform}
    return dataclasses.replace(options, **{name: dataclasses.replace(section, **changed)})


def _modality_of(backbone: str) -> str:
    """Modality of an encoder.

    Raises:
        OptionError: it is one of this package, or what it takes cannot be masked.
    """
    config = encoder_config(backbone)
    if isinstance(config, BackbonePreTrainingConfig):
        raise OptionError(
            f"backbone={backbone} holds a whole pretraining model. Name its plain encoder, in the folder "
            f"{PLAIN_FOLDER} beside it."
        )
    if isinstance(config, Data2VecConfig):
        raise OptionError(f"backbone={backbone} is a model of this package: start from it with init_from instead.")
    found = auto_classes(config)
    taken = found[0].main_input_name if found else "nothing"
    if taken not in INPUTS:
        raise OptionError(
            f"backbone={backbone} takes `{taken}`. Text (`input_ids`), images (`pixel_values`) and waveforms "
            "(`input_values`) can be masked."
        )
    return INPUTS[taken]


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


class PooledEncoder(nn.Module):
    """A plain encoder that answers as those of this package do: its pooled output is the mean over real tokens.

    Its own pooler does not serve: the objective does not reach it.

    Args:
        config: of the pretraining model.
        encoder: the plain one.
    """

    def __init__(self, config: BackbonePreTrainingConfig, encoder: nn.Module):
        super().__init__()
        self.config, self.encoder = config, encoder

    def forward(self, attention_mask: Tensor | None = None, **inputs: Tensor) -> BaseModelOutputWithPooling:
        """Last hidden states (B, T, D) without prefix tokens, and their mean (B, D), of one input."""
        (values,) = inputs.values()
        length, real, _ = self.config.tokens_of(values, attention_mask)
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask
        hidden = self.encoder(**inputs).last_hidden_state[:, -length:]
        if real is None:
            real = hidden.new_ones(hidden.shape[:2])
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=masked_mean(hidden, real))


def observed_encoder(model: nn.Module, weights: str = "student") -> nn.Module:
    """The encoder of a pretraining model of either kind, with a pooled output that means the same in both."""
    encoder = model.trained_encoder(weights)
    return PooledEncoder(model.config, encoder) if isinstance(model, BackboneForPreTraining) else encoder


def random_encoder(config: Data2VecConfig | BackbonePreTrainingConfig) -> nn.Module:
    """The same with random weights."""
    if isinstance(config, BackbonePreTrainingConfig):
        return PooledEncoder(config, config.make_encoder())
    return Data2VecModel(config)


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


def backbone_card(
    run: Path,
    config: BackbonePreTrainingConfig,
    name: str,
    *,
    weights: str = "student",
    license: str | None = None,
    probes: Sequence[Path] = (),
    pictures: Sequence[Path] = (),
) -> str:
    """Text of the card of the plain encoder; arguments and errors are those of `run_card`."""
    backbone = read_yaml(run / OPTIONS_FILE)["backbone"]
    inherited = inherited_license(backbone)
    license = choose_license(license, inherited) if license or inherited else None
    sections, published = training_sections(run, config.modalities, weights, probes, pictures)
    metadata = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag="feature-extraction",
        tags=["data2vec", f"arxiv:{PAPERS['1.0']}"],
        base_model=backbone if is_hub_name(backbone) else None,
        datasets=published or None,
    )
    shown = f"`{backbone}`" if is_hub_name(backbone) else f"`{Path(backbone).name}`"
    licence = license_text(license, has_code=False)
    parts = {"Use": _USE.format(name=name), **sections, "Licence": licence}
    body = "\n\n".join(f"## {heading}\n\n{text}" for heading, text in parts.items())
    summary = (
        f"{shown} ({config.encoder_class}), pretrained further with the objective of data2vec 1.0: an encoder without "
        "a head."
    )
    title = name.rsplit("/", 1)[-1]
    return f"---\n{metadata.to_yaml()}\n---\n\n# {title}\n\n{summary}\n\n{body}\n\n{GENERATED}\n"
