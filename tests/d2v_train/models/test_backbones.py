"""Encoders of transformers through the pretraining program: options, inputs as they prepare them, resuming, export."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import transformers
import yaml
from backbone_factory import encoder
from hub_server import HubServer
from processing_factory import feature_extractor, text_tokenizer
from safetensors.torch import load_file
from tiny_run import pretrain, stopped_before

from d2v_train.health.advice import advice_at_start
from d2v_train.health.rules import POSITION_ADVICE
from d2v_train.models.backbones import build_backbone_config, complete_options
from d2v_train.models.build import build_model
from d2v_train.options.errors import OptionError
from d2v_train.options.files import build_options, load_options
from d2v_train.pretraining.session import upload_final
from d2v_train.probing.run import ProbeSettings, run_probe
from d2v_train.programs import publish
from d2v_train.support.jsonl import read_log
from modeling_d2v import BackbonePreTrainingConfig, Data2VecConfig


COMMON = {"max_steps": 4, "logging": {"every": 1}, "checkpoints": {"every": 2}, "cpu": True, "optim": {"lr": 1e-3}}
RUNS = {
    "text": {"text": {"batch_size": 3, "transform": {"max_length": 24}}},
    "vision": {"vision": {"batch_size": 4}, "model": {"mask_prob": 0.5}},
    "audio": {
        "audio": {"batch_size": 3, "transform": {"crop_seconds": [0.2, 0.4]}, "dataset": {"max_samples": 20}},
        "model": {"average_top_k_layers": 2},
    },
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Folders of encoders with what prepares their inputs, by modality."""
    folders = {name: tmp_path_factory.mktemp(name) for name in RUNS}
    tokenizer = text_tokenizer()
    tokenizer.save_pretrained(folders["text"])
    encoder("roberta", vocab_size=len(tokenizer)).save_pretrained(folders["text"])
    transformers.ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.4], image_std=[0.3]).save_pretrained(
        folders["vision"]
    )
    encoder("vit", image_size=8, patch_size=2, num_channels=1).save_pretrained(folders["vision"])
    feature_extractor(do_normalize=False).save_pretrained(folders["audio"])
    encoder("hubert").save_pretrained(folders["audio"])
    return folders


@pytest.fixture
def options(sources, tmp_path):
    """Writes the options of a run, and gives their path."""

    def write(name, **changes):
        tree = {**COMMON, **RUNS[name], "data": {name: "builtin"}, "backbone": str(sources[name]), **changes}
        if name == "text":
            (tmp_path / "text.txt").write_text("\n\n".join(f"the cat number {i} sat on the mat" for i in range(99)))
            tree["data"] = {"text": str(tmp_path / "text.txt")}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(tree))
        return path

    return write


@pytest.mark.parametrize("name", RUNS)
def test_run_goes_on_bit_for_bit_and_gives_the_plain_encoder_back(name, options, sources, tmp_path):
    path = options(name)
    pretrain(path, tmp_path / "whole")
    with stopped_before(3):
        pretrain(path, tmp_path / "cut")
    pretrain(path, tmp_path / "cut")

    for folder in ("final", "final_backbone"):
        one, other = (load_file(tmp_path / kind / folder / "model.safetensors") for kind in ("whole", "cut"))
        assert all(torch.equal(one[key], other[key]) for key in one)
    records = read_log(tmp_path / "whole" / "log.jsonl")
    assert len(records) == 4 and all(np.isfinite(record[f"{name}/loss"]) for record in records)
    assert 0.05 < records[-1][f"{name}/masked_fraction"] < 0.7 and records[-1]["tokens_per_s"] > 0
    assert records[-1]["utilisation"] > 0

    plain = transformers.AutoModel.from_pretrained(tmp_path / "whole" / "final_backbone")
    whole = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "whole" / "final")
    before = transformers.AutoModel.from_pretrained(sources[name])
    assert type(plain) is type(before) and int(whole.ema_step) == 4
    state = whole.backbone.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in plain.state_dict().items())
    assert plain.config.to_diff_dict() == {**before.config.to_diff_dict(), "dtype": "float32"}
    changed = {key for key, value in before.state_dict().items() if not torch.equal(value, state[key])}
    assert any("layer" in key for key in changed) and not any("pooler" in key for key in changed)
    card = (tmp_path / "whole" / "final_backbone" / "README.md").read_text()
    assert type(plain).__name__ in card and "AutoModel.from_pretrained" in card and str(tmp_path) not in card
    loader = {"text": "AutoTokenizer", "vision": "AutoImageProcessor", "audio": "AutoFeatureExtractor"}[name]
    assert getattr(transformers, loader).from_pretrained(tmp_path / "whole" / "final_backbone") is not None


def completed(path):
    return complete_options(load_options(path, ["output_dir=unused"]))


def test_inputs_are_prepared_as_the_encoder_says(options):
    vision = completed(options("vision"))
    assert vision.vision.transform == {"mean": [0.4], "std": [0.3]}
    audio = completed(options("audio"))
    assert audio.audio.transform == {"standardised": False, "crop_seconds": [0.2, 0.4]}
    text = completed(options("text"))
    assert text.text.tokenizer == text.backbone
    config = build_backbone_config(text)
    tokenizer = transformers.AutoTokenizer.from_pretrained(text.backbone)
    assert (config.mask_token_id, config.vocab_size) == (tokenizer.mask_token_id, len(tokenizer))
    assert config.max_position_embeddings == 40 and config.special_token_ids == sorted(tokenizer.all_special_ids)
    own = completed(options("vision", vision={"batch_size": 4, "transform": {"mean": 0.5}}))
    assert own.vision.transform == {"mean": 0.5, "std": [0.3]}


def test_model_section_sets_the_objective(options):
    chosen = completed(options("audio"))
    config = build_backbone_config(dataclasses.replace(chosen, model={"mask_prob": 0.3, "ema_decay": 0.5}))
    model = build_model(chosen, config)
    assert model.config.mask_prob == 0.3 and model.teacher_decay(0) == 0.5 and model.config.mask_length == 10
    assert torch.equal(model.teacher.get_parameter("masked_spec_embed"), model.backbone.masked_spec_embed)


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("vision", {"init_from": "x"}, "init_from"),
        ("vision", {"model": {"preset": "vision-base"}}, "model.preset"),
        ("vision", {"audio": {}}, "audio=null"),
        ("vision", {"model": {"mask_probability": 0.5}}, "'model.mask_prob'"),
        ("vision", {"vision": None, "audio": {}}, "vision.*audio"),
        ("vision", {"backbone": "missing/folder/name"}, "folder"),
        ("text", {"model": {"layers": "blocks"}}, "`encoder.layer`"),
        ("audio", {"model": {"average_top_k_layers": 9}}, "average_top_k_layers"),
        ("vision", {"model": {"hidden_size": 64}}, "model=null"),
    ],
)
def test_wrong_options_are_named(name, changes, message, options, tmp_path):
    with pytest.raises(OptionError, match=message):
        pretrain(options(name, **changes), tmp_path / "run")


@pytest.mark.parametrize(
    "config, message",
    [
        (transformers.WhisperConfig(), "`input_features`"),
        (Data2VecConfig(), "init_from"),
        (
            BackbonePreTrainingConfig(encoder_config=transformers.ViTConfig()),
            "final_backbone",
        ),
    ],
    ids=["spectrograms", "own", "whole"],
)
def test_what_is_no_encoder_to_train_is_refused(config, message, tmp_path):
    config.save_pretrained(tmp_path)
    tree = {**COMMON, "audio": {"batch_size": 1}, "backbone": str(tmp_path), "output_dir": "unused"}
    with pytest.raises(OptionError, match=message):
        complete_options(build_options(tree))


def test_folders_without_a_tokenizer_are_named(options, sources, tmp_path):
    transformers.AutoModel.from_pretrained(sources["text"]).save_pretrained(tmp_path / "bare")
    with pytest.raises(OptionError, match="special"):
        pretrain(options("text", backbone=str(tmp_path / "bare")), tmp_path / "run")


def test_a_tokenizer_of_more_tokens_than_the_encoder_has_is_refused(options, sources, tmp_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(sources["text"])
    size = len(tokenizer)
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(OptionError, match=f"{size + 1} tokens.*{size}.*text.tokenizer"):
        pretrain(options("text"), tmp_path / "run", f"text.tokenizer={tmp_path / 'tokenizer'}")


def test_probe_reads_the_encoder(options, sources, tmp_path):
    pretrain(options("vision", max_steps=1), tmp_path / "run", "probe.every=1", "probe.max_samples=100")
    first, last = read_log(tmp_path / "run" / "log.jsonl")
    assert {"vision/probe_knn", "vision/probe_knn_random", "vision/probe_chance"} <= first.keys()
    # Random weights tell some digits apart, unless nothing is read.
    assert last["vision/probe_knn"] > first["vision/probe_chance"] + 5 and last["vision/probe_rank"] > 1.5
    # The same measure by hand, before and after.
    for folder, seen in ((sources["vision"], first), (tmp_path / "run" / "final_backbone", last)):
        settings = ProbeSettings(model=str(folder), modality="vision", max_samples=100, neighbours=20, simple=False)
        result = run_probe(settings)
        assert result["pretrained"]["knn"] == seen["vision/probe_knn"]
        assert result["random"]["knn"] == first["vision/probe_knn_random"]


def test_advice_names_keys_that_a_run_has(options):
    chosen = completed(options("vision", vision={"batch_size": 1}))
    config = build_backbone_config(chosen)
    (found,) = advice_at_start(chosen, config)
    assert "model.num_masks" in found.message and "vision_config" not in found.message
    assert "model.audio_config" not in POSITION_ADVICE["audio"](completed(options("audio")))


def test_resolved_options_are_kept_and_the_plain_encoder_goes_up(options, sources, tmp_path, monkeypatch, caplog):
    (sources["vision"] / "README.md").write_text("---\nlicense: mit\n---\n")
    with HubServer() as server:
        server.connect(monkeypatch)
        pretrain(options("vision", max_steps=1), tmp_path / "run", "hub.push=true", "hub.model_id=user/continued")
        files = server.files("user/continued")
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} <= set(files)
    assert not {name for name in files if name.endswith(".py")}
    card = files["README.md"].decode()
    assert "license: mit" in card and 'AutoModel.from_pretrained("user/continued")' in card
    (sources["vision"] / "README.md").unlink()
    upload_final(tmp_path / "run" / "final", "user/other", None)
    assert "licence" in caplog.text
    assert f"d2v publish {tmp_path / 'run' / 'final'} user/other" in caplog.text
    made = publish.run_program(
        [str(tmp_path / "run"), "user/x", "--weights", "teacher", "--license", "mit", "--dry_run"]
    )
    assert made.files.keys() == set(files) - {".gitattributes"} and "code beside them" not in made.card
    with pytest.raises(ValueError, match="package"):
        publish.run_program([str(tmp_path / "run"), "user/x", "--weights", "all", "--license", "mit", "--dry_run"])
    with pytest.raises(ValueError, match="folder"):
        publish.run_program([str(tmp_path / "run" / "final_backbone"), "user/x", "--dry_run"])
    kept = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    assert kept["vision"]["transform"] == {"mean": [0.4], "std": [0.3]}
    saved = json.loads((tmp_path / "run" / "final" / "config.json").read_text())
    assert saved["model_type"] == "data2vec-backbone-pretraining" and saved["encoder_config"]["model_type"] == "vit"
