"""Through the Hub: what `push_to_hub` uploads, a fresh process without this package loads and uploads again."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from head_factory import HEADS, head_inputs, make_head, results
from hub_server import HubServer
from model_factory import HIDE_PACKAGE, inputs_for, randomise, tiny_config
from PIL import Image
from processing_factory import feature_extractor, image_processor, text_tokenizer

from modeling_d2v import Data2VecForPreTraining, Data2VecProcessor
from modeling_d2v.remote_code import TRAVELLING_FILES


TEXT = "the cat sat on the mat"
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))

WITHOUT_PACKAGE = (
    HIDE_PACKAGE
    + """
import sys, json, torch
import transformers
from PIL import Image
from transformers import AutoModel, AutoModelForPreTraining, AutoProcessor, pipeline

remote = dict(trust_remote_code=True)
given = torch.load(sys.argv[1], weights_only=True)
out = {{"heads": {{}}}}
with torch.no_grad():
    for name, (auto, batch) in given["heads"].items():
        model = getattr(transformers, auto).from_pretrained("user/" + name, **remote).eval()
        assert type(model).__name__ == name and type(model).__module__.startswith("transformers_modules"), type(model)
        found = model(**batch)
        out["heads"][name] = list(found.feature_maps) if "feature_maps" in found else found[0]

    encoder = AutoModel.from_pretrained("user/joint", **remote).eval()
    out["names"] = [name for name, _ in encoder.named_parameters()]
    out["encoder"] = [encoder(**batch).pooler_output for batch in given["encoder"]]
    first = AutoModel.from_pretrained("user/joint", revision=given["first"], **remote).eval()
    out["first"] = [first(**batch).pooler_output for batch in given["encoder"]]
    teacher = AutoModelForPreTraining.from_pretrained("user/joint", revision="whole", **remote)
    out["ema_step"] = int(teacher.ema_step)

    processor = AutoProcessor.from_pretrained("user/joint", **remote)
    picture = Image.open(sys.argv[2])
    parts = (transformers.AutoTokenizer, transformers.AutoImageProcessor, transformers.AutoFeatureExtractor)
    tokenizer, images, sound = [part.from_pretrained("user/joint", **remote) for part in parts]
    waveform = given["waveform"].numpy()
    out["inputs"] = [
        [each(text={text!r}, return_tensors="pt")["input_ids"] for each in (processor, tokenizer)],
        [each(images=picture, return_tensors="pt")["pixel_values"] for each in (processor, images)],
        [
            processor(audio=waveform, sampling_rate=16000, return_tensors="pt")["input_values"],
            sound(waveform, sampling_rate=16000, return_tensors="pt")["input_values"],
        ],
    ]
    classify = pipeline("image-classification", model="user/pictures", **remote)
    out["pipeline"] = sorted((entry["label"], entry["score"]) for entry in classify(picture))

    # What was loaded with remote code goes up again, and is loaded from where it is now.
    encoder.push_to_hub("user/again")
    processor.push_to_hub("user/again")
    again = AutoModel.from_pretrained("user/again", **remote).eval()
    assert "again" in type(again).__module__
    out["again"] = [again(**batch).pooler_output for batch in given["encoder"]]
    AutoProcessor.from_pretrained("user/again", **remote)
try:
    AutoModel.from_pretrained("user/secret", token=False, **remote)
except OSError as error:
    out["error"] = str(error)
AutoModel.from_pretrained("user/secret", **remote)
torch.save(out, sys.argv[3])
"""
)


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def exchange(hub, tmp_path_factory):
    """Uploads from this process, and what another one without the package made of them."""
    folder = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch:
        hub.connect(patch)
        heads = {name: make_head(name) for name in HEADS}
        for name, head in heads.items():
            head.push_to_hub(f"user/{name}")
        torch.manual_seed(0)
        joint = Data2VecForPreTraining(tiny_config(text_config={"vocab_size": 300}))
        randomise(joint.data2vec)
        joint.update_teacher(3)
        joint.eval()
        first = joint.push_to_hub("user/joint", commit_message="First").oid
        before = [joint.data2vec(**inputs_for(modality)).pooler_output for modality in ("text", "vision", "audio")]
        randomise(joint.data2vec, seed=1)
        joint.push_to_hub("user/joint")
        joint.push_to_hub("user/joint", weights="all", revision="whole")
        processor = Data2VecProcessor(text_tokenizer(), image_processor(), feature_extractor())
        processor.push_to_hub("user/joint")
        joint.push_to_hub("user/secret", private=True)
        pictures = heads["Data2VecForImageClassification"]
        pictures.push_to_hub("user/pictures")
        image_processor().push_to_hub("user/pictures")
    batches = [inputs_for(modality) for modality in ("text", "vision", "audio")]
    given = {
        "heads": {name: (HEADS[name].auto, head_inputs(name)) for name in HEADS},
        "encoder": batches,
        "first": first,
        "waveform": torch.linspace(-1, 1, 4000).sin(),
    }
    torch.save(given, folder / "given.pt")
    PICTURE.save(folder / "picture.png")
    asked = len(hub.requests)
    script = WITHOUT_PACKAGE.format(text=TEXT)
    done = subprocess.run(
        [sys.executable, "-c", script, *(str(folder / name) for name in ("given.pt", "picture.png", "out.pt"))],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=300,
        env={"PATH": "/usr/bin:/bin", "HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1", **hub.environment()},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(hub.requests) - asked < 2500
    out = torch.load(folder / "out.pt", weights_only=True)
    return {"heads": heads, "joint": joint, "before": before, "given": given, "processor": processor, "out": out}


@pytest.mark.parametrize("name", HEADS)
def test_every_head_loads_from_the_hub(exchange, name):
    expected = list(results(exchange["heads"][name](**exchange["given"]["heads"][name][1])).values())
    found = exchange["out"]["heads"][name]
    found = found if isinstance(found, list) else [found]
    for a, b in zip(found, expected, strict=False):
        torch.testing.assert_close(a, b)


def test_a_pretraining_model_uploads_its_encoder_alone(exchange):
    joint, out = exchange["joint"], exchange["out"]
    assert out["names"] == [name for name, _ in joint.data2vec.named_parameters()]
    for found, batch in zip(out["encoder"], exchange["given"]["encoder"], strict=True):
        torch.testing.assert_close(found, joint.data2vec(**batch).pooler_output)


def test_all_of_a_pretraining_model_lies_on_its_branch(exchange, hub):
    assert exchange["out"]["ema_step"] == 3
    size = {revision: len(hub.files("user/joint", revision)["model.safetensors"]) for revision in ("main", "whole")}
    assert size["whole"] > 2 * size["main"]


def test_a_pinned_revision_stays_what_it_was(exchange):
    for found, expected, new in zip(
        exchange["out"]["first"], exchange["before"], exchange["out"]["encoder"], strict=True
    ):
        torch.testing.assert_close(found, expected)
        assert (found - new).abs().max() > 0.01


def test_processors_load_from_the_hub(exchange):
    processor, waveform = exchange["processor"], exchange["given"]["waveform"].numpy()
    expected = [
        processor(text=TEXT, return_tensors="pt")["input_ids"],
        processor(images=PICTURE, return_tensors="pt")["pixel_values"],
        processor(audio=waveform, sampling_rate=16000, return_tensors="pt")["input_values"],
    ]
    for (whole, alone), value in zip(exchange["out"]["inputs"], expected, strict=True):
        torch.testing.assert_close(whole, value)
        torch.testing.assert_close(alone, value)


def test_a_pipeline_runs_on_a_model_of_the_hub(exchange):
    model = exchange["heads"]["Data2VecForImageClassification"]
    pixels = image_processor()(PICTURE, return_tensors="pt")["pixel_values"]
    scores = model(pixel_values=pixels).logits.softmax(dim=-1)[0]
    expected = sorted((label, scores[i].item()) for i, label in model.config.id2label.items())
    for (label, score), (wanted, value) in zip(exchange["out"]["pipeline"], expected, strict=True):
        assert label == wanted and score == pytest.approx(value, abs=1e-5)


def test_what_was_loaded_from_the_hub_goes_up_again_with_its_code(exchange, hub):
    for found, expected in zip(exchange["out"]["again"], exchange["out"]["encoder"], strict=True):
        torch.testing.assert_close(found, expected)
    files = hub.files("user/again")
    for name in TRAVELLING_FILES:
        assert files[name] == hub.files("user/joint")[name], name
    for name in ("config.json", "processor_config.json"):
        places = json.loads(files[name])["auto_map"].values()
        assert not [place for place in places if "--" in place], name


def test_a_private_model_is_not_shown_without_a_token(exchange):
    assert "user/secret is not a local folder and is not a valid model identifier" in exchange["out"]["error"]
    assert "private" in exchange["out"]["error"]


def test_a_backbone_is_looked_up_on_the_hub(hub):
    assert "GET /api/models/user/Data2VecBackbone" in hub.requests
