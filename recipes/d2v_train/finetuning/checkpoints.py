"""`Trainer` whose checkpoints survive a kill at any moment, and whose files hold no token of the Hub.

A checkpoint counts only with its manifest, which is written last; older ones are removed only after that. What is
logged and reported after a restart equals that of a run without one.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import rotate_checkpoints, speed_metrics

from d2v_train.finetuning.resume import CHECKPOINT, FINISHED_FILES, STATE_FILE, read_json
from d2v_train.publishing.hub import publish_finished
from d2v_train.support.atomic import flush, write_json
from d2v_train.support.manifest import MANIFEST, write_manifest
from modeling_d2v.sharing.publishing import full_name


PROGRESS_FILE = "progress.json"
ARGUMENTS_FILE = "training_args.bin"
ALL_RESULTS_FILE = "all_results.json"


class RestoreProgress(TrainerCallback):
    """Restore the sums behind the logged losses when training goes on from a checkpoint."""

    def __init__(self, trainer: CheckpointingTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.restore_progress()


class CheckpointingTrainer(Trainer):
    """`Trainer` with complete checkpoints; `args` are `FinetuningArguments`.

    Attributes:
        hub_token: Access token of the Hub for the upload; taken out of `args`, which are written to files and sent to
            trackers.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        options = kwargs["args"]
        self.hub_token, options.hub_token = options.hub_token, None
        super().__init__(*args, **kwargs)
        self._before: dict[str, Any] = {}
        self._started = time.monotonic()
        self.add_callback(RestoreProgress(self))

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        """Train; the loss and the time in the metrics are those of the whole run, restarts included."""
        self._before = {} if resume_from_checkpoint is None else read_progress(resume_from_checkpoint)
        self._started = time.monotonic()
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def restore_progress(self) -> None:
        """Restore the sums of the losses, which `Trainer` begins anew at each restart."""
        if self._before:
            self._tr_loss = torch.tensor(self._before["unlogged_loss"], device=self.args.device)
            self._total_loss_scalar = self._before["logged_loss"]
            self._globalstep_last_logged = self._before["logged_step"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log metrics; those of the end of the training cover the whole run."""
        if "train_runtime" in logs:
            updates, seconds = self.state.global_step, self._seconds()
            batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
            logs.update(speed_metrics("train", time.time() - seconds, updates * batch, updates))
            logs["train_loss"] = self._total_loss_scalar / max(updates, 1)
        super().log(logs, start_time)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # A run that was killed after its last checkpoint has nothing left to train.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)

    def _seconds(self) -> float:
        return self._before.get("seconds", 0.0) + time.monotonic() - self._started

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint, its manifest last, and only then remove older ones."""
        folder = Path(self._get_output_dir(trial=trial)) / f"{CHECKPOINT}-{self.state.global_step}"
        if self.args.should_save and folder.exists():
            shutil.rmtree(folder)  # what a kill left of an earlier attempt
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        progress = {
            "unlogged_loss": self.accelerator.gather(self._tr_loss.detach().reshape(1)).mean().item(),
            "logged_loss": self._total_loss_scalar,
            "logged_step": self._globalstep_last_logged,
            "seconds": round(self._seconds(), 3),
        }
        self.accelerator.wait_for_everyone()  # every process writes its random states
        if self.args.should_save:
            write_json(folder / PROGRESS_FILE, progress)
            for path in (*folder.rglob("*"), folder):
                flush(path)
            write_manifest(folder, self.state.global_step)
            rotate_checkpoints(str(folder.parent), limit, self.state.best_model_checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save the model without the pickled options, which nothing reads and which name folders of this machine."""
        folder = Path(output_dir or self.args.output_dir)
        (folder / MANIFEST).unlink(missing_ok=True)  # the weights of a finished run are about to change
        super()._save(output_dir, state_dict)
        (folder / ARGUMENTS_FILE).unlink(missing_ok=True)

    def save_state(self) -> None:
        """Write the state and the manifest of the weights into the folder of the run, which mark it as finished."""
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir)
            weights = [path for pattern in FINISHED_FILES for path in folder.glob(pattern)]
            write_manifest(folder, self.state.global_step, weights)
            write_json(folder / STATE_FILE, dataclasses.asdict(self.state))

    def save_metrics(self, split: str, metrics: dict[str, float], combined: bool = True) -> None:
        """Write the metrics of "train", "eval" or "test", and add them to those of the whole run."""
        if not self.is_world_process_zero():
            return
        folder = Path(self.args.output_dir)
        write_json(folder / f"{split}_results.json", metrics)
        if combined:
            write_json(folder / ALL_RESULTS_FILE, (read_json(folder / ALL_RESULTS_FILE) or {}) | metrics)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Find the account of the token, so that a mistake shows before the training; publishing makes the repository.

        Raises:
            PublishingError: If the Hub cannot be reached or does not accept the token.
        """
        if self.is_world_process_zero():
            wanted = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
            self.hub_model_id = full_name(wanted, token or self.hub_token)

    def push_to_hub(self, commit_message: str | None = None, token: str | None = None, **kwargs: Any) -> str | None:
        """Publish the finished model in the folder of the run, the same files as `d2v publish`.

        A failure is logged and does not fail the finished run.

        Returns:
            Address of the commit; None in other processes than the first, or after a failure.
        """
        if not self.is_world_process_zero():
            return None
        if self.hub_model_id is None:
            self.init_hf_repo(token)
        folder, options = self.args.output_dir, {"commit_message": commit_message} if commit_message else {}
        return publish_finished(
            folder,
            self.hub_model_id,
            license=self.args.hub_license,
            token=token or self.hub_token,
            private=self.args.hub_private_repo,
            revision=self.args.hub_revision,
            **options,
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload nothing: checkpoints hold optimizer states, and only the finished model is published."""


def read_progress(checkpoint: str | Path) -> dict[str, Any]:
    """Return the sums in a checkpoint; empty for one of a former version."""
    return read_json(Path(checkpoint) / PROGRESS_FILE) or {}
