"""Checks that every configuration of this package makes, with errors that name the field and what it may be."""

import difflib
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import fields
from typing import Any

from transformers import PreTrainedConfig
from transformers.utils import logging


logger = logging.get_logger(__name__)

# Whether a configuration is being read from a file.
_FROM_FILE: ContextVar[bool] = ContextVar("from_file", default=False)
# What transformers itself passes through the keyword arguments of a configuration.
_TRANSFORMERS_KEYS = frozenset(
    "attn_implementation auto_map experts_implementation gradient_checkpointing name_or_path num_labels "
    "output_attentions per_layer_config quantization_config tie_word_embeddings torch_dtype use_cache "
    "use_return_dict custom_pipelines task_specific_params model_type base_model_tp_plan tokenizer_class".split()
)


def _nearest(name: str, valid: Iterable[str]) -> str:
    return difflib.get_close_matches(name, list(valid), n=1, cutoff=0.0)[0]


def one_of(owner: str, field: str, value: Any, valid: Iterable) -> None:
    if value not in valid:
        raise ValueError(f"{owner}: `{field}` is {value!r}; it must be one of {', '.join(map(repr, valid))}.")


def in_range(owner: str, field: str, value: float, low: float, high: float = float("inf")) -> None:
    if not low <= value <= high:
        limits = f"at least {low}" if high == float("inf") else f"in [{low}, {high}]"
        raise ValueError(f"{owner}: `{field}` is {value}; it must be {limits}.")


def below_one(owner: str, field: str, value: float) -> None:
    """Check a dropout rate: at 1 nothing would be left to scale up."""
    if not 0 <= value < 1:
        raise ValueError(f"{owner}: `{field}` is {value}; it must be at least 0 and below 1.")


class CheckedConfig(PreTrainedConfig):
    """Configuration that validates its fields and suggests the nearest field for an unknown key.

    A file may hold keys that are no fields, such as attributes that a program added before it was saved: they become
    attributes again, with a warning.
    """

    def __post_init__(self, **kwargs: Any) -> None:
        for key in [key for key in kwargs if not key.startswith("_") and key not in _TRANSFORMERS_KEYS]:
            self._refuse(key)
        super().__post_init__(**kwargs)
        self.check()

    @classmethod
    def own_fields(cls) -> set[str]:
        """Return the names of the fields that this class adds to those of transformers."""
        names = {field.name for field in fields(cls)} - {field.name for field in fields(PreTrainedConfig)}
        return {name for name in names if not name.startswith("_")}

    def _refuse(self, key: str) -> None:
        name, known = type(self).__name__, self.own_fields()
        if _FROM_FILE.get():
            logger.warning(f"{name} has no field `{key}`, which its file holds: it is kept and not used.")
            return
        for part, spec in self.sub_configs.items():
            if issubclass(spec, CheckedConfig) and key in spec.own_fields() - known:
                raise ValueError(f"{name} has no field `{key}`: it belongs to a modality, such as `{part}`.")
        nearest = _nearest(key, known)
        if difflib.SequenceMatcher(None, key, nearest).ratio() >= 0.6:
            raise ValueError(f"{name} has no field `{key}`; did you mean `{nearest}`?")
        # A key unlike any field may come from a later release of transformers.
        logger.warning(f"{name} has no field `{key}` (the nearest one is `{nearest}`): it is not used.")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Make a configuration as in transformers; overrides are checked like the fields they replace."""
        values = dict(config_dict)
        for key in cls.own_fields() & kwargs.keys():
            old, new = values.get(key), kwargs.pop(key)
            values[key] = {**old, **new} if isinstance(old, dict) and isinstance(new, dict) else new
        token = _FROM_FILE.set(True)
        try:
            return super().from_dict(values, **kwargs)
        finally:
            _FROM_FILE.reset(token)

    def validate_settings(self) -> None:
        """Check the configuration again when it is saved, as fields may have been changed."""
        self.check()

    def check(self) -> None:
        """Raise `ValueError` for the first invalid setting."""
