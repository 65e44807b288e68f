"""A tiny fine-tuning run over `FinetuningTrainer`, for tests; as a program, for tests that kill or multiply it.

python tests/finetuning_example.py FOLDER '{"max_steps": 6}'
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any


ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "recipes"), str(ROOT / "tests")]

import torch  # noqa: E402
from model_factory import tiny_config  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

from d2v_train.finetuning.arguments import FinetuningArguments  # noqa: E402
from d2v_train.finetuning.command_line import launch  # noqa: E402
from d2v_train.finetuning.run import run  # noqa: E402
from d2v_train.finetuning.trainer import FinetuningTrainer  # noqa: E402
from modeling_d2v import Data2VecForSequenceClassification  # noqa: E402


SAVES = {"save_strategy": "steps", "save_steps": 2}


class Examples(torch.utils.data.Dataset):
    """Sequences whose class is told by their second token; the last token tells the epoch."""

    def __init__(self, size: int = 24) -> None:
        generator = torch.Generator().manual_seed(0)
        self.input_ids = torch.randint(5, 45, (size, 8), generator=generator)
        self.input_ids[:, 0] = 0
        self.labels = (self.input_ids[:, 1] > 24).long()
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        input_ids = self.input_ids[index].clone()
        input_ids[-1] = 5 + self.epoch
        return {"input_ids": input_ids, "labels": self.labels[index]}


def make_model(**overrides: Any) -> Data2VecForSequenceClassification:
    torch.manual_seed(0)
    return Data2VecForSequenceClassification(tiny_config("text", **{"hidden_dropout": 0.1, **overrides}))


def make_trainer(folder: Any, model: Any = None, **options: Any) -> FinetuningTrainer:
    """Six updates of four samples, logged one by one; no checkpoints."""
    defaults = dict(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        max_steps=6,
        learning_rate=1e-2,
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        use_cpu=True,
        do_train=True,
    )
    trainer = FinetuningTrainer(
        model=model or make_model(),
        args=FinetuningArguments(**{**defaults, **options}),
        train_dataset=Examples(),
        eval_dataset=Examples(),
    )
    return trainer


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def losses(trainer: FinetuningTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


class StopAt(TrainerCallback):
    """Ends the run after an update, as a crash does, without the checkpoint that would be due."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= self.step:
            raise KeyboardInterrupt


def cut_off(trainer, step: int) -> None:
    trainer.add_callback(StopAt(step))
    with contextlib.suppress(KeyboardInterrupt):
        run(trainer)
        raise AssertionError(f"The run ended before step {step}.")


def assert_same_weights(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    different = [name for name in one if not torch.equal(one[name], two[name])]
    assert not different


def main(argv: list[str]) -> dict[str, Any]:
    options = json.loads(argv[1])
    model = make_model(**options.pop("model", {}))
    trainer = make_trainer(argv[0], model=model, **options)
    return run(trainer) | {"losses": losses(trainer)}


if __name__ == "__main__":
    sys.exit(launch(main))
