"""The teacher of every pretraining model, whose weights are a moving average of the student's."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.utils import logging

from .targets import RunningNorm


logger = logging.get_logger(__name__)

# So many updates of the student without one of the teacher are taken for a training loop that lacks `update_teacher`.
_STEPS_WITHOUT_TEACHER = 3


class UpdateTeacher(TrainerCallback):
    """Callback of transformers' `Trainer`: `update_teacher` after each step of the optimizer.

    Example:
        >>> Trainer(model, arguments, train_dataset=dataset, callbacks=[UpdateTeacher()]).train()
    """

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        getattr(model, "module", model).update_teacher()


class EmaTeacher:
    """Mixin of a model with a `teacher`, a buffer `ema_step` and the fields `ema_*` in its configuration.

    The teacher, the number of its updates and the running statistics of its targets are part of the state dict: a
    resumed run needs nothing else from the model. `student` is what is averaged, `_is_copied` selects the weights that
    are not.
    """

    # Small steps of an average vanish in half precision.
    _keep_in_fp32_modules_strict = ["teacher", "target_statistics"]
    # Whether an update of the teacher is still waited for, the updates of the student, and a weight of it.
    _watched = True
    _student_steps = 0
    _seen_weight: Tensor | None = None

    @property
    def student(self) -> nn.Module:
        """Return the trained encoder; its weights have the names of the teacher's."""
        raise NotImplementedError

    def _is_copied(self, name: str) -> bool:
        """Return whether the teacher copies a weight instead of averaging it."""
        raise NotImplementedError

    def _make_statistics(self) -> nn.ModuleDict:
        """Return the running statistics of the targets, by modality, for those whose norms need them."""
        config = self.config
        depth = getattr(config, "num_layers", None) or config.num_hidden_layers
        found = {
            name: RunningNorm.of(config.modality_config(name), depth, config.hidden_size) for name in config.modalities
        }
        return nn.ModuleDict({name: norm for name, norm in found.items() if norm is not None})

    def running_norm(self, modality: str) -> RunningNorm | None:
        """Return the running statistics of the targets of a modality, None where no norm needs them."""
        return self.target_statistics[modality] if modality in self.target_statistics else None

    @staticmethod
    def _weights(module: nn.Module) -> dict[str, Tensor]:
        """Return the weights that an update moves, by name."""
        return dict(module.named_parameters())

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self and not getattr(self.ema_step, "_is_hf_initialized", False):
            self.ema_step.zero_()
        if isinstance(module, RunningNorm) and not getattr(module.weight, "_is_hf_initialized", False):
            module.reset()

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """Load a model as in transformers; missing teacher weights are copied from the student."""
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        model._seed_teacher({name.removeprefix("teacher.") for name in info["missing_keys"]})
        return (model, info) if output_loading_info else model

    def push_to_hub(self, repo_id: str, *, weights: str = "student", **options: Any) -> Any:
        """Upload the encoder alone by default: decoders and teacher serve further pretraining only.

        Args:
            repo_id: "user/name", or a name alone for the account of the token.
            weights: "student" or "teacher" for the encoder with these weights, "all" for the whole model.
            options: Options of `push_to_hub` of every model.
        """
        if weights == "all":
            return super().push_to_hub(repo_id, **options)
        return self.trained_encoder(weights).push_to_hub(repo_id, **options)

    def train(self, mode: bool = True) -> Any:
        """Set the mode of all but the teacher, whose dropout would make the targets noisy."""
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def _watch_teacher(self) -> None:
        """Warn once where the student is trained and the teacher is not; to be called in each forward pass.

        One small weight is compared, and only until the first update of the teacher, or the warning.
        """
        if torch.compiler.is_compiling() or not self.training or not self._watched:
            return
        trained = [weight for weight in self.student.parameters() if weight.requires_grad]
        if not trained:
            return
        (weight,) = self._own_slices([min(trained, key=torch.numel)])
        if self._seen_weight is not None and not torch.equal(weight, self._seen_weight.to(weight.device)):
            self._student_steps += 1
        self._seen_weight = weight.detach().clone()
        if self._student_steps >= _STEPS_WITHOUT_TEACHER:
            self._watched = False
            logger.warning(
                f"The student was updated {_STEPS_WITHOUT_TEACHER} times and its teacher was not, which then never "
                "learns. Call `model.update_teacher()` after each step of the optimizer; with `Trainer`, give it "
                "`callbacks=[UpdateTeacher()]` (`from modeling_d2v import UpdateTeacher`)."
            )

    def _teacher_pairs(self) -> tuple[list[str], list[Tensor], list[Tensor]]:
        student, teacher = self._weights(self.student), self._weights(self.teacher)
        return list(teacher), list(teacher.values()), [student[name] for name in teacher]

    @staticmethod
    def _own_slices(weights: list[Tensor]) -> list[Tensor]:
        """Return this process's part of each weight: all of it, or its slice where an engine shards the weights.

        Student and teacher are sharded alike, so that an average needs no other process.
        """
        return [weight.to_local() if hasattr(weight, "to_local") else weight for weight in weights]

    @torch.no_grad()
    def reset_teacher(self) -> None:
        """Make the teacher a frozen copy of the student and set its update count to 0."""
        self._seed_teacher(set(self._weights(self.teacher)))

    @torch.no_grad()
    def _seed_teacher(self, missing: set[str]) -> None:
        names, teacher, student = self._teacher_pairs()
        places = [i for i, name in enumerate(names) if name in missing]
        if places:
            torch._foreach_copy_([teacher[i] for i in places], [student[i] for i in places])
        if len(places) == len(names):
            self.ema_step.zero_()
            for norm in self.target_statistics.values():
                norm.reset()
        self.teacher.requires_grad_(False)

    def teacher_decay(self, step: int) -> float:
        """Return the EMA decay after `step` updates: linear from `ema_decay` to `ema_end_decay`, then constant."""
        config = self.config
        left = 1 - min(step / config.ema_anneal_end_step, 1.0) if config.ema_anneal_end_step > 0 else 0.0
        return config.ema_end_decay - (config.ema_end_decay - config.ema_decay) * left

    def skip_update(self) -> None:
        """Forget the forward passes of a step whose update of the student was skipped."""
        for norm in self.target_statistics.values():
            norm.discard()

    @torch.no_grad()
    def update_teacher(self, step: int | None = None) -> float:
        """Move the teacher towards the student: t <- d t + (1 - d) s. Call it after the optimizer's step.

        Args:
            step: Number of optimizer steps done. Default: one more than at the last call.

        Returns:
            The decay d that was used.
        """
        step = int(self.ema_step) + 1 if step is None else step
        decay = self.teacher_decay(step)
        names, teacher, student = self._teacher_pairs()
        if any(weight.dtype in (torch.float16, torch.bfloat16) for weight in teacher):
            logger.warning_once(
                "The teacher is in half precision, where small steps of its average vanish. Train in fp32 with "
                "autocast, or load with `from_pretrained(..., dtype=...)`, which keeps the teacher in fp32."
            )
        averaged = [i for i, name in enumerate(names) if student[i].requires_grad and not self._is_copied(name)]
        copied = sorted(set(range(len(names))) - set(averaged))
        teacher, student = self._own_slices(teacher), self._own_slices(student)
        if averaged and decay < 1:
            sources = [student[i].to(teacher[i].dtype) for i in averaged]
            torch._foreach_lerp_([teacher[i] for i in averaged], sources, 1 - decay)
        if copied:
            torch._foreach_copy_([teacher[i] for i in copied], [student[i] for i in copied])
        for norm in self.target_statistics.values():
            norm.update()
        self.ema_step.fill_(step)
        self._watched, self._seen_weight = False, None
        return decay
