"""Runs that take only the shared blocks from a checkpoint, of whatever modality, and runs that do not train them."""

from __future__ import annotations

import logging
import re
from typing import Any

import torch

from d2v_train.options.errors import OptionError
from modeling_d2v import Data2VecConfig, Data2VecForPreTraining, Data2VecModel
from modeling_d2v.modalities import MODALITIES
from modeling_d2v.sharing.places import model_place


logger = logging.getLogger(__name__)

BLOCK_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "layer_norm_eps",
    "norm_first",
    "mlp_residual",
    "norm_affine",
    "final_norm",
    "layer_scale_init_value",
    "qk_norm",
)
"""Fields of `Data2VecConfig` that determine what the shared blocks compute."""
OWN_PART = re.compile(rf"(^|\.)(norm1|norm2|norm|mlp)\.({'|'.join(MODALITIES)})\.")


def with_block_fields(fields: dict[str, Any], start: Data2VecConfig, init_from: str) -> dict[str, Any]:
    """Return fields of a configuration, completed by those of the blocks of a checkpoint.

    Args:
        fields: Fields of the `model` section.
        start: Configuration of the checkpoint.
        init_from: Its place, for the message.

    Raises:
        OptionError: The `model` section contradicts the checkpoint.
    """
    taken = {name: getattr(start, name) for name in BLOCK_FIELDS}
    other = [f"{name} is {fields[name]!r} instead of {value!r}" for name, value in taken.items()
             if fields.get(name, value) != value]  # fmt: skip
    if other:
        raise OptionError(
            f"The model section does not fit the blocks of init_from={init_from}: {', '.join(other)}. Take these "
            "fields from the checkpoint, or leave them out."
        )
    return fields | taken


@torch.no_grad()
def take_blocks(model: Data2VecForPreTraining, init_from: str) -> None:
    """Copy the shared blocks of a checkpoint into a model, and let its teacher start as its student.

    A norm or feed-forward part that belongs to one modality comes from the same modality of the checkpoint, or from
    what its modalities share; that of the only modality of the checkpoint serves all of them.

    Args:
        model: Model of the sizes of the blocks.
        init_from: Folder or Hub name of a pretraining or encoder checkpoint; of the former the student is taken.

    Raises:
        OptionError: Modalities of the checkpoint have parts of their own where the model has a shared one.
    """
    source = Data2VecModel.from_pretrained(model_place(init_from), dtype=torch.float32)
    weights, only = source.encoder.state_dict(), source.config.modalities[0]
    alone = {OWN_PART.sub(r"\1\2.", name) for name in weights} if len(source.config.modalities) == 1 else set()
    new = set()
    for name, parameter in model.data2vec.encoder.state_dict().items():
        shared = OWN_PART.sub(r"\1\2.", name)
        candidates = [name, shared]
        if shared in alone:
            candidates.append(_name_of(shared, only))
        found = next((candidate for candidate in candidates if candidate in weights), None)
        if found is not None:
            parameter.copy_(weights[found])
        elif name != shared:
            new.add(OWN_PART.search(name)[3])
        else:
            raise OptionError(
                f"In init_from={init_from} each modality has its own {name}, and the model shares it. Set model.norms "
                f"to {source.config.norms} and model.feed_forward to {source.config.feed_forward}."
            )
    if new:
        logger.warning("%s has no norms or feed-forward parts for %s: these are new.", init_from, ", ".join(new))
    model.reset_teacher()


def _name_of(shared: str, modality: str) -> str:
    """Return the name that a part has where each modality has its own."""
    return re.sub(r"(^|\.)(norm1|norm2|norm|mlp)\.", rf"\1\2.{modality}.", shared, count=1)


def freeze_blocks(model: Data2VecForPreTraining) -> None:
    """Freeze what the modalities share of the student's blocks; the teacher then has the same weights there."""
    for parameter in model.data2vec.encoder.shared_parameters().values():
        parameter.requires_grad_(False)
