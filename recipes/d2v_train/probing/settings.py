"""Settings of a probe, apart from what measures it, so that `d2v probe --help` need not wait for PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from d2v_train.options.errors import at_least, choice
from d2v_train.options.sections import ProbeDataOptions
from d2v_train.options.source import constant


DEFAULT_NEIGHBOURS = 20
DEFAULT_FEW = 10
DEFAULT_SEEDS = (0, 1, 2, 3, 4)
POOLING = ("mean", "first")


@dataclass(kw_only=True)
class ProbeSettings(ProbeDataOptions):
    """Model, data and settings of a probe.

    Raises:
        OptionError: If a value is out of range.
    """

    model: str = field(metadata={"positional": True})
    """Folder or Hub name of a data2vec checkpoint (encoder, pretraining model or head), or of an encoder of
    transformers with its processor."""
    modality: str = field(metadata={"choices": constant("modeling_d2v.modalities", "MODALITIES")})
    """Modality of the samples."""
    data: str | None = None
    """Folder, file or Hub name; without one the built-in data."""
    test_split: str | None = None
    """Split that the probes are measured on; without one `test` or a split that stands for it, or else a held-out
    fifth of the training split."""
    layer: int | None = field(default=None, metadata={"word": "last"})
    """N for `hidden_states[N]`, or `last` for the pooled output."""
    pooling: str = field(default="mean", metadata={"choices": POOLING})
    """Mean of the tokens, or the first extra token."""
    few: int = DEFAULT_FEW
    """Labels per class of the few-label probe."""
    neighbours: int = DEFAULT_NEIGHBOURS
    """k of the kNN probe."""
    seeds: list[int] = field(default_factory=lambda: list(DEFAULT_SEEDS))
    """Draws of the few-label probe."""
    random_seed: int = 0
    """Seed of the random weights, and of the held-out part of the linear probe."""
    batch_size: int | None = None
    """Samples per forward pass; the default depends on the modality."""
    max_samples: int | None = None
    """Maximum number of samples of either part, drawn at random once."""
    device: str | None = None
    """Device, for example cpu or cuda:1; without one a GPU if there is one."""
    transform: dict[str, Any] = field(default_factory=dict)
    """Options of `build_transform`, such as `max_seconds`."""
    simple: bool = True
    """Measure simple features (pixels, MFCC or TF-IDF) beside the encoder."""

    def __post_init__(self):
        choice("pooling", self.pooling, POOLING)
        for name in ("batch_size", "max_samples", "few", "neighbours"):
            at_least(name, getattr(self, name), 1)
