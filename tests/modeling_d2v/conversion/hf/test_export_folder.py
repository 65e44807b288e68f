"""Folders that transformers loads where this package is not installed, in a process that cannot import it."""

import json
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from model_factory import inputs_for, randomise, relative_error, tiny_config
from PIL import Image
from processing_factory import LETTERS, feature_extractor, image_processor, letter_tokenizer, text_tokenizer
from safetensors.torch import load_file
from transformers_factory import encoder, ours, shaped

from modeling_d2v import Data2VecForPreTraining, Data2VecProcessor
from modeling_d2v.conversion.hf.export_folder import export_to_transformers


AUTO = {
    "ctc": "AutoModelForCTC",
    "images": "AutoModelForImageClassification",
    "texts": "AutoModelForSequenceClassification",
    "speech": "AutoModel",
}
LOAD = """
import json, sys
import numpy as np, torch, transformers
from PIL import Image
from safetensors.torch import save_file

folder, autos = sys.argv[1], json.loads(sys.argv[2])
rng, found = np.random.default_rng(0), {}
picture = Image.fromarray(rng.integers(0, 255, (50, 70, 3), dtype=np.uint8))
waveform = rng.normal(size=6000).astype(np.float32)
for name, auto in autos.items():
    path = f"{folder}/exported/{name}"
    model, info = getattr(transformers, auto).from_pretrained(path, output_loading_info=True)
    assert type(model).__module__.startswith("transformers.") and not any(info.values()), info
    processor = transformers.AutoProcessor.from_pretrained(path)
    assert type(processor).__module__.startswith("transformers."), type(processor)
    if name == "images":
        inputs = processor(images=picture, return_tensors="pt")
    elif name == "texts":
        inputs = processor("the cat sat", return_tensors="pt")
    else:
        inputs = processor(waveform, sampling_rate=16000, return_tensors="pt")
    inputs.pop("attention_mask", None)
    with torch.no_grad():
        found |= {f"{name}.{key}": value for key, value in inputs.items()}
        found[f"{name}.output"] = model(**inputs)[0]
    if name == "ctc":
        texts = processor.batch_decode(found["ctc.output"].argmax(-1))
        pipe = transformers.pipeline("automatic-speech-recognition", path, device="cpu")
        assert pipe(waveform)["text"] == texts[0]
    if name == "images":
        pipe = transformers.pipeline("image-classification", path, device="cpu")
        assert {entry["label"] for entry in pipe(picture)} == {"LABEL_0", "LABEL_1", "LABEL_2"}
assert "modeling_d2v" not in sys.modules
save_file({key: value.contiguous() for key, value in found.items()}, f"{folder}/found.safetensors")
"""


def test_folders_load_and_compute_the_same_where_the_package_is_missing(tmp_path):
    """Models, inputs, decoding and pipelines, in one process: it costs an import of transformers."""
    parts = {
        "ctc": {"tokenizer": letter_tokenizer(tmp_path), "feature_extractor": feature_extractor()},
        "images": {"image_processor": image_processor(size={"shortest_edge": 40})},
        "texts": {"tokenizer": text_tokenizer()},
        "speech": {"feature_extractor": feature_extractor(do_normalize=False)},
    }
    models = {
        "ctc": ours("Data2VecForCTC", audio_config={"vocab_size": len(LETTERS)}),
        "images": ours("Data2VecForImageClassification"),
        "texts": ours("Data2VecForSequenceClassification", text_config={"vocab_size": 300}),
        "speech": encoder("audio"),
    }
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        Data2VecProcessor(**parts[name]).save_pretrained(tmp_path / name)
        export_to_transformers(tmp_path / name, tmp_path / "exported" / name, verify=True)
    command = [sys.executable, "-c", LOAD, str(tmp_path), json.dumps(AUTO)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr

    found = load_file(tmp_path / "found.safetensors")
    generator = np.random.default_rng(0)
    picture = Image.fromarray(generator.integers(0, 255, (50, 70, 3), dtype=np.uint8))
    waveform = generator.normal(size=6000).astype(np.float32)
    calls = {
        "images": {"images": picture},
        "texts": {"text": "the cat sat"},
        "ctc": {"audio": waveform, "sampling_rate": 16000},
        "speech": {"audio": waveform, "sampling_rate": 16000},
    }
    for name, model in models.items():
        inputs = Data2VecProcessor.from_pretrained(tmp_path / name)(**calls[name], return_tensors="pt")
        inputs.pop("attention_mask", None)
        for key, value in inputs.items():
            assert torch.equal(value, found[f"{name}.{key}"]), (name, key)
        with torch.no_grad():
            assert relative_error(found[f"{name}.output"], model(**inputs)[0]) < 1e-5, name


def test_no_code_and_no_names_of_ours_are_left_in_a_folder(tmp_path):
    parts = {
        "vision": {"image_processor": image_processor()},
        "text": {"tokenizer": text_tokenizer()},
        "audio": {"feature_extractor": feature_extractor()},
    }
    for modality, part in parts.items():
        encoder(modality).save_pretrained(tmp_path / modality)
        Data2VecProcessor(**part).save_pretrained(tmp_path / modality)
        export_to_transformers(tmp_path / modality, tmp_path / "exported", overwrite=True)
        files = {path.name: path.read_bytes().decode(errors="replace") for path in (tmp_path / "exported").iterdir()}
        assert {"README.md", "config.json", "model.safetensors"} < files.keys()
        assert not any(name.endswith(".py") for name in files)
        for name, text in files.items():
            if name.endswith(".json"):
                assert not any(mark in text for mark in ("auto_map", "Data2VecProcessor", "Data2VecImageProcessor"))
                assert str(tmp_path) not in text


@pytest.mark.parametrize("weights", ["student", "teacher"])
def test_a_pretraining_checkpoint_gives_its_encoder(tmp_path, weights):
    model = randomise(Data2VecForPreTraining(tiny_config("audio", **shaped("audio")))).eval()
    model.save_pretrained(tmp_path / "run" / "final")
    exported = export_to_transformers(tmp_path / "run", tmp_path / "out", weights=weights)
    again = transformers.AutoModel.from_pretrained(tmp_path / "out")
    assert type(again) is type(exported.model) is transformers.Data2VecAudioModel
    mine = model.trained_encoder(weights).eval()(**inputs_for("audio")).last_hidden_state
    assert relative_error(again(**inputs_for("audio")).last_hidden_state, mine) < 1e-5
    assert "no tokenizer, feature extractor or image processor" in (tmp_path / "out" / "README.md").read_text()


def test_the_card_keeps_the_licence_and_says_what_is_different(tmp_path):
    encoder("vision").save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# Model\n")
    export_to_transformers(tmp_path / "model", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-nc-4.0\n") and "excludes commercial use" in card
    assert "changes nothing" in card and "Data2VecVisionModel.from_pretrained" in card
    encoder("audio").save_pretrained(tmp_path / "speech")
    export_to_transformers(tmp_path / "speech", tmp_path / "out", overwrite=True)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Padding reaches the samples" in card and "license:" not in card and "is not known" in card


def test_a_folder_is_whole_or_as_it_was(tmp_path):
    encoder("text").save_pretrained(tmp_path / "model")
    with pytest.raises(FileExistsError, match="`overwrite`"):
        export_to_transformers(tmp_path / "model", tmp_path / "model")
    encoder("text", norm_first=True).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="norm_first"):
        export_to_transformers(tmp_path / "other", tmp_path / "model", overwrite=True)
    with pytest.raises(FileNotFoundError, match="There is no model in"):
        export_to_transformers(tmp_path / "none", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "other"]
    assert (tmp_path / "model" / "modeling_data2vec.py").is_file()


def test_saving_and_loading_warns_of_nothing_but_the_pooler(tmp_path, caplog):
    transformers.logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        for modality in ("audio", "vision"):
            encoder(modality).save_pretrained(tmp_path / modality)
            export_to_transformers(tmp_path / modality, tmp_path / f"{modality}_out")
            transformers.AutoModel.from_pretrained(tmp_path / f"{modality}_out")
    transformers.logging.disable_propagation()
    assert not caplog.records


def test_verification_can_fail(tmp_path, monkeypatch):
    model = encoder("vision")
    model.save_pretrained(tmp_path / "model")
    exported = export_to_transformers(tmp_path / "model", tmp_path / "out", verify=True)
    assert exported.notes[
        -1
    ] == f"Verified: {len(model.state_dict()) - 1} tensors, read back and turned back, are " + ("the checkpoint's.")
    save = transformers.Data2VecVisionModel.save_pretrained

    def spoil(self, folder, **options):
        self.layernorm.bias.data[3] += 1e-3
        save(self, folder, **options)

    monkeypatch.setattr(transformers.Data2VecVisionModel, "save_pretrained", spoil)
    with pytest.raises(ValueError, match=r"encoder\.norm\.bias"):
        export_to_transformers(tmp_path / "model", tmp_path / "other", verify=True)
    assert not (tmp_path / "other").exists()


def test_type_of_numbers_and_licence_can_be_said(tmp_path):
    encoder("text").save_pretrained(tmp_path / "model")
    options = {"dtype": torch.bfloat16, "license": "mit", "verify": True}
    export_to_transformers(tmp_path / "model", tmp_path / "out", **options)
    assert {x.dtype for x in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    assert transformers.AutoModel.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
    assert (tmp_path / "out" / "README.md").read_text().startswith("---\nlicense: mit\n")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    with pytest.raises(ValueError, match="commercial"):
        export_to_transformers(tmp_path / "model", tmp_path / "other", license="mit")
