"""Settings of the reference implementation (fairseq) translated into a `Data2VecConfig`.

The checkpoints of the reference hold their model settings as a nested dictionary (`cfg["model"]`). Every entry is
either mapped to a field, checked against the only value that this package supports, or listed as having no influence
on the computation. Any other entry is listed too if it is switched off (0, false, empty), and is an error otherwise,
so that no setting is lost silently.

This file holds the reader and what both versions share; `settings_v1.py` and `settings_v2.py` hold the translations,
and `layouts.config_from_fairseq` calls them.
"""

import ast
from collections.abc import Mapping, Sequence
from typing import Any


SCHEDULE = "belongs to the training program, not to the model"
MONITORING = "threshold of the collapse check of the training program"


class Settings:
    """Reader of a dictionary of settings that records which entries were read.

    Args:
        values: The settings.
        where: Name of this dictionary in messages.
        notes: Receives one line for each entry that is left out on purpose.
        shapes: Shapes of the checkpoint's tensors by name, those of the teacher after "_ema."; empty if unknown.
        encoder_only: Whether teacher and decoder are left out: what concerns pretraining alone does not matter then.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        where: str,
        notes: list[str],
        shapes: Mapping[str, Sequence[int]] | None = None,
        encoder_only: bool = False,
    ):
        if not isinstance(values, Mapping):
            raise TypeError(f"{where} should be a dictionary of settings, but is a {type(values).__name__}.")
        self.values, self.where, self.notes, self.shapes = values, where, notes, shapes or {}
        self.encoder_only = encoder_only
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
        return Settings(self.values[name], f"{self.where}.{name}", self.notes, self.shapes, self.encoder_only)

    def number(self, name: str, default: float) -> float:
        """Return a number; the default, with a note, where the file has a reference that leads nowhere."""
        value = self.get(name, default)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
        self.notes.append(f"{name}={value!r}: not a number, {default} is assumed")
        return default

    def measured(self, name: str, default: Any, found: Any) -> Any:
        """Return what the tensors say of an entry, with a note where it is not what the settings say.

        Args:
            name: Name of the entry.
            default: The default of the reference.
            found: Its value according to the shapes of the tensors; `None` if they do not tell.
        """
        value = self.get(name, default)
        if found is None or found == value:
            return value
        self.notes.append(f"{name}={value!r}: the tensors have {found!r}, which is used")
        return found

    def without(self, what: str, **neutral: Any) -> None:
        """Note entries that concern further pretraining alone and have another value than the neutral one."""
        for name, value in neutral.items():
            if self.get(name, value) not in (value, None):
                self.notes.append(f"{name}={self.values[name]!r}: without effect on further pretraining here, {what}")

    def measured_product(self, name: str, default: float, unit: int, found: int | None) -> int:
        """Return a size that the settings give as a ratio to `unit`, or what the tensors say of it, with a note."""
        size = int(unit * self.get(name, default))
        if found is None or found == size:
            return size
        self.notes.append(f"{name} gives {size}, but the tensors have {found} channels there, which is believed.")
        return found

    def for_pretraining(self, missing: str, **allowed: Any) -> None:
        """Raise `ValueError` for an entry without a counterpart in pretraining here; note it for an encoder alone."""
        for name, value in allowed.items():
            if self.get(name, value) in (value, None):
                continue
            self.refuse_pretraining(name, missing)

    def refuse_pretraining(self, name: str, missing: str) -> None:
        """Raise `ValueError` for an entry without which pretraining cannot go on; note it for an encoder alone."""
        if not self.encoder_only:
            raise ValueError(
                f"{self.where}.{name} is {self.values[name]!r}: {missing}. The encoder alone can be converted "
                "(`encoder_only`)."
            )
        self.notes.append(f"{self.where}.{name}={self.values[name]!r}: concerns pretraining alone")

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


def chosen_norms(settings: Settings, **names: str) -> str | list[str] | None:
    """Return the norms whose flags are set, in order; keyword = name of the flag, value = name of the norm."""
    chosen = [norm for flag, norm in names.items() if settings.get(flag, False)]
    return chosen if len(chosen) > 1 else chosen[0] if chosen else None


def target_fields(settings: Settings) -> dict[str, Any]:
    """Return target and loss fields, which have the same names in all versions of the reference."""
    return {
        "average_top_k_layers": settings.get("average_top_k_layers", 8),
        "end_of_block_targets": settings.get("end_of_block_targets", False),
        # The order in which the reference applies them.
        "layer_target_norm": chosen_norms(
            settings,
            batch_norm_target_layer="batch",
            instance_norm_target_layer="instance",
            layer_norm_target_layer="layer",
        ),
        "mean_target_norm": chosen_norms(settings, layer_norm_targets="layer", instance_norm_targets="instance"),
        "loss_beta": settings.get("loss_beta", 0.0),
        "loss_scale": settings.get("loss_scale", None),
    }


def teacher_schedule(settings: Settings) -> dict[str, Any]:
    """Return the decay of the teacher, which by default rises over the whole run."""
    updates = settings.values.get("max_update")
    updates = updates if isinstance(updates, int) else 100_000
    return {
        "ema_decay": settings.get("ema_decay", 0.999),
        "ema_end_decay": settings.get("ema_end_decay", 0.9999),
        "ema_anneal_end_step": int(settings.number("ema_anneal_end_step", updates)),
    }
