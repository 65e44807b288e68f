"""Runs over an encoder of transformers (`backbone=...`): what it takes, its configuration and model, what comes out.

The encoder decides the modality and how its inputs are prepared: its tokenizer, the colours and sizes of its image
processor, whether its feature extractor standardises recordings. The program adds data, masks and training.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from typing import Any

import torch
from transformers import AutoConfig, AutoModel

from d2v_train.inputs.modalities import DATA_KINDS
from d2v_train.inputs.tokenizer import check_vocabulary, load_tokenizer
from d2v_train.options.errors import OptionError
from d2v_train.options.run import Options
from modeling_d2v import BackboneForPreTraining, BackbonePreTrainingConfig, Data2VecConfig
from modeling_d2v.backbone_configuration import auto_classes
from modeling_d2v.modalities import modality_of_input


logger = logging.getLogger(__name__)

PLAIN_FOLDER = "final_backbone"


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
    if DATA_KINDS[name].has_tokenizer:
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
    kind = DATA_KINDS[modality]
    try:
        return kind.auto_class.from_pretrained(source)
    except (OSError, ValueError, ImportError):
        if kind.has_tokenizer:  # without it there are no inputs at all
            raise
        logger.warning("There is nothing beside %s that prepares its inputs: defaults are used.", source)
        return None


def input_settings(modality: str, processor: Any) -> dict[str, Any]:
    """Options of the transform that do what a processor does; none where there is no processor.

    Raises:
        ValueError: it takes recordings of another sampling rate than the data is read at.
    """
    return {} if processor is None else DATA_KINDS[modality].transform.of_processor(processor)


def build_backbone_config(options: Options, tokenizer: Any = None) -> BackbonePreTrainingConfig:
    """Configuration of the model, from that of the encoder and the `model` section; no weights are read.

    Args:
        options: the run's options.
        tokenizer: for text; default: the one that the options name.
    """
    if tokenizer is None and options.text is not None:
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
