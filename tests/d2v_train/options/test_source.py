"""Constants and fields are read from the source as importing it would give them."""

import pytest

from d2v_train.finetuning import arguments
from d2v_train.finetuning.texts.glue import TASKS
from d2v_train.inputs.vision import VisionTransform
from d2v_train.options.source import (
    Expression,
    class_constant,
    constant,
    definition,
    fields_of,
    find_class,
    first_line,
)
from modeling_d2v.modalities import MODALITIES


def test_a_constant_is_a_value_or_the_names_of_entries():
    assert constant("modeling_d2v.modalities", "MODALITIES") == tuple(MODALITIES)
    assert constant("d2v_train.finetuning.texts.glue", "TASKS") == tuple(TASKS)
    assert constant("d2v_train.finetuning.arguments", "MULTI_LABEL") == arguments.MULTI_LABEL
    assert constant("d2v_train.finetuning.texts.arguments", "REGRESSION") == arguments.REGRESSION  # imported there


def test_what_is_not_there_or_needs_the_module_to_run_is_an_error():
    with pytest.raises(LookupError, match="does not define NOTHING"):
        constant("modeling_d2v.modalities", "NOTHING")
    with pytest.raises(ValueError, match="not a constant"):
        constant("d2v_train.options.source", "SET_BY_RUN")


def test_classes_are_found_through_imports_of_their_package():
    place = find_class("d2v_train.finetuning.speech.arguments", "ModelArguments")
    assert place == ("d2v_train.finetuning.arguments", "ModelArguments")
    assert first_line(definition(*place)) == "Which model to start from."
    assert find_class("d2v_train.finetuning.arguments", "Path") is None
    module = "d2v_train.finetuning.speech.arguments"
    assert class_constant(module, "ClassDataArguments", "title") == "data"  # of a base of its second base
    assert class_constant(module, "ClassDataArguments", "nothing") is None


def test_defaults_are_values_where_constants_suffice():
    fields = {field.name: field for field in fields_of("d2v_train.inputs.vision", "VisionTransform")}
    assert fields["crop_aspect"].default == VisionTransform(8).crop_aspect
    given = {field.name: field for field in fields_of("d2v_train.finetuning.texts.arguments", "GlueArguments")}
    assert given["adam_beta2"].default == 0.98  # by with_defaults
    assert given["logging_nan_inf_filter"].doc == "Leave losses that are not finite out of the log."
    assert given["task_name"].doc == f"Task of GLUE: {', '.join(TASKS)}."
    assert given["eval_strategy"].choices == ("no", "steps", "epoch")
    assert not any(isinstance(field.default, Expression) for field in given.values())
