"""Options from YAML files and `key=value` overrides, and what may differ when a run is resumed.

An unknown key is an error that names the nearest valid one, in the file and on the command line alike, down to the
fields of the model's configuration.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from pathlib import Path
from typing import Any

import yaml

from d2v_train.options.errors import OptionError
from d2v_train.options.run import Options
from d2v_train.support.atomic import write_text
from modeling_d2v.configuration_modalities import MODALITIES


CONFIG_FOLDER = Path(__file__).resolve().parents[1] / "configs"


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
        config: path of a YAML file, or the name of one in `recipes/d2v_train/configs` ("tiny_joint").
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
    known = [path.stem for path in pretraining_configs()]
    raise OptionError(f"There is no configuration {str(name)!r}. Give the path of a YAML file or one of the names "
                      f"{', '.join(known)}.")  # fmt: skip


def pretraining_configs() -> list[Path]:
    """Configurations of pretraining in `recipes/d2v_train/configs`, by name; the others there are of fine-tuning."""
    return [path for path in sorted(CONFIG_FOLDER.glob("*.yaml")) if set(MODALITIES) & set(read_yaml(path))]


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
    options = build_section(Options, tree, "")
    if options.backbone is None:
        _check_model(options.model)
    else:
        _check_backbone(options.model)
    return options


def save_options(options: Options, path: Path) -> None:
    """Write the resolved options as YAML.

    Raises:
        WriteError: they cannot be written.
    """
    write_text(path, yaml.safe_dump(dataclasses.asdict(options), sort_keys=False))


def _apply(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise OptionError(f"The argument {override!r} is not an option. Write key=value, for example optim.lr=1e-3.")
    if not text.strip():
        # YAML would read null: a variable of the shell that is not set would choose another run without a word.
        raise OptionError(f"{override} has no value. Write it behind the sign, or {key.strip()}=null to have none.")
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


def build_section(cls: type, tree: Any, prefix: str) -> Any:
    """Make a dataclass from a mapping, every key and type checked.

    Args:
        cls: The dataclass.
        tree: The mapping.
        prefix: Where it stands, with a dot behind it, for messages.

    Raises:
        OptionError: A key is unknown, or a value is of another type.
    """
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
    kinds = [variant for variant in variants if variant is not type(None)]
    wanted = next((kind for kind in kinds if isinstance(value, typing.get_origin(kind) or kind)), kinds[0])
    if dataclasses.is_dataclass(wanted):
        return build_section(wanted, {} if value is None else value, key + ".")
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


def _check_backbone(model: dict[str, Any]) -> None:
    """The same for the objective over an encoder of transformers."""
    from modeling_d2v.backbone_configuration import BackbonePreTrainingConfig
    from modeling_d2v.configuration_data2vec import Data2VecConfig

    valid = sorted(BackbonePreTrainingConfig.own_fields())
    for key in model:
        if key not in valid and key in Data2VecConfig.own_fields():
            raise OptionError(
                f"model.{key} belongs to models of this package; with `backbone` the encoder decides its own parts. "
                "Leave it out, or drop the whole section of a configuration file with model=null."
            )
        if key not in valid:
            raise _unknown(str(key), valid, "model.")


# Options that may differ between a run and its continuation: where things go, how fast they are, how often they are
# reported. Everything else changes what the run computes.
FREE_ON_RESUME = frozenset(
    """output_dir max_steps accumulate compile gradient_checkpointing cpu log_every checkpoint_every checkpoint_minutes
    keep_last keep_every resume
    max_bad_steps max_bad_fraction max_skipped_share non_finite collapse patience min_target_std
    min_prediction_std std_check_from probe pictures_every report_to project run_name dry_run push_to_hub hub_model_id
    text.micro_batch_size vision.micro_batch_size audio.micro_batch_size text.micro_batch_tokens
    audio.micro_batch_tokens data.streaming data.num_workers data.prefetch optim.schedule_steps""".split()
)


def check_resumable(saved: Options, options: Options) -> None:
    """Refuses to continue a run under options that would make it another run.

    `max_steps` may change only while the learning rate stays what it was, because the cosine ends at `max_steps`
    unless `optim.schedule_steps` says otherwise.

    Raises:
        OptionError: lists the options that differ, with both values.
    """
    before, now = flatten(dataclasses.asdict(saved)), flatten(dataclasses.asdict(options))
    changed = [key for key in sorted(before.keys() | now.keys())
               if not _is_free(key) and before.get(key) != now.get(key)]  # fmt: skip
    if changed:
        listed = "; ".join(f"{key}: {before.get(key)!r} -> {now.get(key)!r}" for key in changed)
        raise OptionError(
            f"The run in {saved.output_dir} was started with other options ({listed}). Put them back to resume, or "
            f"choose a new output_dir (with {_start_again(options)} to start from these weights)."
        )
    same = (saved.schedule_steps, saved.warmup_steps) == (options.schedule_steps, options.warmup_steps)
    if not same:
        raise OptionError(
            f"The learning rate of the run in {saved.output_dir} falls over {saved.schedule_steps} steps, of the new "
            f"options over {options.schedule_steps}. Add optim.schedule_steps={saved.schedule_steps} to train to step "
            f"{options.max_steps} with the learning rate held at min_lr after the cosine, or start a new output_dir "
            f"with {_start_again(options)} for a new schedule."
        )


def _start_again(options: Options) -> str:
    return "init_from" if options.backbone is None else f"backbone={options.output_dir}/final_backbone"


def _is_free(key: str) -> bool:
    return any(key == name or key.startswith(name + ".") for name in FREE_ON_RESUME)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves of a nested dictionary by dotted name."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def as_overrides(arguments: list[str]) -> list[str]:
    """Arguments as `key=value` strings.

    `--key` takes the next argument as its value, unless that is an option itself (`--other`, `other=value`) or there
    is none: then it is a flag that is switched on. A hyphen inside a name stands for an underscore.

    Raises:
        OptionError: an option has no name.
    """
    overrides, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--"):
            overrides.append(argument)
            continue
        key, separator, value = argument[2:].partition("=")
        if not key:
            raise OptionError(f"The argument {argument!r} names no option. Write for example optim.lr=1e-3.")
        if not separator:
            value = rest.pop(0) if rest and not _is_option(rest[0]) else "true"
        overrides.append(f"{key.replace('-', '_')}={value}")
    return overrides


def _is_option(argument: str) -> bool:
    return argument.startswith("--") or re.match(r"[A-Za-z_][\w.]*=", argument) is not None
