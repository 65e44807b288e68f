"""Recognises a checkpoint of another program, and splits it into encoder, head, settings and dictionary.

Fine-tuned models wrap the encoder. Their settings hold those of the encoder, some of which fine-tuning has replaced;
these are left out, so that the encoder is converted like a pretrained one.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from modeling_d2v.conversion.fairseq.layouts import detect_kind
from modeling_d2v.conversion.fairseq.settings_beit import SHAPES, beit_shapes


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


def take_apart(content: Mapping[str, Any], where: str, ignore_settings: Iterable[str] = ()) -> Source:
    """Recognise a checkpoint and split it into its parts.

    Args:
        content: Result of `read_checkpoint`.
        where: Name of the file in errors.
        ignore_settings: Names of encoder settings to leave out.

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
    try:
        kind = detect_kind(state, settings)
    except ValueError as error:
        raise ValueError(f"{where} is not a checkpoint that can be converted. {error}") from None
    if kind == "beit-v1-vision":
        settings = {**(_arguments(content)), SHAPES: beit_shapes(state)}
        data = _arguments(content)
    elif not settings:
        raise ValueError(
            f"{where} holds weights of data2vec ({kind}), but no settings of the model (`cfg`), without which "
            "they cannot be converted. Give them in a JSON file (`settings`): the dictionary `cfg`, or its section "
            '"model".'
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
    )


def _weights(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the state dict, with the teacher of BEiT's program where fairseq keeps its own."""
    for key in ("model", "module"):
        if isinstance(content.get(key), Mapping):
            state = dict(content[key])
            if isinstance(content.get("model_ema"), Mapping):
                state["_ema"] = content["model_ema"]
            for name, value in state.items():
                if not isinstance(name, str) or name.endswith("_ema") and not isinstance(value, Mapping):
                    raise ValueError(
                        f"{where} holds {name!r} ({type(value).__name__}) among its weights under `{key}`; names of "
                        "tensors are strings, and the teacher `_ema` is a dictionary of tensors. The file is damaged."
                    )
            return state
    if content and all(isinstance(value, Tensor) for value in content.values()):
        return dict(content)
    raise ValueError(
        f"{where} holds {', '.join(map(str, sorted(content)[:8])) or 'nothing'}, but no weights under `model` or "
        "`module`, where fairseq and BEiT's program keep them."
    )


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
