"""Settings of the reference implementation (fairseq) translated into a `Data2VecConfig`.

The checkpoints of the reference hold their model settings as a nested dictionary (`cfg["model"]`). Every entry is
either mapped to a field, checked against the only value that this package supports, or listed as having no influence
on the computation. Any other entry is listed too if it is switched off (0, false, empty), and is an error otherwise,
so that no setting is lost silently.

This file holds the reader and what both versions share; `settings_v1.py` and `settings_v2.py` hold the translations,
and `layouts.config_from_fairseq` calls them.
"""

import ast
from collections.abc import Mapping
from typing import Any


SCHEDULE = "belongs to the training program, not to the model"
MONITORING = "threshold of the collapse check of the training program"


class Settings:
    """Reader of a dictionary of settings that records which entries were read.

    Args:
        values: The settings.
        where: Name of this dictionary in messages.
        notes: Receives one line for each entry that is left out on purpose.
    """

    def __init__(self, values: Mapping[str, Any], where: str, notes: list[str]):
        if not isinstance(values, Mapping):
            raise TypeError(f"{where} should be a dictionary of settings, but is a {type(values).__name__}.")
        self.values, self.where, self.notes = values, where, notes
        self.seen = {"_name"}

    def get(self, name: str, default: Any = None) -> Any:
        """Return an entry, or the default of the reference where the checkpoint is older than the entry."""
        self.seen.add(name)
        return self.values.get(name, default)

    def section(self, name: str) -> "Settings":
        """Return a nested dictionary of settings."""
        self.seen.add(name)
        if name not in self.values:
            raise ValueError(f"{self.where} has no section {name!r}. It has: {sorted(self.values)}.")
        return Settings(self.values[name], f"{self.where}.{name}", self.notes)

    def require(self, reason: str, **allowed: Any) -> None:
        """Raise `ValueError` for an entry with another value than the only one that can be converted."""
        for name, value in allowed.items():
            if self.get(name, value) != value:
                raise ValueError(
                    f"{self.where}.{name} is {self.values[name]!r}, but only {value!r} can be converted: {reason}."
                )

    def ignore(self, reason: str, *names: str) -> None:
        """Note entries that have no influence on what the converted model computes."""
        for name in names:
            self.seen.add(name)
            if name in self.values:
                self.notes.append(f"{self.where}.{name}={self.values[name]!r}: {reason}")

    def finish(self) -> None:
        """Raise `ValueError` if an entry was neither mapped nor listed."""
        unknown = sorted(set(self.values) - self.seen)
        self.ignore("unknown here, and switched off", *(name for name in unknown if not self.values[name]))
        unknown = [name for name in unknown if name not in self.seen]
        if unknown:
            raise ValueError(
                f"{self.where} has unknown settings: {unknown}. Converting without them"
                " could give a model that computes something else. If they have no influence on the model, leave"
                " them out (`ignore_settings`)."
            )


def text_ids(vocab_size: int | None) -> dict[str, int]:
    """Return special token ids in the dictionaries of the reference: <s>, <pad>, </s> first, <mask> last."""
    if vocab_size is None:
        raise ValueError(
            "A text model needs `vocab_size`, the number of rows of its token embedding: the settings do not hold it."
        )
    return {
        "vocab_size": vocab_size,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "mask_token_id": vocab_size - 1,
    }


def conv_layers(spec: str) -> dict[str, list[int]]:
    """Read "[(512, 10, 5)] + [(512, 3, 2)] * 4": (channels, kernel, stride) of each convolution."""

    def value(node: ast.AST) -> Any:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return value(node.left) + value(node.right)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            return value(node.left) * value(node.right)
        return ast.literal_eval(node)

    try:
        layers = value(ast.parse(spec.strip(), mode="eval").body)
        channels, kernels, strides = (list(column) for column in zip(*layers, strict=True))
    except (ValueError, TypeError, SyntaxError) as error:
        raise ValueError(
            f"Cannot read the convolutions {spec!r}: expected a sum of lists of (channels, kernel, stride)."
        ) from error
    return {"conv_dim": channels, "conv_kernel": kernels, "conv_stride": strides}


def _one_of(settings: Settings, **names: str) -> str | None:
    """Return the norm whose flag is set; keyword = name of the flag, value = name of the norm."""
    chosen = [norm for flag, norm in names.items() if settings.get(flag, False)]
    if len(chosen) > 1:
        raise ValueError(f"{settings.where} asks for {' and '.join(chosen)} norm at the same place of the targets.")
    return chosen[0] if chosen else None


def target_fields(settings: Settings) -> dict[str, Any]:
    """Return target and loss fields, which have the same names in all versions of the reference."""
    return {
        "average_top_k_layers": settings.get("average_top_k_layers", 8),
        "end_of_block_targets": settings.get("end_of_block_targets", False),
        "layer_target_norm": _one_of(
            settings,
            layer_norm_target_layer="layer",
            batch_norm_target_layer="batch",
            instance_norm_target_layer="instance",
        ),
        "mean_target_norm": _one_of(settings, layer_norm_targets="layer", instance_norm_targets="instance"),
        "loss_beta": settings.get("loss_beta", 0.0),
        "loss_scale": settings.get("loss_scale", None),
    }


def teacher_schedule(settings: Settings) -> dict[str, Any]:
    """Return the decay of the teacher, which by default rises over the whole run."""
    return {
        "ema_decay": settings.get("ema_decay", 0.999),
        "ema_end_decay": settings.get("ema_end_decay", 0.9999),
        "ema_anneal_end_step": settings.get("ema_anneal_end_step", settings.values.get("max_update", 100_000)),
    }
