"""ONNX programs: the outputs of the model, from the command line and for every head."""

import pytest
import torch
from head_factory import HEADS, make_head
from model_factory import FRONT_ENDS, front_end_config, padded_inputs, randomise, tiny_config

from d2v_train.programs.export_onnx import main
from d2v_train.publishing import onnx as onnx_export
from d2v_train.publishing.onnx import export_onnx, largest_difference
from modeling_d2v import Data2VecForPreTraining, Data2VecModel


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


def test_the_program_from_the_command_line(tmp_path, capsys):
    """An encoder out of a joint pretraining checkpoint."""
    model = Data2VecForPreTraining(tiny_config())
    randomise(model.data2vec)
    model.save_pretrained(tmp_path / "pretrained")
    output = tmp_path / "new" / "text.onnx"
    main(["--model", str(tmp_path / "pretrained"), "--modality", "text", "--output", str(output)])
    assert f"Data2VecModel written to {output}; largest relative difference" in capsys.readouterr().out
    batch, singles = padded_inputs("text")
    singles = [{**single, "attention_mask": torch.ones_like(single["input_ids"])} for single in singles]
    assert largest_difference(model.data2vec.eval(), output, [batch, *singles]) < 1e-4

    import onnxruntime

    session = onnxruntime.InferenceSession(str(output))
    assert [x.name for x in session.get_inputs()] == ["input_ids", "attention_mask"]
    assert [x.name for x in session.get_outputs()] == ["last_hidden_state", "pooler_output", "token_mask"]


def test_mistakes_are_explained(tmp_path, capsys):
    with pytest.raises(ValueError, match="encoder"):
        export_onnx(Data2VecForPreTraining(tiny_config("text")), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="text and vision and audio"):
        export_onnx(Data2VecModel(tiny_config()), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="'audio'"):
        export_onnx(Data2VecModel(tiny_config("text")), tmp_path / "m.onnx", "audio")
    with pytest.raises(ValueError, match="images"):
        export_onnx(Data2VecModel(tiny_config("text")), tmp_path / "m.onnx", any_image_size=True)
    with pytest.raises(ValueError, match="pooling"):
        export_onnx(make_head("Data2VecForSemanticSegmentation"), tmp_path / "m.onnx", any_image_size=True)
    with pytest.raises(SystemExit, match="AutoTokenizer"):
        main(["--model", str(tmp_path), "--auto", "AutoTokenizer"])
    assert list(tmp_path.iterdir()) == []


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
