"""Recognises a checkpoint of another program, and splits it into encoder, head, settings and dictionary.

Fine-tuned models wrap the encoder. Their settings hold those of the encoder, some of which fine-tuning has replaced;
these are left out, so that the encoder is converted like a pretrained one.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from modeling_d2v.conversion.fairseq.layouts import detect_kind, layout_of, shapes_of
from modeling_d2v.conversion.fairseq.settings_beit import SHAPES, beit_shapes
from modeling_d2v.conversion.fairseq.settings_published import PUBLISHED, published_settings
from modeling_d2v.conversion.pickles import StandIn


PRETRAINING, CTC, IMAGES, TEXTS = "pretraining", "speech recognition", "image classification", "text classification"


class Source(NamedTuple):
    """The parts of a checkpoint.

    Args:
        kind: Layout of the encoder, one of `FAIRSEQ_KINDS`.
        task: `PRETRAINING`, `CTC`, `IMAGES` or `TEXTS`.
        state: Tensors of the encoder under the names of its pretraining, the teacher in a dictionary `_ema`.
        head: Tensors of the head under our names.
        settings: Settings of the encoder.
        tuning: Settings of the fine-tuning, empty for a pretrained model.
        data: Settings of the program's task: sampling rate, normalisation, masks of text.
        step: Optimizer updates done.
        symbols: The dictionary, if the checkpoint holds it.
        device_batch: Samples per device and step, if the settings hold it.
        assumed: What was assumed as the file does not hold it, in a sentence.
    """

    kind: str
    task: str
    state: Mapping[str, Any]
    head: dict[str, Tensor]
    settings: dict[str, Any]
    tuning: dict[str, Any]
    data: dict[str, Any]
    step: int = 0
    symbols: list[str] | None = None
    device_batch: int | None = None
    assumed: str | None = None


class Wrapper(NamedTuple):
    """Names in a model for a task that wraps the encoder."""

    task: str
    encoder: str  # prefix of the encoder's names
    mark: str  # in the head's names
    settings: str | None  # section of the encoder's settings; `None`: they are the encoder's
    head: tuple[tuple[str, str], ...]


_TEXT_HEAD = (r"^classification_heads\.[^.]+\.(dense|out_proj)\.", r"classifier.\1.")
WRAPPERS = (
    Wrapper(
        CTC, "w2v_encoder.w2v_model.", r"^w2v_encoder\.proj\.", "w2v_args", ((r"^w2v_encoder\.proj\.", "lm_head."),)
    ),
    Wrapper(TEXTS, "model.", r"^classification_heads\.", "pretrained_model_args", (_TEXT_HEAD,)),
    Wrapper(TEXTS, "", r"^classification_heads\.", None, (_TEXT_HEAD,)),
    Wrapper(IMAGES, "model.", r"^head\.", "pretrained_model_args", ((r"^head\.", "classifier."),)),
    Wrapper(IMAGES, "", r"^head\.", None, ((r"^head\.", "classifier."),)),
)

# Settings of the encoder that fine-tuning replaces by its own, and that the encoder's computation does not depend on.
REPLACED = {
    CTC: frozenset(
        "mask_length mask_prob mask_selection mask_other mask_min_space no_mask_overlap "
        "require_same_masks mask_dropout mask_channel_length mask_channel_prob mask_channel_before "
        "mask_channel_selection mask_channel_other mask_channel_min_space no_mask_channel_overlap "
        "pct_holes zero_mask encoder_zero_mask inverse_mask feature_grad_mult local_grad_mult "
        "dropout_input drop_path checkpoint_activations offload_activations min_params_to_wrap "
        "learned_alibi_scale update_alibi".split()
    ),
    IMAGES: frozenset("start_drop_path_rate drop_path_rate mae_masking dropout_input".split()),
    TEXTS: frozenset(),
    PRETRAINING: frozenset(),
}

# Marks of other models: names of tensors, names of the model in the settings.
FOREIGN = (
    (r"(^|\.)(quantizer|project_q|project_hid|input_quantizer)\.", r"^wav2vec2$", "wav2vec 2.0"),
    (r"(^|\.)label_embs_concat$", r"^hubert", "HuBERT"),
    (r"\.relative_attention_bias\.|\.grep_linear\.", r"^wavlm", "WavLM"),
    (r"(^|\.)encoder\.pos_conv\.0\.weight_[gv]$", r"^$", "wav2vec 2.0, HuBERT or WavLM"),
    (r"^encoder\.lm_head\.dense\.", r"^(roberta|xlmr)", "RoBERTa"),
    (r"^decoder_(blocks|embed|pos_embed)", r"^mae$", "MAE"),
    (r"^(bert|roberta|wav2vec2|hubert|beit|data2vec_(audio|text|vision))\.", r"^$", "transformers"),
)


# Where programs keep weights in a file.
_WEIGHTS = ("model", "module", "state_dict", "model_state_dict", "net", "network", "weights")
# Names that wrappers put between the names of a model: torch.compile, FSDP, activation checkpointing.
_INNER_WRAPPERS = re.compile(
    r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_fpw_module|_checkpoint_wrapped_module|_forward_module)\."
)
# Names that a wrapper puts before all names of a model: DistributedDataParallel, Lightning modules and the like.
_OUTER_WRAPPERS = ("module.", "model.", "student.", "net.", "network.", "backbone.")
# Keys of files that hold something else, most special first.
_OTHER_CONTENTS = (
    ({"state", "param_groups"}, "the state of an optimizer"),
    ({"last_epoch", "base_lrs"}, "the state of a learning rate schedule"),
    ({"last_epoch", "_step_count"}, "the state of a learning rate schedule"),
    ({"scale", "growth_factor"}, "the state of a gradient scaler"),
    ({"python", "numpy", "cpu"}, "the state of random number generators"),
    ({"symbols", "count", "indices"}, "a dictionary of fairseq"),
)


def take_apart(
    content: Mapping[str, Any], where: str, ignore_settings: Iterable[str] = (), kind: str | None = None
) -> Source:
    """Recognise a checkpoint and split it into its parts.

    Args:
        content: Result of `read_checkpoint`.
        where: Name of the file in errors.
        ignore_settings: Names of encoder settings to leave out.
        kind: One of `FAIRSEQ_KINDS`, where names and settings do not tell it. A model of 1.0 without settings is then
            converted with those of the published model.

    Raises:
        ValueError: The file is not a checkpoint of data2vec (the message names the model), or lacks weights or
            settings.
    """
    state = _weights(content, where)
    names = [name for name in state if isinstance(state[name], Tensor)]
    whole = _dictionary(content, "cfg", where)
    tuning, data = _dictionary(whole, "model", where), _dictionary(whole, "task", where)
    wrapper = _wrapper(names)
    settings = tuning
    if wrapper is not None and wrapper.settings is not None:
        inner = tuning.pop(wrapper.settings, None) or {}
        settings = inner.get("model", {}) if isinstance(inner, Mapping) else {}
    _check_foreign(names, [settings, tuning], where)
    task = PRETRAINING if wrapper is None else wrapper.task
    head: dict[str, Tensor] = {}
    if wrapper is not None:
        state, head = _split(state, wrapper)
    given, kind = kind, _kind(state, settings, where, kind)
    assumed = None
    if kind == "beit-v1-vision":
        settings = {**(_arguments(content)), SHAPES: beit_shapes(state)}
        data = _arguments(content)
    elif not settings and given is not None and kind in PUBLISHED:
        settings, assumed = published_settings(kind, shapes_of(state))
    elif not settings:
        raise ValueError(
            f"{where} holds weights of data2vec ({kind}), but no settings of the model (`cfg`), without which "
            "they cannot be converted. Give them in a JSON file (`settings`): the dictionary `cfg`, or its section "
            '"model".' + (f" Or set `kind` to {kind!r} for those of the published model." if kind in PUBLISHED else "")
        )
    settings = _without(settings, REPLACED[task] | set(ignore_settings))
    if kind == "fairseq-v2":
        settings |= _alone(state, settings, where)
    return Source(
        kind,
        task,
        state,
        head,
        settings,
        tuning if wrapper is not None else {},
        data,
        _updates(content),
        _symbols(content),
        _dictionary(whole, "dataset", where).get("batch_size"),
        assumed,
    )


def _kind(state: Mapping[str, Any], settings: Mapping[str, Any], where: str, given: str | None) -> str:
    """Return the kind that the names mark, or else the given one."""
    if given is not None:
        layout_of(given)
    try:
        found = detect_kind(state, settings)
    except ValueError as error:
        if given is not None:
            return given
        raise ValueError(f"{where} is not a checkpoint that can be converted. {error}") from None
    if given not in (None, found):
        raise ValueError(f"{where} is a checkpoint of kind {found!r} by the names of its tensors, not {given!r}.")
    return found


def _weights(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the state dict, with the teacher of BEiT's program where fairseq keeps its own."""
    for key in _WEIGHTS:
        if isinstance(content.get(key), Mapping):
            state = _of_module(content[key])
            if isinstance(content.get("model_ema"), Mapping):
                state["_ema"] = _of_module(content["model_ema"])
            return _unwrapped(_checked(state, key, where))
    bare = {name: value for name, value in content.items() if name != "cfg"}
    if bare and all(isinstance(value, Tensor) or str(name).endswith("_ema") for name, value in bare.items()):
        return _unwrapped(_checked(bare, "the file", where))
    if len(bare) == 1 and isinstance(inner := next(iter(bare.values())), Mapping):
        return _weights(inner, where)
    other = next((what for keys, what in _OTHER_CONTENTS if keys <= set(content)), None)
    if other is not None:
        raise ValueError(f"{where} is {other}, not a model: give the file that holds the weights.")
    raise ValueError(
        f"{where} holds {', '.join(map(str, sorted(content, key=str)[:8])) or 'nothing'}, but no weights under "
        "`model` or `module`, where fairseq and BEiT's program keep them."
    )


def _of_module(state: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a state dict; of a whole pickled module, that of its parameters and buffers."""
    if not {"_parameters", "_buffers", "_modules"} <= state.keys():
        return dict(state)
    own = {**state["_parameters"], **state["_buffers"]}
    tensors = {f"{prefix}{name}": value for name, value in own.items() if isinstance(value, Tensor)}
    for name, module in state["_modules"].items():
        if isinstance(module, Mapping):
            tensors |= _of_module(module, f"{prefix}{name}.")
    return tensors


def _checked(state: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    """Raise `ValueError` unless a state dict holds tensors, and the teacher as a dictionary of them."""
    for name, value in state.items():
        if not isinstance(name, str) or name.endswith("_ema") and not isinstance(value, Mapping):
            raise ValueError(
                f"{where} holds {name!r} ({type(value).__name__}) among its weights under `{key}`; names of "
                "tensors are strings, and the teacher `_ema` is a dictionary of tensors. The file is damaged."
            )
        if isinstance(value, StandIn):
            raise ValueError(
                f"{where} holds an object of {value.source} as {name!r} among its weights, instead of a tensor. Load "
                "it where it was written, and save its `state_dict()`."
            )
    return state


def _unwrapped(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state dict under the names of the model alone, without those of wrappers around it."""
    state = {
        _without_inner(name): {_without_inner(str(inner)): tensor for inner, tensor in value.items()}
        if name.endswith("_ema") and isinstance(value, Mapping)
        else value
        for name, value in state.items()
    }
    for prefix in _OUTER_WRAPPERS:
        # A wrapper around a student may not have renamed the dictionary of its teacher.
        while (
            (own := [name for name in state if not name.endswith("_ema")])
            and all(name.startswith(prefix) for name in own)
            and (prefix == "module." or not _known(state))
        ):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    for name in [name for name in state if name.endswith("_ema")]:
        teacher = state[name]
        while teacher and all(inner.startswith("module.") for inner in teacher):
            teacher = {inner.removeprefix("module."): tensor for inner, tensor in teacher.items()}
        state[name] = teacher
    return state


def _without_inner(name: str) -> str:
    while _INNER_WRAPPERS.search(name):
        name = _INNER_WRAPPERS.sub(r"\1", name)
    return name


def _known(state: Mapping[str, Any]) -> bool:
    """Return whether the names are those of a model that can be converted."""
    try:
        detect_kind(state)
    except ValueError:
        return _wrapper(list(state)) is not None
    return True


def _dictionary(parent: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """Return a section of the settings, empty where it is missing."""
    value = parent.get(name) or {}
    if not isinstance(value, Mapping):
        raise ValueError(
            f"{where} has a {type(value).__name__} as {name!r}, where the settings of fairseq are a dictionary. Give "
            "the correct ones in a JSON file (`settings`)."
        )
    return dict(value)


def _wrapper(names: list[str]) -> Wrapper | None:
    for wrapper in WRAPPERS:
        if any(re.search(wrapper.mark, name) for name in names) and any(
            name.startswith(wrapper.encoder) for name in names
        ):
            return wrapper
    return None


def _split(state: Mapping[str, Any], wrapper: Wrapper) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the encoder's tensors under its own names, and the head's under the names of this package."""
    encoder, head = {}, {}
    patterns = (*wrapper.head, (r"^fc_norm\.", "fc_norm."))
    for name, value in state.items():
        found = next(((pattern, new) for pattern, new in patterns if re.search(pattern, name)), None)
        if found is not None:
            new = re.sub(found[0], found[1], name)
            if new in head:
                raise ValueError(
                    f"The model has several classification heads, and {name} belongs to one of them: convert a "
                    "checkpoint with one head."
                )
            head[new] = value
        else:
            encoder[name.removeprefix(wrapper.encoder)] = value
    return encoder, head


def _check_foreign(names: list[str], settings: list[Mapping[str, Any]], where: str) -> None:
    titles = [str(part.get("_name") or "") for part in settings]
    for mark, title, model in FOREIGN:
        told = next((name for name in names if re.search(mark, name)), None)
        told = told or next((entry for entry in titles if entry and re.search(title, entry)), None)
        if told is None:
            continue
        if model == "transformers":
            advice = "Give the whole folder, with config.json, instead of this file."
        else:
            advice = "transformers has its own models and converters for it."
        raise ValueError(
            f"{where} is a checkpoint of {model}, not one of data2vec in fairseq's layout: it has {told}. Only "
            f"data2vec 1.0 and 2.0 can be converted. {advice}"
        )


def _without(settings: Mapping[str, Any], left_out: Iterable[str]) -> dict[str, Any]:
    return {
        name: _without(value, left_out) if isinstance(value, Mapping) and name != SHAPES else value
        for name, value in settings.items()
        if name not in left_out
    }


def _alone(state: Mapping[str, Any], settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the settings of 2.0 that its tensors imply: its only modality, and the learned attention bias scale."""
    found = {match[1] for name in state if (match := re.match(r"modality_encoders\.([A-Z]+)\.", name))}
    told: dict[str, Any] = {"supported_modality": found.pop()} if len(found) == 1 else {}
    if "modalities" in settings:
        told["modalities"] = {
            name: {"learned_alibi_scale": f"modality_encoders.{name.upper()}.alibi_scale" in state, **section}
            for name, section in _dictionary(settings, "modalities", where).items()
            if isinstance(section, Mapping)
        }
    return told


def _arguments(content: Mapping[str, Any]) -> dict[str, Any]:
    return dict(content["args"]) if isinstance(content.get("args"), Mapping) else {}


def _updates(content: Mapping[str, Any]) -> int:
    history = content.get("optimizer_history") or [{}]
    last = history[-1] if isinstance(history, list | tuple) else {}
    updates = last.get("num_updates", 0) if isinstance(last, Mapping) else 0
    return updates if isinstance(updates, int) else 0


def _symbols(content: Mapping[str, Any]) -> list[str] | None:
    state = content.get("task_state") or {}
    for name in ("target_dictionary", "source_dictionary", "dictionary"):
        symbols = state[name].get("symbols") if isinstance(state.get(name), Mapping) else None
        if symbols and isinstance(symbols, list | tuple):
            return list(map(str, symbols))
    return None
