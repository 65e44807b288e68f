"""Export of models of this package to models of transformers (data2vec-audio, -text, -vision).

They can then be used without this package. The configuration decides, and not the version: models of data2vec 1.0 can
be exported, and text models of 2.0, whose encoder is the same; speech and image models of 2.0 have parts (ALiBi, a
prenet, sine and cosine positions) that transformers lacks, and are refused.

The outputs are equal to 1e-5 in float32, with three differences in transformers:

- speech: padding reaches the convolutional positions, as in the reference and with `fairseq_compatible_padding=True`
  here; the outputs of a single recording are the same.
- text: padding must be on the right, and `attention_mask` must be passed.
- `pooler_output` of a plain encoder is missing (speech, images) or an untrained layer (text), instead of the mean of
  the tokens.

Example:
    >>> exported = to_transformers(Data2VecForCTC.from_pretrained("runs/ctc"))
    >>> exported.model.save_pretrained("for_transformers")
    >>> export_to_transformers("runs/ctc", "for_transformers")  # the same, with tokenizer and feature extractor
"""

import re
from functools import partial
from typing import NamedTuple

import torch
import transformers
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel

from modeling_d2v.conversion.hf.export_settings import export_settings
from modeling_d2v.conversion.hf.load import ENCODER, KINDS
from modeling_d2v.conversion.tensors import Conversion, Filler, Place, Unused, expected_shapes, third
from modeling_d2v.heads_text import Data2VecForQuestionAnswering
from modeling_d2v.heads_vision import Data2VecForSemanticSegmentation
from modeling_d2v.modalities import MODALITIES
from modeling_d2v.modeling_data2vec import Data2VecModel, Data2VecPreTrainedModel
from modeling_d2v.pretraining_data2vec import Data2VecForPreTraining


EXPORT_NOTES = {
    "audio": (
        "Padding reaches the samples in transformers, as in the reference implementation, but not here: outputs of "
        "padded batches differ (`fairseq_compatible_padding` gives those of transformers), those of a single "
        "recording are the same."
    ),
    "text": "Pad on the right and pass `attention_mask`: transformers reads the first token, and attends to padding "
    "without a mask.",
}
_SEGMENTATION = (
    "Segmentation in transformers takes only images of `image_size`, and has no dropout before its classifiers."
)
MASK_TOKEN_SUFFIX = ".mask_token"
_OWN_PARTS = "norm|norm1|norm2|mlp"  # of the shared blocks, which each modality may have of its own
_MASKS = "is used with masks, which this export does not have"
_KEY_BIAS = "adds the same number to all scores of a query, which changes nothing"
_DOUBLINGS = [2, 1, 0, -1]  # of the pyramid for segmentation: 4, 2, 1 and 1/2 times the grid of patches


class Exported(NamedTuple):
    """A model of transformers.

    Args:
        model: The model in evaluation mode, with our model's dtype.
        unused: Our tensors that it has no place for, each with the reason.
        notes: Settings that were left out, and differences in use.
    """

    model: PreTrainedModel
    unused: list[Unused]
    notes: list[str]


def to_transformers(
    model: Data2VecPreTrainedModel,
    *,
    modality: str | None = None,
    weights: str = "student",
    mask_token: bool = False,
) -> Exported:
    """Build the model of transformers that computes what ours computes.

    Args:
        model: An encoder, a task head, or a pretraining model, whose encoder is exported.
        modality: Modality to export, of an encoder with several front ends.
        weights: Weights of a pretraining model: "student" or "teacher".
        mask_token: Keep the mask token of an image encoder, which only `bool_masked_pos` uses. The released models
            of transformers have none.

    Raises:
        ValueError: Transformers has no such class, or cannot compute one of the settings; the message names all of
            them with the reason.
    """
    if isinstance(model, Data2VecForPreTraining):
        model = model.trained_encoder(weights)
    modality = _modality(model, modality)
    name = _counterpart(model, modality)
    config, notes = _config(model, modality, mask_token)
    model_class = getattr(transformers, name)
    # Our encoders have no pooler, and one with random weights would be misleading.
    options = {"add_pooling_layer": False} if name == "Data2VecTextModel" else {}
    expected = expected_shapes(partial(model_class, **options), config)
    tensors, unused = _conversion(model, modality, expected)
    exported = model_class.from_pretrained(None, config=config, state_dict=tensors, **options)
    exported.config.name_or_path = ""  # it was not loaded
    notes += [EXPORT_NOTES[modality]] if modality in EXPORT_NOTES else []
    return Exported(exported, unused, notes)


def _modality(model: Data2VecPreTrainedModel, modality: str | None) -> str:
    known = model.config.modalities
    if modality is None and len(known) == 1:
        return known[0]
    if modality not in known:
        raise ValueError(
            f"A model of transformers has one modality; this one has {', '.join(known)}, and `modality` is "
            f"{modality!r}. Name one of them."
        )
    return modality


def _counterpart(model: Data2VecPreTrainedModel, modality: str) -> str:
    """Return the name of the corresponding class of transformers."""
    names = {ours: theirs for theirs, ours in KINDS[f"data2vec-{modality}"].classes.items()}
    if type(model) not in names:
        raise ValueError(
            f"{type(model).__name__} has no counterpart among the {modality} models of transformers; "
            f"{', '.join(ours.__name__ for ours in names)} have one. For another head, export the encoder: "
            "`to_transformers(model.data2vec)`; merge adapters first (`merge_and_unload`)."
        )
    return names[type(model)]


def _encoder(model: Data2VecPreTrainedModel) -> Data2VecModel:
    return model if isinstance(model, Data2VecModel) else model.data2vec


def _config(model: Data2VecPreTrainedModel, modality: str, mask_token: bool) -> tuple[PreTrainedConfig, list[str]]:
    ours = model.config
    settings, notes = export_settings(ours, modality)
    if isinstance(model, Data2VecForQuestionAnswering) and ours.num_labels != 2:
        settings["num_labels"] = 2  # start and end
    else:
        settings |= {"id2label": dict(ours.id2label), "label2id": dict(ours.label2id)}
    if modality == "vision":
        settings["use_mask_token"] = mask_token and ours.masked_tokens == "replaced"
        # Theirs also has a final norm only where it does not pool the mean of the patches.
        settings["use_mean_pooling"] = isinstance(_encoder(model).encoder.norm, nn.Identity)
    if isinstance(model, Data2VecForSemanticSegmentation):
        settings["out_indices"] = _levels(model)
        notes.append(_SEGMENTATION)
    settings["problem_type"] = ours.problem_type
    return CONFIG_MAPPING[f"data2vec-{modality}"](**settings), notes


def _levels(model: Data2VecForSemanticSegmentation) -> list[int]:
    """Return the levels of the encoder as transformers counts them: our level i is number i + 1."""
    patch = model.config.vision_config.patch_size
    if model.pyramid.doublings != _DOUBLINGS:
        raise ValueError(
            f"Segmentation in transformers is made for patches of 12 to 22 pixels, and this model has patches of "
            f"{patch}: its pyramid enlarges the maps by other factors."
        )
    if sorted(set(model.taps)) != model.taps:
        raise ValueError(
            f"Segmentation in transformers reads four different levels in ascending order, and this model reads "
            f"{model.taps}."
        )
    return [level + 1 for level in model.taps]


def _conversion(model: Data2VecPreTrainedModel, modality: str, expected: dict[str, torch.Size]) -> Conversion:
    """Return the tensors of transformers made of ours, and our unused ones, by the tables of the import."""
    kind = KINDS[f"data2vec-{modality}"]
    plain, tied = isinstance(model, Data2VecModel), set(model.all_tied_weights_keys)
    ours = {_shared_name(name, modality): tensor for name, tensor in model.state_dict().items() if name not in tied}
    filler, used = Filler(expected, type(model).__name__), set()
    for name, shape in expected.items():
        place = kind.place(kind.prefix + name if plain else name)
        if isinstance(place, Unused):
            continue
        source = place.name.removeprefix(ENCODER) if plain else place.name
        if source in ours:
            used.add((source, place.part))
            filler.put(source, Place(name), _part(ours[source], place.part, shape))
        elif source.endswith(MASK_TOKEN_SUFFIX):
            # A model that drops masked tokens has zeros instead of a mask token.
            filler.put(source, Place(name), torch.zeros(shape, dtype=model.dtype))
    for name in ours:
        if not any(source == name for source, _ in used):
            filler.put(name, _left_over(name, modality), ours[name])
        elif (name, "q") in used and (name, "k") not in used:
            filler.put(name, Unused(f"{name}#k", _KEY_BIAS), ours[name])
    return filler.finish()


def _shared_name(name: str, modality: str) -> str:
    """Return the name that a norm or feed-forward part of the modality has where all modalities share it."""
    return re.sub(rf"\.({_OWN_PARTS})\.{modality}\.", r".\1.", name)


def _part(tensor: Tensor, part: str | None, shape: torch.Size) -> Tensor:
    """Return what one tensor becomes in transformers."""
    if part is None:
        return tensor
    if part == "+":  # the segment embedding, which ours includes in the positions
        return torch.zeros(shape, dtype=tensor.dtype)
    return tensor[int(part)] if part.isdigit() else third(tensor, part)


def _left_over(name: str, modality: str) -> Unused | Place:
    other = re.match(rf"modality_encoders\.(\w+)\.|encoder\..*?({_OWN_PARTS})\.({'|'.join(MODALITIES)})\.", name)
    owner = other and (other[1] or other[3])
    if owner and owner != modality:
        return Unused(name, f"belongs to {owner}, which is not exported")
    if name.endswith(MASK_TOKEN_SUFFIX):
        return Unused(name, _MASKS)
    return Place(name)  # an error that names it
