"""The teacher inside `Trainer` and other training loops: updated by a callback, missed with a warning."""

import copy

import pytest
import torch
from model_factory import inputs_for, tiny_config
from transformers import Trainer, TrainingArguments

from modeling_d2v import Data2VecForPreTraining, UpdateTeacher
from modeling_d2v.ema_teacher import logger


@pytest.fixture
def warnings(caplog, monkeypatch):
    """A function that returns what the teacher warned of, in this test alone."""
    monkeypatch.setattr(logger, "propagate", True)
    with caplog.at_level("WARNING", logger=logger.name):
        yield lambda: caplog.messages


def trained(tmp_path, modality, callbacks, **options):
    """The model after six steps of `Trainer`, and its teacher before."""
    ((name, values),) = inputs_for(modality, 16).items()
    model = Data2VecForPreTraining(tiny_config(modality))
    before = copy.deepcopy(model.teacher.state_dict())
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=6,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        learning_rate=1e-2,
        **options,
    )
    Trainer(model, arguments, train_dataset=[{name: row} for row in values], callbacks=callbacks).train()
    return model, before


def moved(model, before):
    return [name for name, value in model.teacher.state_dict().items() if not torch.equal(value, before[name])]


@pytest.mark.parametrize("modality", ["text", "vision", "audio"])
def test_the_callback_updates_the_teacher_once_a_step(tmp_path, modality, warnings):
    model, before = trained(tmp_path, modality, [UpdateTeacher()], gradient_accumulation_steps=2)
    assert model.ema_step == 6 and moved(model, before)
    assert warnings() == []


def test_without_the_callback_a_warning_names_it(tmp_path, warnings):
    model, before = trained(tmp_path, "vision", [])
    assert not moved(model, before)
    assert len(warnings()) == 1 and "UpdateTeacher" in warnings()[0] and "update_teacher()" in warnings()[0]


def step(model, optimizer, passes=1):
    for _ in range(passes):
        model(**inputs_for("vision")).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def test_loops_that_update_the_teacher_or_only_accumulate_are_silent(warnings):
    model = Data2VecForPreTraining(tiny_config("vision")).train()
    optimizer = torch.optim.AdamW(model.data2vec.parameters())
    for _ in range(6):
        step(model, optimizer, passes=3)
        model.update_teacher()
    model(**inputs_for("vision")).loss.backward()
    for _ in range(8):
        model(**inputs_for("vision")).loss.backward()
    for _ in range(8):
        model.eval()(**inputs_for("vision"))
    assert warnings() == []


def test_a_loop_of_ones_own_is_warned_after_three_steps(warnings):
    model = Data2VecForPreTraining(tiny_config("vision")).train()
    optimizer = torch.optim.AdamW(model.data2vec.parameters())
    for done in range(5):
        assert len(warnings()) == (done > 3)
        step(model, optimizer)
