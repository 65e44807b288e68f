"""Options from YAML files and `key=value` overrides.

An unknown key, in the file or on the command line, is an error that names the nearest valid one, down to the fields of
the model's configuration.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from d2v_train.options.documentation import backbone_options
from d2v_train.options.documentation import options as documented_options
from d2v_train.options.errors import OptionError
from d2v_train.options.fields import field_types
from d2v_train.options.names import nearest_name
from d2v_train.options.run import Options
from d2v_train.support.atomic import write_text
from modeling_d2v.configuration_modalities import MODALITIES


logger = logging.getLogger(__name__)

CONFIG_FOLDER = Path(__file__).resolve().parents[1] / "configs"
RUN_FILE = "run.yaml"
"""File in the folder of a run with its resolved options."""
# Sections whose options former versions kept at the top level, with their names there.
_FORMER = {
    "checkpoints": {"every": "checkpoint_every", "minutes": "checkpoint_minutes", "keep_last": "keep_last",
                    "keep_every": "keep_every"},
    "logging": {"every": "log_every", "pictures_every": "pictures_every", "report_to": "report_to",
                "project": "project", "run_name": "run_name"},
    "health": {name: name for name in ("max_bad_steps", "max_skipped_share", "non_finite", "max_bad_fraction",
                                       "collapse", "patience", "min_target_std", "min_prediction_std",
                                       "std_check_from")},
    "hub": {"push": "push_to_hub", "model_id": "hub_model_id"},
}  # fmt: skip


class _Loader(yaml.SafeLoader):
    """A YAML loader that reads 1e-3 as a number; YAML 1.1 reads a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$|^[-+]?(\d[\d_]*)?\.\d+([eE][-+]?\d+)?$|^[-+]?\d[\d_]*\.$"),
    list("-+.0123456789"),
)


def load_options(config: str | Path, overrides: list[str] = ()) -> Options:
    """Read a YAML file, apply overrides and check everything.

    Args:
        config: Path of a YAML file (such as the `run.yaml` of a run), or the name of one in
            `recipes/d2v_train/configs` ("tiny_joint").
        overrides: `key=value` strings; dots in the key lead into sections, the value is read as YAML.

    Raises:
        OptionError: If a file, key or value is not valid.
    """
    path = find_config(config)
    tree = read_run_options(path) if path.name == RUN_FILE else read_yaml(path)
    if path.parent == CONFIG_FOLDER and not set(MODALITIES) & set(tree):
        raise OptionError(f"{path.stem} is a configuration of fine-tuning. {_configurations_of_pretraining()}")
    given = {key.strip(): value.strip() for key, _, value in (override.partition("=") for override in overrides)}
    if given.get("model.preset", "null") not in ("null", "~", "") and "model" not in given:
        tree["model"] = _fields_beside_preset(tree.get("model"), path)
    for override in overrides:
        _apply(tree, override)
    return build_options(tree)


def _fields_beside_preset(model: Any, path: Path) -> Any:
    """Return what stays of a file's `model` section beside a preset of the command line, and say it.

    Without a preset of its own the section describes a whole model, which the other one replaces. With one, it holds
    changes to a published model, such as the decay of the teacher for a smaller batch, which stay.
    """
    fields = (
        list(flatten({key: value for key, value in model.items() if key != "preset"}))
        if isinstance(model, dict)
        else []
    )
    if not fields:
        return model
    names = ", ".join(fields)
    if model.get("preset") is None:
        logger.warning("model.preset replaces the model of %s (%s).", path.name, names)
        return None
    logger.warning("Fields of %s go on top of model.preset: %s. `model=null` before it drops them.", path.name, names)
    return model


def find_config(name: str | Path) -> Path:
    """Return the path of a configuration file given by path or by name, with or without suffix.

    Raises:
        OptionError: If there is none.
    """
    for path in (Path(name), Path(f"{name}.yaml"), CONFIG_FOLDER / name, CONFIG_FOLDER / f"{name}.yaml"):
        if path.is_file():
            return path
    if "=" in str(name) or str(name).startswith("--"):
        raise OptionError(
            f"The first argument is {str(name)!r}, an option. Name the configuration before all options."
        )
    nearest = difflib.get_close_matches(Path(name).stem, [path.stem for path in pretraining_configs()], n=1)
    hint = f"The nearest name is {nearest[0]!r}. " if nearest else ""
    raise OptionError(f"There is no configuration {str(name)!r}. {hint}{_configurations_of_pretraining()}")


def _configurations_of_pretraining() -> str:
    return (
        f"Give the path of a YAML file or one of the names {', '.join(path.stem for path in pretraining_configs())}."
    )


def pretraining_configs() -> list[Path]:
    """Return the pretraining configurations in `recipes/d2v_train/configs`, which also has those of fine-tuning."""
    return [path for path in sorted(CONFIG_FOLDER.glob("*.yaml")) if set(MODALITIES) & set(read_yaml(path))]


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file whose top level is a mapping.

    Raises:
        OptionError: If the file cannot be read, is not UTF-8 or YAML, or is not a mapping.
    """
    try:
        tree = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except UnicodeDecodeError as error:
        raise OptionError(f"{path} is not UTF-8: {error}. Save it in UTF-8.") from error
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise OptionError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise OptionError(f"{path} contains no options. Its top level must be `key: value` lines.")
    return tree


def read_run_options(path: Path) -> dict[str, Any]:
    """Return the options saved in the folder of a run, those of former versions moved into their sections.

    Raises:
        OptionError: See `read_yaml`.
    """
    tree = read_yaml(path)
    for section, names in _FORMER.items():
        former = {name: tree.pop(old) for name, old in names.items() if old in tree}
        if former:
            tree[section] = former | (tree.get(section) or {})
    # Former versions read the built-in data where no other was named.
    data = tree.get("data") or {}
    tree["data"] = data | {name: "builtin" for name in MODALITIES if tree.get(name) and data.get(name) is None}
    return tree


def build_options(tree: dict[str, Any]) -> Options:
    """Return the options of a nested dictionary, after checking every key and type."""
    known = _known_names(tree)
    options = build_section(Options, tree, "", known)
    for name in MODALITIES:
        # A section that is null was left out on purpose.
        if name not in tree and getattr(options.data, name) is not None:
            raise OptionError(
                f"data.{name} is given, but the run has no {name}: it trains {', '.join(options.modalities)}. Take a "
                f"configuration for {name}, or add a section {name}."
            )
    check = _check_model if options.backbone is None else _check_backbone
    check(options.model, known)
    return options


def _known_names(tree: dict[str, Any]) -> dict[str, str]:
    """Return the options that an unknown key of the tree may mean, with their documentation."""
    found = documented_options()
    if tree.get("backbone") is not None:
        found = [*(option for option in found if not option.name.startswith("model.")), *backbone_options()]
    left_out = {name for name in MODALITIES if name not in tree}
    return {option.name: option.doc for option in found
            if not left_out & set(option.name.replace("_config", "").split("."))}  # fmt: skip


def save_options(options: Options, path: Path) -> None:
    """Write the resolved options as YAML.

    Raises:
        WriteError: If they cannot be written.
    """
    write_text(path, yaml.safe_dump(dataclasses.asdict(options), sort_keys=False))


def _apply(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise OptionError(f"The argument {override!r} is not an option. Write key=value, for example optim.lr=1e-3.")
    if not text.strip():
        # YAML would read null: an unset variable of the shell would silently change the run.
        raise OptionError(f"{override} has no value. Write it after the sign, or {key.strip()}=null for none.")
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


def _unknown(name: str, known: Mapping[str, str]) -> OptionError:
    return OptionError(f"Unknown option {name!r}. The nearest valid key is {nearest_name(name, known)!r}.")


def build_section(section: type, tree: Any, prefix: str, known: Mapping[str, str] | None = None) -> Any:
    """Return a dataclass built from a mapping, after checking every key and type.

    Args:
        section: The dataclass.
        tree: The mapping.
        prefix: Dotted name of the section with a trailing dot, for messages.
        known: Documentation of the options that an unknown key may mean, by dotted name; default: the fields of the
            dataclass.

    Raises:
        OptionError: If a key is unknown, or a value is of another type.
    """
    if not isinstance(tree, dict):
        raise OptionError(f"{prefix.rstrip('.')} is {tree!r}. It is a section: give its options as key: value lines.")
    kinds = field_types(section)
    for key in tree:
        if key not in kinds:
            raise _unknown(f"{prefix}{key}", known or {prefix + name: "" for name in kinds})
    return section(**{key: _coerce(value, kinds[key], prefix + key, known) for key, value in tree.items()})


def _coerce(value: Any, hint: Any, key: str, known: Mapping[str, str] | None) -> Any:
    """Return a value converted to the type of its field.

    Only lossless conversions are made: 3 -> 3.0, an empty section -> its defaults.
    """
    variants = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in variants:
        return None
    kinds = [variant for variant in variants if variant is not type(None)]
    wanted = next((kind for kind in kinds if isinstance(value, typing.get_origin(kind) or kind)), kinds[0])
    if dataclasses.is_dataclass(wanted):
        return build_section(wanted, {} if value is None else value, key + ".", known)
    origin = typing.get_origin(wanted) or wanted
    if origin is dict and value is None:
        return {}
    if origin is list:
        (item,) = typing.get_args(wanted)
        values = value if isinstance(value, list) else [value]
        return [_coerce(entry, item, key, known) for entry in values if value is not None]
    if origin is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is str and isinstance(value, bool | int | float):
        # YAML reads `mixed_precision: no` as false.
        return {False: "no", True: "yes"}[value] if isinstance(value, bool) else str(value)
    if not isinstance(value, origin) or (origin is int and isinstance(value, bool)):
        raise OptionError(f"{key} is {value!r}, which is not {_article(origin.__name__)}.")
    return value


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _check_model(model: dict[str, Any], known: Mapping[str, str]) -> None:
    """Check the keys of the model section against the configuration classes."""
    from modeling_d2v.configuration_data2vec import MODALITY_CONFIGS, Data2VecConfig

    def names(section: type) -> list[str]:
        return [entry.name for entry in dataclasses.fields(section) if not entry.name.startswith("_")]

    nested = {f"{name}_config": names(config) for name, config in MODALITY_CONFIGS.items()}
    valid = [*names(Data2VecConfig), "preset"]
    for key, value in model.items():
        if key not in valid:
            raise _unknown(f"model.{key}", known)
        for name in value if key in nested and isinstance(value, dict) else ():
            if name not in nested[key]:
                raise _unknown(f"model.{key}.{name}", known)


def _check_backbone(model: dict[str, Any], known: Mapping[str, str]) -> None:
    """Check the keys of the model section against the objective over an encoder of transformers."""
    from modeling_d2v.backbone_configuration import BackbonePreTrainingConfig
    from modeling_d2v.configuration_data2vec import Data2VecConfig

    valid = BackbonePreTrainingConfig.own_fields()
    for key in model:
        if key not in valid and key in Data2VecConfig.own_fields():
            raise OptionError(
                f"model.{key} belongs to models of this package; with `backbone` the encoder decides its own parts. "
                "Leave it out, or drop the whole section of a configuration file with model=null."
            )
        if key not in valid:
            raise _unknown(f"model.{key}", known)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a nested dictionary by dotted name."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def as_overrides(arguments: list[str]) -> list[str]:
    """Return arguments as `key=value` strings.

    `--key` takes the next argument as its value, unless that is an option itself (`--other`, `other=value`) or
    missing: then a switch is true. Hyphens in a name become underscores.

    Raises:
        OptionError: If an option has no name, or has no value and is not a switch.
    """
    overrides, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--"):
            overrides.append(argument)
            continue
        key, separator, value = argument[2:].partition("=")
        if not key:
            raise OptionError(f"The argument {argument!r} does not name an option. Write for example optim.lr=1e-3.")
        key = key.replace("-", "_")
        if not separator and rest and not _is_option(rest[0]):
            value = rest.pop(0)
        elif not separator:
            # Any other option would take the word "true" for a folder, a name or a number.
            if {option.name: option.type for option in documented_options()}.get(key, "bool") != "bool":
                raise OptionError(f"--{key} has no value. Write it behind the option, or {key}=null for none.")
            value = "true"
        overrides.append(f"{key}={value}")
    return overrides


def _is_option(argument: str) -> bool:
    return argument.startswith("--") or re.match(r"[A-Za-z_][\w.]*=", argument) is not None
