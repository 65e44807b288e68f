"""Conversion of checkpoints of the reference (fairseq, BEiT) to the state dict of `Data2VecForPreTraining`.

Names are translated by tables of (regular expression, replacement), applied in order. What the tables cannot express
(three tensors that become one, another shape) follows from `Place.part` and from the shapes. Every source tensor is
used or listed with a reason, every target tensor is filled exactly once, and every shape is compared.

Kinds: "fairseq-v2" (data2vec 2.0, all modalities), "fairseq-v1-audio", "fairseq-v1-text", "fairseq-v1-vision" (1.0),
and "beit-v1-vision", the layout in which the image models of 1.0 were released.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modeling_d2v.configuration_data2vec import Data2VecConfig
from modeling_d2v.conversion.fairseq.settings import Settings
from modeling_d2v.conversion.fairseq.settings_beit import convert_beit
from modeling_d2v.conversion.fairseq.settings_v1 import convert_v1_audio, convert_v1_text, convert_v1_vision
from modeling_d2v.conversion.fairseq.settings_v2 import convert_v2
from modeling_d2v.conversion.tensors import STUDENT, TEACHER, Conversion, Filler, Place, Unused, expected_shapes, walk
from modeling_d2v.pretraining_data2vec import Data2VecForPreTraining


Rules = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]

# Blocks of 2.0 have timm's names, blocks of 1.0 fairseq's (audio, text) or BEiT's (vision).
_TIMM_BLOCK: Rules = ((r"\.attn\.qkv\.", r".attention.qkv."), (r"\.attn\.proj\.", r".attention.projection."))
_FAIRSEQ_BLOCK: Rules = (
    (r"\.self_attn\.([qkv])_proj\.(weight|bias)$", r".attention.qkv.\2#\1"),
    (r"\.self_attn\.out_proj\.", r".attention.projection."),
    (r"\.self_attn_layer_norm\.", r".norm1."),
    (r"\.final_layer_norm\.", r".norm2."),
    (r"\.(fc[12])\.", r".mlp.\1."),
)
_BEIT_BLOCK: Rules = (
    (r"\.attn\.([qv])_bias$", r".attention.qkv.bias#\1"),
    *_TIMM_BLOCK,
    (r"\.gamma_([12])$", r".layer_scale\1"),
    (r"\.mlp\.0\.", r".mlp.fc1."),
    (r"\.mlp\.2\.", r".mlp.fc2."),
)


@dataclass(frozen=True)
class Layout:
    """Names of the settings and tensors in one kind of checkpoint.

    Args:
        settings: Translates `cfg["model"]` into fields of a `Data2VecConfig`; see `config_from_fairseq`.
        mark: A regular expression for a name that no other kind has.
        rules: Translate its names of the student into ours. "#q" at the end of a name stands for the query's third of
            a tensor that holds query, key and value.
        model_name: `_name` in the settings of such a model, if they have one.
        teacher_prefix: Prefix that turns names of the teacher into those of the student: in 1.0 it is the encoder
            alone, unless it has a front end of its own.
        numbered_teacher: Whether a teacher that is only the list of blocks names them "0", "1", ...
        unused_by_teacher: Matches our names of averaged but unused tensors: the teacher sees and predicts everything.
        dropped: (regular expression, reason) of tensors that have no counterpart.
        without_key_bias: Whether keys have no bias in the attention.
    """

    settings: Callable[[Settings, int | None, Mapping[str, Any]], dict[str, Any]]
    mark: str
    rules: Rules
    model_name: str | None = None
    teacher_prefix: str = ""
    numbered_teacher: bool = False
    unused_by_teacher: str | None = None
    dropped: Rules = ()
    without_key_bias: bool = False


def _position_layer(found: re.Match[str]) -> str:
    """Return our name of a convolution of the position encoder, which the reference numbers from 1."""
    return f".position_encoder.convs.{int(found[1]) - 1}."


_INDEX = (r"\.relative_position_index$", "follows from the size of the window, recomputed")

LAYOUTS: dict[str, Layout] = {
    "fairseq-v2": Layout(
        convert_v2,
        mark=r"^modality_encoders\.(AUDIO|IMAGE|TEXT)\.",
        model_name="data2vec_multi",
        numbered_teacher=True,
        dropped=(
            (
                r"\.fixed_positional_encoder\.positions$|\.embed_positions\.(_float_tensor|weights)$",
                "fixed sine and cosine table, recomputed",
            ),
        ),
        rules=(
            (r"^modality_encoders\.AUDIO\.", r"modality_encoders.audio."),
            (r"^modality_encoders\.IMAGE\.", r"modality_encoders.vision."),
            (r"^modality_encoders\.TEXT\.", r"modality_encoders.text."),
            (r"^modality_encoders\.(\w+)\.decoder\.blocks\.(\d+)\.0\.", r"decoders.\1.convs.\2."),
            (r"^modality_encoders\.(\w+)\.decoder\.proj\.(weight|bias)$", r"decoders.\1.projection.0.\2"),
            (r"^modality_encoders\.(\w+)\.decoder\.proj\.(\d+)\.", r"decoders.\1.projection.\2."),
            (r"^modality_encoders\.(\w+)\.decoder\.input_proj\.", r"decoders.\1.input_projection."),
            (r"\.decoder\.blocks\.(\d+)\.mlp\.", r".decoder.blocks.\1."),
            (r"\.attn\.q_proj\.", r".attention.query."),
            (r"\.attn\.kv_proj\.", r".attention.key_value."),
            (r"^modality_encoders\.(\w+)\.decoder\.(?:encoder\.)?", r"decoders.\1."),
            (r"^shared_decoder\.blocks\.(\d+)\.0\.", r"decoders.shared.convs.\1."),
            (r"^shared_decoder\.proj\.(weight|bias)$", r"decoders.shared.projection.0.\1"),
            (r"^shared_decoder\.proj\.(\d+)\.", r"decoders.shared.projection.\1."),
            (r"^recon_proj\.", r"decoders.vision.reconstruction."),
            (r"^blocks\.", r"encoder.blocks."),
            (r"^norm\.", r"encoder.norm."),
            (r"\.context_encoder\.blocks\.", r".prenet."),
            (r"\.context_encoder\.norm\.", r".context_norm."),
            (r"\.alibi_scale$", r".attention_bias.scale"),
            (r"\.local_encoder\.conv_layers\.(\d+)\.0\.", r".local_encoder.conv_layers.\1.conv."),
            (r"\.local_encoder\.conv_layers\.(\d+)\.2\.1\.", r".local_encoder.conv_layers.\1.layer_norm."),
            (r"\.project_features\.1\.", r".local_encoder.layer_norm."),
            (r"\.project_features\.2\.", r".local_encoder.projection."),
            (r"\.local_encoder\.(?:0\.)?proj\.", r".local_encoder.projection."),
            (r"\.local_encoder\.1\.", r".local_encoder.expand."),
            (r"\.local_encoder\.embed_tokens\.", r".local_encoder.token_embeddings."),
            (r"\.local_encoder\.embed_positions\.", r".local_encoder.position_embeddings."),
            (r"\.local_encoder\.layernorm_embedding\.", r".local_encoder.layer_norm."),
            (
                r"\.local_encoder\.conv_layers\.(\d+)\.2\.(weight|bias)$",
                r".local_encoder.conv_layers.\1.group_norm.\2",
            ),
            (r"\.relative_positional_encoder\.0\.(weight|bias)$", r".position_encoder.norm.\1"),
            (r"\.relative_positional_encoder\.(?:1\.)?(\d+)\.0\.", _position_layer),
            *_TIMM_BLOCK,
        ),
    ),
    "fairseq-v1-audio": Layout(
        convert_v1_audio,
        mark=r"^encoder\.pos_conv\.\d+\.0\.",
        model_name="data2vec_audio",
        teacher_prefix="encoder.",
        unused_by_teacher=r"^decoders\.|\.mask_token$",
        rules=(
            (r"^mask_emb$", r"modality_encoders.audio.mask_token"),
            (
                r"^feature_extractor\.conv_layers\.(\d+)\.0\.",
                r"modality_encoders.audio.local_encoder.conv_layers.\1.conv.",
            ),
            (
                r"^feature_extractor\.conv_layers\.(\d+)\.2\.1\.",
                r"modality_encoders.audio.local_encoder.conv_layers.\1.layer_norm.",
            ),
            (
                r"^feature_extractor\.conv_layers\.(\d+)\.2\.(weight|bias)$",
                r"modality_encoders.audio.local_encoder.conv_layers.\1.group_norm.\2",
            ),
            (r"^layer_norm\.", r"modality_encoders.audio.local_encoder.layer_norm."),
            (r"^post_extract_proj\.", r"modality_encoders.audio.local_encoder.projection."),
            (r"^encoder\.pos_conv\.(\d+)\.0\.", r"modality_encoders.audio.position_encoder.convs.\1."),
            (r"^encoder\.layer_norm\.", r"modality_encoders.audio.context_norm."),
            (r"^encoder\.layers\.", r"encoder.blocks."),
            (r"^final_proj\.", r"decoders.audio.projection.0."),
            *_FAIRSEQ_BLOCK,
        ),
    ),
    "fairseq-v1-text": Layout(
        convert_v1_text,
        mark=r"^(encoder|decoder)\.sentence_encoder\.",
        model_name="data2vec_text",
        teacher_prefix="encoder.sentence_encoder.",
        dropped=(
            (r"\.version$", "marker of the format, holds no weights"),
            (r"\.embed_positions\.(_float_tensor|weights)$", "fixed sine and cosine table, recomputed"),
        ),
        rules=(
            (r"^(?:encoder|decoder)\.sentence_encoder\.", r"sentence_encoder."),
            (r"^(?:encoder|decoder)\.(?:regression_head|lm_head)\.(\d+)\.", r"decoders.text.projection.\1."),
            (r"^sentence_encoder\.embed_tokens\.", r"modality_encoders.text.local_encoder.token_embeddings."),
            (r"^sentence_encoder\.embed_positions\.", r"modality_encoders.text.local_encoder.position_embeddings."),
            (
                r"^sentence_encoder\.(?:layernorm_embedding|emb_layer_norm)\.",
                r"modality_encoders.text.local_encoder.layer_norm.",
            ),
            (r"^sentence_encoder\.layers\.", r"encoder.blocks."),
            (r"^sentence_encoder\.layer_norm\.", r"encoder.norm."),
            *_FAIRSEQ_BLOCK,
        ),
    ),
    "fairseq-v1-vision": Layout(
        convert_v1_vision,
        mark=r"^encoder\.blocks\.\d+\.gamma_1$|^patch_embed\.conv\.",
        model_name="data2vec_vision",
        teacher_prefix="encoder.",
        unused_by_teacher=r"\.mask_token$",
        dropped=(_INDEX, (r"^final_proj\.", "created but never applied by the reference")),
        without_key_bias=True,
        rules=(
            (r"^cls_emb$", r"modality_encoders.vision.extra_tokens"),
            (r"^mask_emb$", r"modality_encoders.vision.mask_token"),
            (r"^patch_embed\.conv\.", r"modality_encoders.vision.local_encoder.projection."),
            (
                r"^encoder\.rel_pos_bias\.relative_position_bias_table$",
                r"modality_encoders.vision.attention_bias.table",
            ),
            *_BEIT_BLOCK,
        ),
    ),
    "beit-v1-vision": Layout(
        convert_beit,
        mark=r"^blocks\.\d+\.attn\.q_bias$",
        unused_by_teacher=r"^decoders\.|\.mask_token$",
        dropped=(_INDEX,),
        without_key_bias=True,
        rules=(
            (r"^cls_token$", r"modality_encoders.vision.extra_tokens"),
            (r"^mask_token$", r"modality_encoders.vision.mask_token"),
            (r"^patch_embed\.proj\.", r"modality_encoders.vision.local_encoder.projection."),
            (r"^rel_pos_bias\.relative_position_bias_table$", r"modality_encoders.vision.attention_bias.table"),
            (r"^blocks\.", r"encoder.blocks."),
            (r"^norm\.", r"encoder.norm."),
            (r"^lm_head\.", r"decoders.vision.projection.0."),
            *_BEIT_BLOCK,
        ),
    ),
}
FAIRSEQ_KINDS = tuple(LAYOUTS)
_EMA_KEY = re.compile(r"^(encoder\.)?_ema$")


def detect_kind(names: Iterable[str], config: Mapping[str, Any] | None = None) -> str:
    """Detect from which model of the reference a state dict comes.

    Args:
        names: State dict or its names.
        config: `cfg["model"]` of the checkpoint, whose `_name` decides where the names do not.

    Returns:
        One of `FAIRSEQ_KINDS`.

    Raises:
        ValueError: The names belong to none of them.
    """
    names = list(names)
    found = [kind for kind, layout in LAYOUTS.items() if any(re.search(layout.mark, name) for name in names)]
    if len(found) == 1:
        return found[0]
    given = (config or {}).get("_name")
    kind = next((kind for kind, layout in LAYOUTS.items() if given and layout.model_name == given), None)
    if kind is None:
        raise ValueError(
            f"This is not a data2vec checkpoint of fairseq: none of its {len(names)} tensors (first: "
            f"{sorted(names)[:3]}) has a name that marks one of {', '.join(FAIRSEQ_KINDS)}."
        )
    return kind


def config_from_fairseq(
    model_config: Mapping[str, Any],
    kind: str,
    *,
    task_config: Mapping[str, Any] | None = None,
    vocab_size: int | None = None,
    notes: list[str] | None = None,
    state: Mapping[str, Any] | None = None,
    encoder_only: bool = False,
) -> Data2VecConfig:
    """Translate the model settings of a reference checkpoint.

    Args:
        model_config: `cfg["model"]` of the checkpoint.
        kind: One of `FAIRSEQ_KINDS`, see `detect_kind`.
        task_config: `cfg["task"]` of the checkpoint, which holds the mask of text 1.0. Default: the defaults of that
            task (15 % of the tokens are masked; a tenth of these becomes a random token, a tenth is kept).
        vocab_size: Rows of the token embedding, required for text: the reference stores it in the dictionary file.
        notes: A list that receives one line for each setting left out, with the reason.
        state: The state dict, whose shapes are believed where the settings say otherwise. Only names and shapes are
            read.
        encoder_only: Accept settings of pretraining that have no counterpart here, for an encoder alone.

    Returns:
        The configuration of a `Data2VecForPreTraining` that computes what the reference model computes.

    Raises:
        ValueError: A setting is unknown or not supported, or `vocab_size` is missing.
    """
    layout = layout_of(kind)
    shapes = shapes_of(state or {})
    settings = Settings(model_config, "model", notes if notes is not None else [], shapes, encoder_only)
    fields = layout.settings(settings, vocab_size, task_config or {})
    settings.finish()
    return Data2VecConfig(**fields)


def translate(name: str, kind: str, teacher: bool = False, config: Data2VecConfig | None = None) -> Place | Unused:
    """Return where one tensor of the reference goes.

    Args:
        name: Name in the state dict of the reference; for the teacher, name in its `_ema` dictionary.
        kind: One of `FAIRSEQ_KINDS`.
        teacher: Whether the name is one of the teacher's.
        config: Configuration of the converted model, which decides what some names mean. Default: a post-norm model
            whose teacher has no front end.

    Returns:
        Its place in the state dict of `Data2VecForPreTraining`, or the reason why it is unused.
    """
    layout, full = layout_of(kind), name
    if teacher:
        full = _teacher_prefix(layout, name, kind, config) + name
    for pattern, reason in layout.dropped:
        if re.search(pattern, full):
            return Unused(f"_ema.{name}" if teacher else name, reason)
    for pattern, replacement in layout.rules:
        full = re.sub(pattern, replacement, full)
    if config is not None and config.norm_first and kind == "fairseq-v1-audio":
        # One name for the norm before the blocks, and for that after them.
        full = re.sub(r"^modality_encoders\.audio\.context_norm\.", "encoder.norm.", full)
    full, _, part = full.partition("#")
    if teacher and layout.unused_by_teacher and re.search(layout.unused_by_teacher, full):
        return Unused(f"_ema.{name}", "an average of what the teacher does not use: it sees and predicts everything")
    prefix = TEACHER if teacher else "" if full.startswith("decoders.") else STUDENT
    return Place(prefix + full, part or None)


def _teacher_prefix(layout: Layout, name: str, kind: str, config: Data2VecConfig | None) -> str:
    if layout.numbered_teacher and name[:1].isdigit():
        return "blocks."
    whole = kind in ("fairseq-v1-audio", "fairseq-v1-vision") and config is not None
    whole = whole and config.modality_config(config.modalities[0]).ema_scope == "all"
    return "" if whole else layout.teacher_prefix


def convert_state_dict(
    state: Mapping[str, Any],
    kind: str,
    config: Data2VecConfig,
    *,
    step: int = 0,
    optional: tuple[str, ...] = (),
    encoder_only: bool = False,
) -> Conversion:
    """Rename and reshape the tensors of a reference checkpoint.

    Args:
        state: `model` of the checkpoint: tensors by name, the teacher as a nested dictionary `_ema` (or
            `encoder._ema`).
        kind: One of `FAIRSEQ_KINDS`, see `detect_kind`.
        config: Configuration of the converted model, see `config_from_fairseq`.
        step: Optimizer updates that the checkpoint has seen, for the decay of the teacher.
        optional: Prefixes of targets that may be missing as a whole, such as ("teacher.", "decoders.") for a
            checkpoint without them.
        encoder_only: Leave out the tensors of decoders.

    Returns:
        The tensors of `Data2VecForPreTraining(config)`, and the unused ones of the source.

    Raises:
        ValueError: A source tensor is unknown, two fill the same place, a target is not filled, or shapes differ. The
            message names all of these tensors.
    """
    layout = layout_of(kind)
    expected = expected_shapes(Data2VecForPreTraining, config)
    filler = Filler(expected, kind, without_key_bias=layout.without_key_bias)
    has_teacher = False
    for name, tensor, teacher in walk_state(state):
        has_teacher = has_teacher or teacher
        label = f"_ema.{name}" if teacher else name
        place = check_fixed_scale(translate(name, kind, teacher, config), label, tensor, config)
        if encoder_only and isinstance(place, Place) and place.name.startswith("decoders."):
            place = Unused(place.name, "only the encoder was requested")
        filler.put(label, place, tensor)
    filler.put("step", Place("ema_step"), torch.tensor(step, dtype=torch.int64))
    for name in expected:
        # A teacher that is the list of blocks has no final norm: targets are taken before it.
        if has_teacher and (name.startswith(f"{TEACHER}encoder.norm.") or _is_copied(name, config)):
            filler.copy(name, STUDENT + name.removeprefix(TEACHER))
    return filler.finish(optional)


def layout_of(kind: str) -> Layout:
    """Return the layout of a kind of checkpoint.

    Raises:
        ValueError: There is no such kind; the message lists the known ones.
    """
    if kind not in LAYOUTS:
        raise ValueError(f"Unknown kind of checkpoint {kind!r}. Known kinds: {', '.join(FAIRSEQ_KINDS)}.")
    return LAYOUTS[kind]


def walk_state(state: Mapping[str, Any]) -> Iterable[tuple[str, Tensor, bool]]:
    """Yield (name, tensor, whether it belongs to the teacher) of a state dict with a nested teacher."""
    teachers = [name for name in state if _EMA_KEY.match(name)]
    for name in teachers:
        yield from ((inner, tensor, True) for inner, tensor in walk(state[name]))
    student = {name: value for name, value in state.items() if name not in teachers}
    yield from ((name, tensor, False) for name, tensor in walk(student))


def shapes_of(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a state dict by name, those of the teacher after "_ema."."""
    return {f"_ema.{name}" if teacher else name: tuple(tensor.shape) for name, tensor, teacher in walk_state(state)}


def check_fixed_scale(place: Place | Unused, label: str, tensor: Tensor, config: Data2VecConfig) -> Place | Unused:
    """Check ALiBi scales that are not learned: parameters in the reference, settings here."""
    found = re.search(r"modality_encoders\.(\w+)\.attention_bias\.scale$", getattr(place, "name", ""))
    settings = getattr(config, f"{found[1]}_config", None) if found and isinstance(place, Place) else None
    if settings is None or settings.alibi != "fixed":
        return place
    # As the file stores it: half precision rounds it.
    stored = torch.tensor(settings.alibi_scale).to(tensor.dtype)
    if not bool((tensor.clamp(min=0) == stored).all()):
        return place
    return Unused(label, "fixed scale of the attention bias, kept in the configuration")


def settle_fixed_scales(config: Data2VecConfig, state: Mapping[str, Any], notes: list[str]) -> None:
    """Take the scale of an ALiBi bias that is not learned from the tensor, where the settings say another.

    A scale that is fixed and differs between heads or layers was learned earlier: it becomes a learned one.
    """
    for name, tensor, teacher in walk_state(state):
        found = re.fullmatch(r"modality_encoders\.(AUDIO|IMAGE|TEXT)\.alibi_scale", name)
        modality = {"AUDIO": "audio", "IMAGE": "vision", "TEXT": "text"}[found[1]] if found else None
        if teacher or modality not in config.modalities or config.modality_config(modality).alibi != "fixed":
            continue
        settings, values = config.modality_config(modality), tensor.clamp(min=0).flatten()
        stored = torch.tensor(settings.alibi_scale).to(values.dtype)
        if bool((values == stored).all()):
            continue
        if bool((values == values[0]).all()):
            settings.alibi_scale = values[0].item()
            notes.append(f"alibi_scale is {settings.alibi_scale:g} according to the tensors.")
        else:
            settings.alibi = "learned"
            notes.append(f"{name} differs between heads or layers: further pretraining learns it.")


def _is_copied(name: str, config: Data2VecConfig) -> bool:
    """Return whether the teacher copies this tensor from the student: then it need not be in the checkpoint."""
    return name.startswith(TEACHER) and any(
        f".{modality}." in name and fragment in name
        for modality in config.modalities
        for fragment in config.modality_config(modality).ema_copied or ()
    )
