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

from modeling_d2v import BackboneForPreTraining, BackbonePreTrainingConfig, Data2VecConfig, Data2VecModel
from modeling_d2v.backbone_configuration import auto_classes
from modeling_d2v.modalities import modality_of_input
from modeling_d2v.model_card import CARD, PAPERS, choose_license, license_text
from modeling_d2v.modeling_data2vec import Data2VecModelOutput, masked_mean
from recipes.common.atomic import write_folder
from recipes.common.datasets import SAMPLING_RATE
from recipes.common.option_errors import OptionError
from recipes.common.option_files import read_yaml
from recipes.common.options import Options
from recipes.common.run_card import GENERATED, OPTIONS_FILE, inherited_license, is_hub_name, training_sections
from recipes.common.tokenizer import check_vocabulary, load_tokenizer


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
    modality = encoder_modality(encoder_config(options.backbone), f"backbone={options.backbone}")
    if modality != name:
        raise OptionError(
            f"backbone={options.backbone} is an encoder of {modality}, and the run has a section for {name}. Give the "
            f"section {modality} instead."
        )
    section = getattr(options, name)
    if name == "text":
        changed = {"tokenizer": section.tokenizer or options.backbone}
    else:
        changed = {"transform": input_settings(name, load_processor(options.backbone, name)) | section.transform}
    return dataclasses.replace(options, **{name: dataclasses.replace(section, **changed)})


def encoder_modality(config: Any, where: str) -> str:
    """Modality of an encoder of transformers.

    Args:
        config: of the encoder.
        where: it is from, for messages.

    Raises:
        OptionError: it is one of this package, or what it takes cannot be masked.
    """
    if isinstance(config, BackbonePreTrainingConfig):
        raise OptionError(
            f"{where} holds a whole pretraining model. Name its plain encoder: the folder {PLAIN_FOLDER} of its run, "
            "which is there when the run is finished."
        )
    if isinstance(config, Data2VecConfig):
        raise OptionError(f"{where} is a model of this package: start from it with init_from instead.")
    found = auto_classes(config)
    taken = found[0].main_input_name if found else "nothing"
    modality = modality_of_input(taken)
    if modality is None:
        raise OptionError(
            f"{where} takes `{taken}`. Text (`input_ids`), images (`pixel_values`) and waveforms (`input_values`) can "
            "be masked."
        )
    return modality


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


def load_processor(source: str, modality: str) -> Any:
    """Tokenizer, image processor or feature extractor beside a model, as it is; None where there is none.

    Args:
        source: folder or name on the Hub, of a tokenizer for text.
        modality: of what is to be prepared.
    """
    if modality == "text":
        return AutoTokenizer.from_pretrained(source)
    try:
        return {"vision": AutoImageProcessor, "audio": AutoFeatureExtractor}[modality].from_pretrained(source)
    except (OSError, ValueError, ImportError):
        logger.warning("There is nothing beside %s that prepares its inputs: defaults are used.", source)
        return None


def input_settings(modality: str, processor: Any) -> dict[str, Any]:
    """Options of the transform of images or speech that do what a processor does."""
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
    settings = {"mask_seed": options.seed, **options.model}
    return wrapped_config(encoder_config(options.backbone), tokenizer, **settings)


def wrapped_config(config: Any, tokenizer: Any = None, **settings: Any) -> BackbonePreTrainingConfig:
    """What is found out about an encoder from its configuration; arguments and errors are those of `of`.

    Raises:
        ValueError: the tokenizer has more tokens than the encoder, too.
    """
    with torch.device("meta"):
        encoder = AutoModel.from_config(copy.deepcopy(config))
    if tokenizer is not None:
        rows = encoder.get_input_embeddings().num_embeddings
        check_vocabulary(tokenizer, rows, "(text.tokenizer), or give it rows for more (resize_token_embeddings)")
    return BackbonePreTrainingConfig.of(encoder, tokenizer, **settings)


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

    def forward(
        self, attention_mask: Tensor | None = None, output_hidden_states: bool = False, **inputs: Tensor
    ) -> Data2VecModelOutput:
        """Hidden states (B, T, D) without prefix tokens, and the mean (B, D) of the last ones, of one input."""
        (values,) = inputs.values()
        length, real, _ = self.config.tokens_of(values, attention_mask)
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask
        output = self.encoder(**inputs, output_hidden_states=output_hidden_states)
        hidden = output.last_hidden_state[:, -length:]
        if real is None:
            real = hidden.new_ones(hidden.shape[:2], dtype=torch.bool)
        layers = [states[:, -length:] for states in output.hidden_states] if output_hidden_states else None
        return Data2VecModelOutput(hidden, masked_mean(hidden, real), layers, attention_mask=real)


def observed_encoder(model: nn.Module, weights: str = "student") -> nn.Module:
    """The encoder of a pretraining model of either kind, with a pooled output that means the same in both."""
    encoder = model.trained_encoder(weights)
    return PooledEncoder(model.config, encoder) if isinstance(model, BackboneForPreTraining) else encoder


def load_encoder(source: str, config: Data2VecConfig | BackbonePreTrainingConfig) -> nn.Module:
    """The same from a folder or the Hub: a model of this package, or a plain encoder of transformers.

    Args:
        source: of its weights.
        config: its own, or of what is around the plain encoder.
    """
    if isinstance(config, BackbonePreTrainingConfig):
        return PooledEncoder(config, AutoModel.from_pretrained(source, dtype=torch.float32))
    return Data2VecModel.from_pretrained(source, config=config)


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
        with write_folder(folder / name) as draft:
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
