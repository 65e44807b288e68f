"""torch.export: one program for batches of any size and length, with the outputs of the model."""

import pytest
import torch
from head_factory import HEADS, make_head
from model_factory import randomise, tiny_config, version_config

from d2v_train.publishing.onnx import check_inputs, dynamic_shapes, named_outputs
from modeling_d2v import Data2VecModel


# Two convolutions instead of seven: what takes long is to reason about the lengths after each.
SHORT = {"audio_config": {"conv_dim": [8, 8], "conv_kernel": [10, 8], "conv_stride": [5, 4]}}
FAST = ("Data2VecForSequenceClassification", "Data2VecForCTC", "Data2VecForImageClassification")


def check(model, modality, any_image_size=False):
    inputs, *others = check_inputs(model, modality, any_image_size)
    shapes = dynamic_shapes(model, modality, inputs, any_image_size)
    with torch.no_grad():
        program = torch.export.export(model, (), inputs, dynamic_shapes=shapes, strict=False).module()
        for case in (inputs, *others):
            expected, found = named_outputs(model(**case)), named_outputs(program(**case))
            assert expected.keys() == found.keys()
            for name in expected:
                torch.testing.assert_close(found[name], expected[name], msg=name)


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in HEADS])
def test_heads(name):
    modality = HEADS[name].modality
    check(make_head(name, **(SHORT if modality == "audio" else {})), modality)


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["text", "vision", "audio"])
@pytest.mark.parametrize("version", ["2.0", "1.0"])
def test_encoders_with_the_published_front_ends(modality, version):
    check(randomise(Data2VecModel(version_config(version, modality))).eval(), modality)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param({"position_embedding": "none", "relative_position_bias": True}, marks=pytest.mark.slow),
        pytest.param({"alibi": "learned"}, marks=pytest.mark.slow),
    ],
)
def test_images_of_any_size(settings):
    check(randomise(Data2VecModel(tiny_config("vision", vision_config=settings))).eval(), "vision", True)
