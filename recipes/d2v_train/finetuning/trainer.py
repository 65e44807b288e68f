"""`Trainer` with features for fine-tuning data2vec.

Layer-wise learning rate decay, the three-stage schedule of speech recognition, an encoder that is frozen at first,
averaged weights, early stopping that is exact over a restart, and checks of samples and losses.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import ProcessorMixin, TrainerCallback, TrainerState

from d2v_train.data.records import RawDataset
from d2v_train.finetuning.callbacks import (
    EarlyStopping,
    FreezeEncoder,
    SetEpoch,
    UpdateAverage,
    WeightsAverage,
    check_bad_samples,
    check_finite,
    tri_stage,
)
from d2v_train.finetuning.checkpoints import CheckpointingTrainer
from d2v_train.finetuning.plain_models import plain_layer_scale
from d2v_train.finetuning.resume import STATE_FILE
from d2v_train.models.optim import has_weight_decay, layer_scale
from d2v_train.publishing.finetuned_card import finetuned_card
from d2v_train.publishing.run_card import inherited_license
from d2v_train.support.atomic import write_text
from modeling_d2v import Data2VecConfig
from modeling_d2v.model_card import CARD, choose_license


class Watch(TrainerCallback):
    """Stop a run with gradients that are not finite or with too many broken samples."""

    def __init__(self, trainer: FinetuningTrainer) -> None:
        self.trainer = trainer

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        # Under fp16 infinite gradients are expected; the scaler skips those steps.
        if not args.fp16 and "grad_norm" in (logs or {}):
            check_finite("gradient norm", logs["grad_norm"], state.global_step)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        check_bad_samples(self.trainer.raw_datasets, args.max_bad_fraction)


class FinetuningTrainer(CheckpointingTrainer):
    """`Trainer` for a data2vec model with a head; `args` are `FinetuningArguments`.

    Args:
        args, kwargs: Arguments of `Trainer`.
        processor: Processor to save with the model. As `processing_class`, `Trainer` would write the special ids of
            its tokenizer into the configuration, which has no such fields for speech.
        raw_datasets: Data sets whose broken samples are counted, by name.
        card: Further contents of the model card: arguments of `finetuned_card`.

    Attributes:
        results: Metrics so far, for the card.

    Raises:
        ValueError: If averaged weights are combined with FSDP or DeepSpeed, which shard the weights.
    """

    def __init__(
        self,
        *args: Any,
        processor: ProcessorMixin | None = None,
        raw_datasets: dict[str, RawDataset] | None = None,
        card: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.processor = processor
        self.raw_datasets, self.card = raw_datasets or {}, card or {}
        self.results: dict[str, float] = {}
        self.add_callback(Watch(self))
        if hasattr(self.train_dataset, "set_epoch"):
            self.add_callback(SetEpoch(self.train_dataset))
        if self.args.early_stopping_patience is not None:
            self.add_callback(EarlyStopping(self.args.early_stopping_patience, self.args.early_stopping_threshold))
        if self.args.freeze_encoder_steps:
            self.add_callback(FreezeEncoder(self.model.base_model, self.args.freeze_encoder_steps))
        self.average: WeightsAverage | None = None
        if self.args.weights_ema_decay is not None:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise ValueError("--weights_ema_decay does not work with the sharded weights of FSDP or DeepSpeed.")
            self._move_model_to_device(self.model, self.args.device)
            self.average = WeightsAverage(self.model, self.args.weights_ema_decay)
            self.add_callback(UpdateAverage(self.average))

    def check_license(self) -> None:
        """Check before the training that the model may be uploaded after it.

        Raises:
            ValueError: If its licence is unknown, or that of the checkpoint does not allow the chosen one.
        """
        try:
            choose_license(self.args.hub_license, inherited_license(self.card.get("finetuned_from")))
        except ValueError as error:
            raise ValueError(
                f"--push_to_hub needs a licence. {error}".replace("`license`", "--hub_license")
            ) from error

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return the names of the parameters with weight decay, the same ones as in pretraining."""
        return [name for name, parameter in model.named_parameters() if has_weight_decay(name, parameter)]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create the optimizer with learning rates scaled by layer with `layer_decay`."""
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if fresh and self.args.layer_decay < 1:
            self._lower_by_layer(optimizer, self.model if model is None else model)
        return optimizer

    def _lower_by_layer(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        decay, own = self.args.layer_decay, isinstance(self.model.config, Data2VecConfig)
        scales = {
            id(p): layer_scale(name, self.model.config, decay) if own else plain_layer_scale(name, self.model, decay)
            for name, p in model.named_parameters()
        }
        groups = []
        for group in optimizer.param_groups:
            by_scale: dict[float, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                by_scale.setdefault(scales[id(parameter)], []).append(parameter)
            groups += [{**group, "params": params, "lr": group["lr"] * scale} for scale, params in by_scale.items()]
        # The log shows the rate of the first group: that of the head.
        optimizer.param_groups[:] = sorted(groups, key=lambda group: -group["lr"])

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Create the schedule of `Trainer` or the three-stage schedule."""
        if self.lr_scheduler is None and self.args.tri_stage_phases is not None:
            phases = self.args.tri_stage_phases
            self.lr_scheduler = LambdaLR(
                self.optimizer if optimizer is None else optimizer,
                lambda step: tri_stage(step, num_training_steps, phases),
            )
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Run a training step; a loss that is not finite stops the run before the weights change."""
        loss = super().training_step(*args, **kwargs)
        check_finite("loss", loss, self.state.global_step)
        return loss

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate with the averaged weights, if there are any."""
        with self.average.in_place() if self.average else contextlib.nullcontext():
            return super().evaluation_loop(*args, **kwargs)

    def keep_average(self) -> None:
        """Copy the averaged weights, if there are any, into the model after training."""
        if self.average:
            self.average.keep()

    def load_finished(self) -> None:
        """Load the weights of a finished run; they already are the average, if there is one."""
        self._load_from_checkpoint(self.args.output_dir)
        self.state = TrainerState.load_from_json(str(Path(self.args.output_dir) / STATE_FILE))
        self.average = None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model with the processor, and the average with the weights of a checkpoint."""
        super().save_model(output_dir, _internal_call)
        if self.processor is not None and self.args.should_save:
            self.processor.save_pretrained(output_dir or self.args.output_dir)
        is_checkpoint = _internal_call and output_dir not in (None, self.args.output_dir)
        if self.average and is_checkpoint and self.args.should_save:
            self.average.save(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.average and checkpoint is not None:
            self.average.load(checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.average:
            self.average.load(self.state.best_model_checkpoint)

    def create_model_card(self, model_name: str | None = None, **kwargs: Any) -> None:
        """Write README.md into the folder of the run; `kwargs` add to `card`.

        An evaluation without training keeps an existing card.
        """
        folder = Path(self.args.output_dir)
        trained = self.state.global_step > 0
        if not self.is_world_process_zero() or (not trained and (folder / CARD).exists()):
            return
        name = model_name or (self.hub_model_id or folder.resolve().name).rpartition("/")[2]
        known = {"repository": self.hub_model_id, "license": self.args.hub_license, **self.card, **kwargs}
        text = finetuned_card(name, self.results, self._settings() if trained else {}, **known)
        write_text(folder / CARD, text)

    def _settings(self) -> dict[str, Any]:
        args = self.args
        shown = {
            "samples": len(self.train_dataset) if self.train_dataset is not None else None,
            "updates": self.state.global_step,
            "epochs": self.state.epoch,
            "batch size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            "learning rate": args.learning_rate,
            "schedule": f"three stages {args.tri_stage}" if args.tri_stage else args.lr_scheduler_type.value,
            "warm-up": None if args.tri_stage else args.warmup_steps,
            "weight decay": args.weight_decay,
            "Adam": f"betas {args.adam_beta1}, {args.adam_beta2}, epsilon {args.adam_epsilon}",
            "layer decay": args.layer_decay if args.layer_decay < 1 else None,
            "updates with frozen encoder": args.freeze_encoder_steps or None,
            "decay of the averaged weights": args.weights_ema_decay,
            "seed": args.seed,
            "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        }
        return {name: value for name, value in shown.items() if value is not None}
