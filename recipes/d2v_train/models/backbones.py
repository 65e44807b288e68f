"""Runs over an encoder of transformers (`backbone=...`): its inputs, configuration and model.

The encoder determines the modality and the input preparation: its tokenizer, colours and sizes of its image processor,
standardisation of its feature extractor. The program adds data, masks and training.
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
from modeling_d2v.sharing.places import PLAIN_FOLDER


logger = logging.getLogger(__name__)


def complete_options(options: Options) -> Options:
    """Complete the options with tokenizer, colours and standardisation of the encoder where they are unset.

    Raises:
        OptionError: The encoder cannot be read, or has another modality or sampling rate than the run.
    """
    if options.backbone is None:
        return options
    (name,) = options.modalities
    modality = encoder_modality(encoder_config(options.backbone), f"backbone={options.backbone}")
    if modality != name:
        raise OptionError(
            f"backbone={options.backbone} is an encoder of {modality}, but the run has a section for {name}. Replace "
            f"it by a section {modality}."
        )
    section = getattr(options, name)
    if DATA_KINDS[name].has_tokenizer:
        changed = {"tokenizer": section.tokenizer or options.backbone}
    else:
        changed = {"transform": input_settings(name, load_processor(options.backbone, name)) | section.transform}
    return dataclasses.replace(options, **{name: dataclasses.replace(section, **changed)})


def encoder_modality(config: Any, where: str) -> str:
    """Return the modality of an encoder of transformers.

    Args:
        config: Configuration of the encoder.
        where: Its source, for messages.

    Raises:
        OptionError: The encoder is one of this package, or its inputs cannot be masked.
    """
    if isinstance(config, BackbonePreTrainingConfig):
        raise OptionError(
            f"{where} holds a pretraining model. Use its plain encoder instead: the folder {PLAIN_FOLDER} of its run, "
            "which exists when the run is finished."
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
    """Return the configuration of the encoder.

    Raises:
        OptionError: There is no such folder or repository, or it does not hold a model of transformers.
    """
    try:
        return AutoConfig.from_pretrained(backbone)
    except (OSError, ValueError) as error:
        raise OptionError(
            f"backbone={backbone} cannot be read; give the folder of an encoder of transformers, or the name of one "
            f"on the Hub. ({' '.join(str(error).split())})"
        ) from error


def load_processor(source: str, modality: str) -> Any:
    """Load the tokenizer, image processor or feature extractor beside a model; None where there is none.

    Args:
        source: Folder or name on the Hub, of a tokenizer for text.
        modality: Modality of the inputs.
    """
    kind = DATA_KINDS[modality]
    try:
        return kind.auto_class.from_pretrained(source)
    except (OSError, ValueError, ImportError):
        if kind.has_tokenizer:  # without it there are no inputs at all
            raise
        logger.warning("%s has no processor for its inputs: defaults are used.", source)
        return None


def input_settings(modality: str, processor: Any) -> dict[str, Any]:
    """Return the transform options that match a processor; empty without one.

    Raises:
        ValueError: The processor expects another sampling rate than that of the data.
    """
    return {} if processor is None else DATA_KINDS[modality].transform.of_processor(processor)


def build_backbone_config(options: Options, tokenizer: Any = None) -> BackbonePreTrainingConfig:
    """Build the model configuration from that of the encoder and the `model` section; no weights are read.

    Args:
        options: Options of the run.
        tokenizer: Tokenizer of text. Default: the one in the options.
    """
    if tokenizer is None and options.text is not None:
        tokenizer = load_tokenizer(options.text.tokenizer or options.backbone)
    settings = {"mask_seed": options.seed, **options.model}
    return wrapped_config(encoder_config(options.backbone), tokenizer, **settings)


def wrapped_config(config: Any, tokenizer: Any = None, **settings: Any) -> BackbonePreTrainingConfig:
    """Return the pretraining configuration for an encoder configuration; arguments and errors are those of `of`.

    Raises:
        ValueError: The tokenizer has more tokens than the encoder.
    """
    with torch.device("meta"):
        encoder = AutoModel.from_config(copy.deepcopy(config))
    if tokenizer is not None:
        rows = encoder.get_input_embeddings().num_embeddings
        check_vocabulary(tokenizer, rows, "(text.tokenizer), or give it rows for more (resize_token_embeddings)")
    return BackbonePreTrainingConfig.of(encoder, tokenizer, **settings)


def build_backbone_model(options: Options, config: BackbonePreTrainingConfig) -> BackboneForPreTraining:
    """Build the model with the weights of the encoder, the teacher as its copy, and a new head."""
    return BackboneForPreTraining.from_backbone(options.backbone, config=config)
