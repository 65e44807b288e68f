"""Arguments that all fine-tuning programs share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers import (
    TrainingArguments,
)


@dataclass
class ModelArguments:
    """Which model to start from."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Checkpoint to start from: a folder or a name on the Hub."}
    )
    config_name: str | None = field(
        default=None, metadata={"help": "Configuration, where it is not the checkpoint's: folder, Hub name or preset."}
    )
    tokenizer_name: str | None = field(default=None, metadata={"help": "Tokenizer, where it is not the checkpoint's."})
    processor_name: str | None = field(
        default=None, metadata={"help": "Feature extractor or image processor, where it is not the checkpoint's."}
    )
    from_scratch: bool = field(
        default=False, metadata={"help": "Random weights instead of the checkpoint's: the baseline of a comparison."}
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads are kept."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit on the Hub."})
    token: str | None = field(default=None, metadata={"help": "Access token of the Hub; default is the stored one."})
    trust_remote_code: bool = field(
        default=False,
        metadata={"help": "Run the code that lies beside a checkpoint instead of the installed package."},
    )
    ignore_mismatched_sizes: bool = field(
        default=False, metadata={"help": "Load a fine-tuned checkpoint whose head has another number of classes."}
    )

    def __post_init__(self) -> None:
        if self.model_name_or_path is None and (self.config_name is None or not self.from_scratch):
            raise ValueError(
                "Name the checkpoint to start from with --model_name_or_path, or a configuration with --config_name "
                "and --from_scratch for random weights."
            )

    @property
    def hub_options(self) -> dict[str, Any]:
        """Arguments that every `from_pretrained` of this run takes."""
        return {
            "cache_dir": self.cache_dir,
            "revision": self.model_revision,
            "token": self.token,
            "trust_remote_code": self.trust_remote_code,
        }

    @property
    def finetuned_from(self) -> str | None:
        """Checkpoint that gives the weights; None for random ones."""
        return None if self.from_scratch else self.model_name_or_path


@dataclass
class FinetuningArguments(TrainingArguments):
    """`TrainingArguments` and what fine-tuning data2vec takes beside them."""

    output_dir: str | None = field(default=None, metadata={"help": "Folder of the run."})
    # A loss that is no number shall be seen, not averaged away.
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Keep such losses out of the log."})
    layer_decay: float = field(
        default=1.0, metadata={"help": "Factor of the learning rate from each layer to the one below; 1 = off."}
    )
    freeze_encoder_steps: int = field(default=0, metadata={"help": "Updates at the start that train the head alone."})
    tri_stage: str | None = field(
        default=None,
        metadata={
            "help": "Shares of the run for warm-up, hold and decay, such as 0.1,0.4,0.5; replaces the scheduler."
        },
    )
    weights_ema_decay: float | None = field(
        default=None, metadata={"help": "Evaluate and keep a moving average of the weights with this decay."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many evaluations without improvement."}
    )
    early_stopping_threshold: float = field(default=0.0, metadata={"help": "Least change that is an improvement."})
    max_bad_fraction: float = field(
        default=0.05, metadata={"help": "Stop when more than this share of the samples is broken."}
    )

    def __post_init__(self) -> None:
        if not self.output_dir:
            raise ValueError("Name the folder of the run with --output_dir.")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"--layer_decay is {self.layer_decay}; it must be above 0 and at most 1.")
        if self.weights_ema_decay is not None and not 0 < self.weights_ema_decay < 1:
            raise ValueError(f"--weights_ema_decay is {self.weights_ema_decay}; it must be between 0 and 1.")
        self.tri_stage_phases = self._phases()
        if self.ddp_find_unused_parameters is None:
            # Every parameter takes part in every step, also of blocks that are left out. Only while the encoder is
            # frozen do some get no gradient, and several processes must not wait for one.
            self.ddp_find_unused_parameters = self.freeze_encoder_steps > 0
        if self.early_stopping_patience is not None:
            if "no" in (self.eval_strategy, self.save_strategy):
                raise ValueError(
                    "--early_stopping_patience needs --eval_strategy and --save_strategy: both epoch, or both steps."
                )
            self.load_best_model_at_end = True
        super().__post_init__()
        # Without an accelerator there is nothing to pin for, and torch says so at every epoch.
        self.dataloader_pin_memory = self.dataloader_pin_memory and self.device.type != "cpu"

    def _phases(self) -> tuple[float, float, float] | None:
        if self.tri_stage is None or self.tri_stage.lower() in ("", "none"):
            self.tri_stage = None
            return None
        try:
            phases = tuple(float(share) for share in self.tri_stage.split(","))
        except ValueError:
            phases = ()
        if len(phases) != 3 or min(phases) < 0 or abs(sum(phases) - 1) > 1e-6:
            raise ValueError(
                f"--tri_stage is {self.tri_stage!r}; it takes three shares that sum to 1, as 0.1,0.4,0.5."
            )
        return phases
