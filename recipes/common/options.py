"""Options of a pretraining run: YAML sections as dataclasses, `key=value` overrides, and what may change on resume.

Every option is a field with its doc line below it. An unknown key is an error that names the nearest valid one, in the
YAML file and on the command line alike, down to the fields of the model's configuration.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml


CONFIG_FOLDER = Path(__file__).resolve().parents[1] / "configs"
MODALITIES = ("text", "vision", "audio")


class OptionError(ValueError):
    """An option is unknown, has a wrong value, or contradicts another one."""


@dataclass(kw_only=True)
class DataOptions:
    """Where the data of each modality comes from, and how it is loaded."""

    text: str | None = None
    """Text source: local folder or file, or a Hub data set; null reads the built-in sample."""
    vision: str | None = None
    """Image source, likewise."""
    audio: str | None = None
    """Speech source, likewise."""
    num_workers: int = 0
    """Processes that prepare batches ahead of time; 0 prepares them in the training process. Any number gives the
    same batches."""
    prefetch: int = 2
    """Steps that each worker prepares ahead."""


@dataclass(kw_only=True)
class ModalityOptions:
    """A modality of the run: batch size, share, data options and transform."""

    batch_size: int = 16
    """Samples in one optimizer step, over all processes and micro-batches together."""
    ratio: float = 1.0
    """Share of the steps (`schedule: alternate`) or weight of the loss (`schedule: mixed`), relative to the other
    modalities."""
    split: str = "train"
    """Split of the data source."""
    dataset: dict[str, Any] = field(default_factory=dict)
    """Further arguments of `open_dataset` for this source, such as groups to leave out."""
    transform: dict[str, Any] = field(default_factory=dict)
    """Options of `build_transform` for this modality: crops, flips, concatenation, lengths."""


@dataclass(kw_only=True)
class TextOptions(ModalityOptions):
    """Text, which has a tokenizer besides."""

    tokenizer: str | None = None
    """Folder or Hub name of a tokenizer; null trains a byte-level BPE of `model.text_config.vocab_size` entries on the
    source."""
    tokenizer_documents: int = 20_000
    """Documents that a new tokenizer is trained on, the first ones of the source."""


@dataclass(kw_only=True)
class OptimOptions:
    """AdamW and the course of the learning rate."""

    lr: float = 1e-3
    """Peak learning rate."""
    min_lr: float = 0.0
    """Learning rate at the end of the cosine."""
    warmup: float = 0.1
    """Linear warm-up: a fraction of the schedule below 1, a number of steps from 1 on."""
    schedule_steps: int | None = None
    """Step at which the cosine ends; null = `max_steps`. Set it when a run may be extended later."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    """Decay rates of AdamW's two moments."""
    eps: float = 1e-6
    """Term added to AdamW's denominator."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    decay_all: bool = False
    """Decay 1-D parameters, biases and ALiBi scales too (the published audio base run does)."""
    max_grad_norm: float = 0.0
    """Clip the norm of the whole gradient to this; 0 = no clipping."""


@dataclass(kw_only=True)
class Options:
    """All options of a run.

    Raises:
        OptionError: a value is outside of its range, or contradicts another one.
    """

    output_dir: str = ""
    """Folder of the run: checkpoints, log.jsonl, run.yaml and the exported model in `final`."""
    seed: int = 0
    """Seed of weights, sample order, augmentation and masks."""
    max_steps: int = 1000
    """Optimizer steps."""
    schedule: str = "alternate"
    """How modalities share the run: `alternate` takes one modality per optimizer step, in a periodic pattern;
    `mixed` accumulates a batch of every modality in each step."""
    accumulate: int = 1
    """Micro-batches that the batch of a modality is cut into, to save memory."""
    mixed_precision: str = "no"
    """`no`, `bf16` or `fp16`; weights, teacher and optimizer stay in fp32."""
    compile: bool = False
    """Compile the model with torch.compile."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass, to save memory."""
    cpu: bool = False
    """Stay on the CPU even where there is an accelerator."""
    log_every: int = 10
    """Steps between two log lines."""
    checkpoint_every: int = 500
    """Steps between two checkpoints; 0 = only at the end."""
    keep_last: int = 2
    """Checkpoints that are kept; older ones are removed."""
    resume: str = "auto"
    """`auto` goes on from the newest whole checkpoint in `output_dir`; `never` demands a fresh folder."""
    init_from: str | None = None
    """Checkpoint that gives the first weights (continued pretraining): a pretraining or an encoder checkpoint, a local
    folder or a Hub name. The teacher starts from the file, or from the student where the file has none."""
    max_bad_steps: int = 5
    """Stop after so many consecutive steps whose loss or gradient is not finite. Each such step is skipped."""
    min_target_std: float = 0.05
    """Stop when the targets' standard deviation over a batch is below this; 0 = never."""
    min_prediction_std: float = 0.01
    """The same for the predictions."""
    std_check_from: int = 200
    """Step from which log lines are checked for these two, though never before the warm-up is over: a fresh decoder
    predicts almost the same everywhere."""
    report_to: list[str] = field(default_factory=list)
    """Trackers of Accelerate that get the log lines too, such as tensorboard or wandb."""
    push_to_hub: bool = False
    """Upload the exported model at the end."""
    hub_model_id: str | None = None
    """Repository to upload to; null = the name of `output_dir`."""
    data: DataOptions = field(default_factory=DataOptions)
    """Data sources and loading."""
    model: dict[str, Any] = field(default_factory=dict)
    """`preset` (a published size) and fields of Data2VecConfig with its sub-configurations."""
    optim: OptimOptions = field(default_factory=OptimOptions)
    """Optimizer and learning rate."""
    text: TextOptions | None = None
    """Text; a modality without a section takes no part in the run."""
    vision: ModalityOptions | None = None
    """Images."""
    audio: ModalityOptions | None = None
    """Speech."""

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities in the run, in fixed order."""
        return [name for name in MODALITIES if getattr(self, name) is not None]

    @property
    def schedule_steps(self) -> int:
        """Step at which the learning rate reaches its minimum."""
        return self.max_steps if self.optim.schedule_steps is None else self.optim.schedule_steps

    @property
    def warmup_steps(self) -> int:
        """Warm-up in steps, whether it was given as a fraction or as a number."""
        warmup = self.optim.warmup
        return round(warmup * self.schedule_steps) if warmup < 1 else round(warmup)

    def __post_init__(self):
        if not self.output_dir:
            raise OptionError("output_dir is empty. Name the folder of the run, for example output_dir=runs/first.")
        if not self.modalities:
            raise OptionError("The run has no modality. Give it a section text, vision or audio, with a batch_size.")
        _choice("schedule", self.schedule, ("alternate", "mixed"))
        _choice("mixed_precision", self.mixed_precision, ("no", "bf16", "fp16"))
        _choice("resume", self.resume, ("auto", "never"))
        self._check_ranges()
        for name in self.modalities:
            section = getattr(self, name)
            _at_least(f"{name}.batch_size", section.batch_size, self.accumulate)
            if not 0 < section.ratio < math.inf:
                raise OptionError(f"{name}.ratio is {section.ratio}. It must be positive; to leave a modality out, "
                                  f"set {name}=null.")  # fmt: skip
        if len(self.optim.betas) != 2 or not all(0 <= beta < 1 for beta in self.optim.betas):
            raise OptionError(
                f"optim.betas is {self.optim.betas}. It takes two numbers from 0 to below 1, such as [0.9, 0.98]."
            )
        if self.warmup_steps > self.schedule_steps:
            raise OptionError(
                f"optim.warmup is {self.warmup_steps} steps, longer than the schedule of {self.schedule_steps}. "
                "Shorten it, or give it as a fraction such as 0.1."
            )

    def _check_ranges(self) -> None:
        """Checks the numbers that have a least value."""
        for name in ("max_steps", "accumulate", "log_every", "keep_last", "max_bad_steps"):
            _at_least(name, getattr(self, name), 1)
        for name in ("seed", "checkpoint_every", "min_target_std", "min_prediction_std", "std_check_from"):
            _at_least(name, getattr(self, name), 0)
        if self.seed >= 2**31:
            raise OptionError(f"seed is {self.seed}. It must be below {2**31}.")
        _at_least("data.num_workers", self.data.num_workers, 0)
        _at_least("data.prefetch", self.data.prefetch, 1)
        for name in ("min_lr", "warmup", "eps", "weight_decay", "max_grad_norm"):
            _at_least(f"optim.{name}", getattr(self.optim, name), 0)
        if not 0 < self.optim.lr < math.inf:
            raise OptionError(f"optim.lr is {self.optim.lr}. It must be a positive number.")
        if self.optim.schedule_steps is not None:
            _at_least("optim.schedule_steps", self.optim.schedule_steps, 1)
        if self.text is not None:
            _at_least("text.tokenizer_documents", self.text.tokenizer_documents, 1)


def _choice(name: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise OptionError(f"{name} is {value!r}. It must be one of {', '.join(valid)}.")


def _at_least(name: str, value: float, least: int) -> None:
    if not least <= value < math.inf:  # NaN is in no range
        raise OptionError(f"{name} is {value}. It must be at least {least}.")


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as everyone who writes it means; YAML 1.1 reads a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$|^[-+]?(\d[\d_]*)?\.\d+([eE][-+]?\d+)?$|^[-+]?\d[\d_]*\.$"),
    list("-+.0123456789"),
)


def load_options(config: str | Path, overrides: list[str] = ()) -> Options:
    """Reads a YAML file, applies overrides and checks everything.

    Args:
        config: path of a YAML file, or the name of one in `recipes/configs` ("tiny_joint").
        overrides: `key=value` strings; dots in the key lead into sections, the value is read as YAML.

    Raises:
        OptionError: a file, key or value is not valid; the message says which, and what is.
    """
    tree = read_yaml(find_config(config))
    for override in overrides:
        _apply(tree, override)
    return build_options(tree)


def find_config(name: str | Path) -> Path:
    """Path of a configuration file given by path or by name."""
    for path in (Path(name), CONFIG_FOLDER / name, CONFIG_FOLDER / f"{name}.yaml"):
        if path.is_file():
            return path
    known = sorted(path.stem for path in CONFIG_FOLDER.glob("*.yaml"))
    raise OptionError(f"There is no configuration {str(name)!r}. Give the path of a YAML file or one of the names "
                      f"{', '.join(known)}.")  # fmt: skip


def read_yaml(path: Path) -> dict[str, Any]:
    """Content of a YAML file whose top level is a mapping.

    Raises:
        OptionError: the file cannot be read, is not UTF-8 or no YAML, or holds something else.
    """
    try:
        tree = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except UnicodeDecodeError as error:
        raise OptionError(f"{path} is no text in UTF-8: {error}. Save it in UTF-8.") from error
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise OptionError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise OptionError(f"{path} holds no options. Its top level must be `key: value` lines.")
    return tree


def build_options(tree: dict[str, Any]) -> Options:
    """Options from a nested dictionary, every key and type checked."""
    options = _build(Options, tree, "")
    _check_model(options.model)
    return options


def save_options(options: Options, path: Path) -> None:
    """Writes the resolved options as YAML."""
    tree = dataclasses.asdict(options)
    Path(path).write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")


def _apply(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise OptionError(f"The argument {override!r} is not an option. Write key=value, for example optim.lr=1e-3.")
    *sections, name = key.strip().split(".")
    for section in sections:
        if tree.get(section) is None:
            tree[section] = {}
        tree = tree[section]
        if not isinstance(tree, dict):
            raise OptionError(f"{section!r} in {key!r} is a value, not a section; it has no options inside.")
    try:
        tree[name] = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise OptionError(f"The value of {key} cannot be read as YAML: {text!r}. Quote it.") from error


def _unknown(key: str, valid: list[str], prefix: str) -> OptionError:
    nearest = difflib.get_close_matches(key, valid, n=1, cutoff=0.0)
    hint = f" The nearest valid key is {prefix + nearest[0]!r}." if nearest else ""
    return OptionError(f"Unknown option {prefix + key!r}.{hint}")


def _build(cls: type, tree: Any, prefix: str) -> Any:
    if not isinstance(tree, dict):
        raise OptionError(f"{prefix.rstrip('.')} is {tree!r}. It is a section: give its options as key: value lines.")
    hints = typing.get_type_hints(cls)
    for key in tree:
        if key not in hints:
            raise _unknown(str(key), list(hints), prefix)
    return cls(**{key: _coerce(value, hints[key], prefix + key) for key, value in tree.items()})


def _coerce(value: Any, hint: Any, key: str) -> Any:
    """Value as the type that a field declares; only changes that lose nothing (3 -> 3.0, null section -> default)."""
    variants = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in variants:
        return None
    wanted = next(variant for variant in variants if variant is not type(None))
    if dataclasses.is_dataclass(wanted):
        return _build(wanted, {} if value is None else value, key + ".")
    origin = typing.get_origin(wanted) or wanted
    if origin is dict and value is None:
        return {}
    if origin is list:
        (item,) = typing.get_args(wanted)
        values = value if isinstance(value, list) else [value]
        return [_coerce(entry, item, key) for entry in values if value is not None]
    if origin is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is str and isinstance(value, bool | int | float):
        # YAML reads `mixed_precision: no` as false.
        return {False: "no", True: "yes"}[value] if isinstance(value, bool) else str(value)
    if not isinstance(value, origin) or (origin is int and isinstance(value, bool)):
        raise OptionError(f"{key} is {value!r}, which is no {origin.__name__}.")
    return value


def _check_model(model: dict[str, Any]) -> None:
    """Checks the keys of the model section against the configuration classes."""
    from modeling_d2v.configuration_data2vec import MODALITY_CONFIGS, Data2VecConfig

    def names(cls: type) -> list[str]:
        return [entry.name for entry in dataclasses.fields(cls) if not entry.name.startswith("_")]

    nested = {f"{name}_config": config for name, config in MODALITY_CONFIGS.items()}
    valid = [*names(Data2VecConfig), "preset"]
    for key, value in model.items():
        if key not in valid:
            raise _unknown(str(key), valid, "model.")
        if key in nested and isinstance(value, dict):
            inside = names(nested[key])
            for name in value:
                if name not in inside:
                    raise _unknown(str(name), inside, f"model.{key}.")


# Options that may differ between a run and its continuation: where things go, how fast they are, how often they are
# reported. Everything else changes what the run computes.
FREE_ON_RESUME = frozenset(
    """output_dir max_steps accumulate compile gradient_checkpointing cpu log_every checkpoint_every keep_last resume
    max_bad_steps min_target_std min_prediction_std std_check_from report_to push_to_hub hub_model_id
    data.num_workers data.prefetch optim.schedule_steps""".split()
)


def check_resumable(saved: Options, options: Options) -> None:
    """Refuses to continue a run under options that would make it another run.

    `max_steps` may change only while the learning rate stays what it was, because the cosine ends at `max_steps`
    unless `optim.schedule_steps` says otherwise.

    Raises:
        OptionError: lists the options that differ, with both values.
    """
    before, now = _flatten(dataclasses.asdict(saved)), _flatten(dataclasses.asdict(options))
    changed = [key for key in sorted(before.keys() | now.keys())
               if not _is_free(key) and before.get(key) != now.get(key)]  # fmt: skip
    if changed:
        listed = "; ".join(f"{key}: {before.get(key)!r} -> {now.get(key)!r}" for key in changed)
        raise OptionError(
            f"The run in {saved.output_dir} was started with other options ({listed}). Put them back to resume, or "
            "choose a new output_dir (with init_from to start from these weights)."
        )
    same = (saved.schedule_steps, saved.warmup_steps) == (options.schedule_steps, options.warmup_steps)
    if not same:
        raise OptionError(
            f"The learning rate of the run in {saved.output_dir} falls over {saved.schedule_steps} steps, of the new "
            f"options over {options.schedule_steps}. Add optim.schedule_steps={saved.schedule_steps} to train to step "
            f"{options.max_steps} with the learning rate held at min_lr after the cosine, or start a new output_dir "
            "with init_from for a new schedule."
        )


def _is_free(key: str) -> bool:
    return any(key == name or key.startswith(name + ".") for name in FREE_ON_RESUME)


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves of a nested dictionary by dotted name."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
