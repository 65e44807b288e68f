"""From options to the parts of a run: configuration, tokenizer, model, data."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoConfig, set_seed

from modeling_d2v import Data2VecConfig, Data2VecForPreTraining
from recipes.common.atomic import write_folder
from recipes.common.backbones import build_backbone_config, build_backbone_model
from recipes.common.batches import BatchPlan, StepDataset
from recipes.common.checkpointing import CheckpointFolder
from recipes.common.collate import Collator
from recipes.common.modality_data import prepare_modality
from recipes.common.option_errors import OptionError
from recipes.common.options import Options
from recipes.common.processes import ONE_PROCESS, Processes
from recipes.common.source_list import open_entries, parts_of, read_entries
from recipes.common.tokenizer import build_tokenizer, load_tokenizer


logger = logging.getLogger(__name__)


@contextmanager
def options_explained(what: str) -> Iterator[None]:
    """Turns what wrong options make the libraries raise into `OptionError`.

    For the making of a run only: in its steps the same exceptions are errors of the program.

    Args:
        what: what is being made, for the message.

    Raises:
        OptionError: in the place of `ValueError` (but for itself), `OSError` and `StrictDataclassError`.
    """
    try:
        yield
    except OptionError:
        raise
    except (ValueError, OSError, StrictDataclassError) as error:
        # Some of these messages take several lines.
        sentence = " ".join(str(error).split()) or type(error).__name__
        raise OptionError(f"{what} cannot be set up: {sentence}") from error


def open_sources(options: Options, channels: int | None = None) -> dict[str, Any]:
    """Raw data sets of the run by modality: a `RawDataset`, or a `JoinedDataset` of several sources.

    Args:
        options: the run's options.
        channels: channels of the images; None keeps `open_dataset`'s default.
    """
    sources = {}
    for name in options.modalities:
        section = getattr(options, name)
        extra = dict(section.dataset)
        if name == "vision" and channels is not None:
            extra.setdefault("channels", channels)
        entries = read_entries(f"data.{name}", getattr(options.data, name), section.split, extra)
        block = options.data.shuffle_buffer if options.data.streaming else None
        sources[name] = open_entries(name, entries, f"{name}.dataset", block)
    return sources


def build_config(options: Options, vocab_size: int | None = None) -> Data2VecConfig:
    """Configuration of the model: preset, `init_from` or `backbone`, then the fields of the `model` section.

    Args:
        options: the run's options.
        vocab_size: entries of the tokenizer, which decide the size of the text embedding.
    """
    if options.backbone is not None:
        return build_backbone_config(options)
    fields = {key: dict(value) if isinstance(value, dict) else value for key, value in options.model.items()}
    preset = fields.pop("preset", None)
    if options.init_from is not None and preset is not None:
        raise OptionError(f"init_from already decides the model, and model.preset={preset} contradicts it. Drop one.")
    fields.setdefault("modalities", options.modalities)
    if vocab_size is not None:
        fields["text_config"] = {**(fields.get("text_config") or {}), "vocab_size": vocab_size}
        # The last entry is the mask token; an id of the preset's larger vocabulary would lie outside.
        fields["text_config"].setdefault("mask_token_id", vocab_size - 1)
    if options.init_from is not None:
        start = starting_config(options.init_from).to_dict()
        fields["modalities"] = sorted({*start["modalities"], *fields["modalities"]})
        fields = _merge(start, fields)
        config = Data2VecConfig(**{key: value for key, value in fields.items() if key != "model_type"})
    else:
        config = Data2VecConfig.preset(preset, **fields) if preset else Data2VecConfig(**fields)
    missing = [name for name in options.modalities if name not in config.modalities]
    if missing:
        raise OptionError(f"The run has a section for {', '.join(missing)}, but model.modalities is "
                          f"{config.modalities}. Add it there, or set {missing[0]}=null.")  # fmt: skip
    return config


def starting_config(init_from: str) -> Data2VecConfig:
    """Configuration of the checkpoint that a run starts from.

    Raises:
        OptionError: there is no such folder or repository, or it holds no model, or one of another kind.
    """
    try:
        config = AutoConfig.from_pretrained(init_from)
    except (OSError, ValueError) as error:
        raise OptionError(
            f"init_from={init_from} cannot be read; give the folder of a checkpoint, or the name of one on the Hub. "
            f"({' '.join(str(error).split())})"
        ) from error
    if not isinstance(config, Data2VecConfig):
        raise OptionError(f"init_from={init_from} is a model of type {config.model_type!r}. Give a checkpoint of this "
                          f"package, of type {Data2VecConfig.model_type!r}.")  # fmt: skip
    return config


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        merged[key] = _merge(merged[key], value) if isinstance(value, dict) and merged.get(key) else value
    return merged


def prepare_tokenizer(options: Options, documents: Any, folder: Path, write: bool = True) -> Any:
    """Tokenizer of the run, kept in its folder so that a resumed run reads the same one.

    A folder that an attempt without a checkpoint left behind may be of other data: it is replaced. Call it in the main
    process first: a new tokenizer is trained once.

    Args:
        options: the run's options.
        documents: raw text data set that a new tokenizer is trained on.
        folder: where the tokenizer is kept, beside the run's `checkpoints`.
        write: whether this is the main process, which writes; the others read what it wrote.
    """
    resumed = CheckpointFolder(folder.with_name("checkpoints")).newest() is not None
    if resumed or not write:
        kept = _kept_tokenizer(folder)
        if kept is not None:
            return kept
        if resumed:
            logger.warning("There is no whole tokenizer in %s; it is made again.", folder)
    tokenizer = _new_tokenizer(options, documents)
    if write:
        with write_folder(folder) as draft:
            tokenizer.save_pretrained(draft)
    return tokenizer


def _kept_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder, or None where there is none or a part of one."""
    files = [path for path in folder.glob("*") if path.is_file() and path.stat().st_size]
    if "tokenizer_config.json" not in [path.name for path in files] or len(files) < 2:
        return None
    try:
        return load_tokenizer(str(folder))
    except (OSError, ValueError):
        return None


def _new_tokenizer(options: Options, documents: Any) -> Any:
    """Tokenizer that the options name or `init_from` brings, or else one trained on the documents."""
    if options.text.tokenizer is not None:
        return load_tokenizer(options.text.tokenizer)
    if options.init_from is not None and "text" in starting_config(options.init_from).modalities:
        return load_tokenizer(options.init_from)
    size = (options.model.get("text_config") or {}).get("vocab_size", 8192)
    if not isinstance(size, int):
        raise OptionError(f"model.text_config.vocab_size is {size!r}, which is no int.")
    sources = parts_of(documents).values()
    share = -(-options.text.tokenizer_documents // len(sources))
    # The trainer reads in a thread of its own, which would not know who collects the bad documents.
    context = copy_context()
    first = (context.run(part.__getitem__, index) for part in sources for index in range(min(share, len(part))))
    return build_tokenizer((record["text"] for record in first), size)


def build_model(options: Options, config: Data2VecConfig) -> Data2VecForPreTraining:
    """Model with the weights of `init_from` or `backbone`, or new ones that follow from the seed alone.

    Raises:
        OptionError: the weights of `init_from` do not fit the `model` section.
    """
    set_seed(options.seed)
    if options.backbone is not None:
        model = build_backbone_model(options, config)
    elif options.init_from is not None:
        try:
            model = Data2VecForPreTraining.from_pretrained(options.init_from, config=config)
        except RuntimeError as error:
            raise OptionError(
                f"The weights of init_from={options.init_from} do not have the shapes that the model section asks "
                "for. Leave out of the section what changes shapes, such as hidden_size: the checkpoint decides it. "
                f"({' '.join(str(error).split())})"
            ) from error
        # The decay of the teacher follows the steps of this run, not those of the one before.
        model.ema_step.zero_()
    else:
        model = Data2VecForPreTraining(config)
    model = model.to(torch.float32)
    if options.gradient_checkpointing:
        model.activation_checkpointing_enable()
    return model


class TokenCounter:
    """Counts the real tokens of a batch, so that padding does not pass for throughput.

    Args:
        config: configuration of the model, which knows the frames of a waveform.
    """

    def __init__(self, config: Data2VecConfig):
        self.config = config

    def __call__(self, modality: str, inputs: dict[str, Tensor]) -> int:
        """Real tokens of a collated batch, masked or not."""
        real = inputs.get("attention_mask")
        if real is None:
            return inputs["mask"][:, 0].numel()
        lengths = real.sum(dim=1)
        return int((self.config.audio_config.num_frames(lengths) if modality == "audio" else lengths).sum())


def build_steps(
    options: Options,
    config: Data2VecConfig,
    sources: Mapping[str, Any],
    tokenizer: Any = None,
    processes: Processes = ONE_PROCESS,
) -> StepDataset:
    """Micro-batches of this process by step.

    Args:
        options: the run's options.
        config: configuration of the model.
        sources: raw data sets by modality.
        tokenizer: for text.
        processes: of the run.

    Raises:
        ValueError: a transform option is wrong, or a modality has too little data or too small a batch.
    """
    data = {name: prepare_modality(options, config, name, source, tokenizer) for name, source in sources.items()}
    plan = BatchPlan(
        {name: each.turns for name, each in data.items()},
        {name: getattr(options, name).ratio for name in data},
        mixed=options.schedule == "mixed",
    )
    return StepDataset(
        plan,
        {name: each.dataset for name, each in data.items()},
        {name: each.transform for name, each in data.items()},
        Collator(config, options.seed),
        TokenCounter(config),
        seed=options.seed,
        accumulate=options.accumulate,
        limits={name: each.limit for name, each in data.items() if each.limit is not None},
        processes=processes,
        fingerprint={name: each.fingerprint for name, each in data.items()},
    )
