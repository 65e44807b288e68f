"""ONNX programs from the command line."""

import pytest
import torch
from head_factory import make_head
from model_factory import padded_inputs, randomise, tiny_config

from d2v_train.programs.export_onnx import main
from d2v_train.publishing.onnx import export_onnx, largest_difference
from modeling_d2v import Data2VecForPreTraining, Data2VecModel


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
