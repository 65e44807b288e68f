"""ONNX programs: the outputs of the model, from the command line and for every head."""

import pytest
import torch
from head_factory import HEADS, make_head
from model_factory import FRONT_ENDS, front_end_config, randomise, tiny_config

from d2v_train.publishing import onnx as onnx_export
from d2v_train.publishing.onnx import check_inputs, dynamic_shapes, export_onnx, largest_difference, named_outputs
from modeling_d2v import Data2VecModel


@pytest.mark.parametrize(
    "name", [n if n == "Data2VecForTokenClassification" else pytest.param(n, marks=pytest.mark.slow) for n in HEADS]
)
def test_heads(tmp_path, name):
    assert export_onnx(make_head(name), tmp_path / "model.onnx") < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("front_end", FRONT_ENDS)
@pytest.mark.parametrize("version", ["2.0", "1.0"])
def test_encoders(tmp_path, version, front_end):
    model = randomise(Data2VecModel(front_end_config(version, front_end))).eval()
    assert export_onnx(model, tmp_path / "model.onnx") < 1e-4


@pytest.mark.parametrize(
    "distance",
    ["euclidean", *(pytest.param(other, marks=pytest.mark.slow) for other in ("manhattan", "sequence"))],
)
def test_distances_between_patches(tmp_path, distance):
    settings = {"alibi": "learned", "alibi_distance": distance, "num_extra_tokens": 2}
    model = randomise(make_head("Data2VecForImageClassification", vision_config=settings)).eval()
    assert export_onnx(model, tmp_path / "model.onnx") < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{}, {"position_embedding": "none", "relative_position_bias": True}, {"alibi": "fixed"}],
)
def test_images_of_any_size(tmp_path, settings):
    model = make_head("Data2VecForImageClassification", vision_config=settings)
    assert export_onnx(model, tmp_path / "model.onnx", any_image_size=True) < 1e-4
    images = {"pixel_values": torch.randn(3, 3, 24, 56)}
    assert largest_difference(model, tmp_path / "model.onnx", [images]) < 1e-4


def test_a_program_that_differs_is_not_kept(tmp_path, monkeypatch):
    model = make_head("Data2VecForSequenceClassification")
    trace = onnx_export._traced

    def other_weights(*args):
        program = trace(*args)
        bias = model.classifier.out_proj.bias
        model.classifier.out_proj.bias = torch.nn.Parameter(bias + 1)  # the program shares the old one
        return program

    monkeypatch.setattr(onnx_export, "_traced", other_weights)
    with pytest.raises(ValueError, match="differs"):
        export_onnx(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


# Two convolutions instead of seven: what takes long is to reason about the lengths after each.
SHORT = {"audio_config": {"conv_dim": [8, 8], "conv_kernel": [10, 8], "conv_stride": [5, 4]}}


FAST = ("Data2VecForSequenceClassification", "Data2VecForCTC", "Data2VecForImageClassification")


def check_export(model, modality, any_image_size=False):
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
def test_heads_are_exported(name):
    modality = HEADS[name].modality
    check_export(make_head(name, **(SHORT if modality == "audio" else {})), modality)


@pytest.mark.slow
@pytest.mark.parametrize("front_end", FRONT_ENDS)
@pytest.mark.parametrize("version", ["2.0", "1.0"])
def test_encoders_with_every_front_end(front_end, version):
    modality, _ = FRONT_ENDS[front_end]
    check_export(randomise(Data2VecModel(front_end_config(version, front_end))).eval(), modality)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param({"position_embedding": "none", "relative_position_bias": True}, marks=pytest.mark.slow),
        pytest.param({"alibi": "learned"}, marks=pytest.mark.slow),
    ],
)
def test_images_of_any_size_are_exported(settings):
    check_export(randomise(Data2VecModel(tiny_config("vision", vision_config=settings))).eval(), "vision", True)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_dims": 2, "group_size": 6},
        pytest.param({"num_dims": 2, "group_size": 4, "mask_sampler": "block"}, marks=pytest.mark.slow),
        pytest.param({"num_dims": 3, "group_size": 8}, marks=pytest.mark.slow),
    ],
)
def test_arrays_of_several_sides(tmp_path, settings):
    model = randomise(Data2VecModel(tiny_config("arrays", arrays_config=settings))).eval()
    assert export_onnx(model, tmp_path / "model.onnx") < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Data2VecForTokenClassification", "Data2VecForSequenceClassification"])
def test_heads_of_bytes(tmp_path, name):
    model = make_head(name, text_config=FRONT_ENDS["text perceiver"][1])
    assert export_onnx(model, tmp_path / "model.onnx") < 1e-4
