"""The probe program: its output, its parts and its refusals."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from backbone_factory import encoder
from PIL import Image
from processing_factory import feature_extractor, text_tokenizer

from d2v_train.data.builtin import load_digit_words, load_python_prose
from d2v_train.data.labels import MissingLabelsError
from d2v_train.inputs.tokenizer import build_tokenizer
from d2v_train.inputs.vision import VisionTransform
from d2v_train.models.encoders import load_encoder
from d2v_train.options.sections import ProbeDataOptions
from d2v_train.probing.features import extract
from d2v_train.probing.run import ProbeSettings, load_transform, read_probed_config, run_probe
from d2v_train.probing.splits import open_parts
from d2v_train.programs.probe import main
from modeling_d2v import BackbonePreTrainingConfig, Data2VecConfig, Data2VecForPreTraining


ROOT = Path(__file__).resolve().parents[3]
DECODER = dict(decoder_layers=1, decoder_kernel_size=3, decoder_hidden_size=32, decoder_groups=4)
QUICK = dict(max_samples=100, seeds=(0, 1), few=3, neighbours=5)


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    """Folder of a tiny model with random weights for all modalities, with its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = build_tokenizer(load_python_prose()["train"][0][:200], 300)
    config = Data2VecConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        vision_config=dict(image_size=8, patch_size=2, num_channels=1, prenet_depth=1, **DECODER),
        audio_config=dict(
            conv_dim=[8] * 5, conv_kernel=[10, 4, 4, 4, 4], conv_stride=[5, 4, 4, 4, 4], conv_pos_depth=1,
            conv_pos_width=3, conv_pos_groups=4, **DECODER,
        ),
        text_config=dict(vocab_size=len(tokenizer), max_position_embeddings=66, **DECODER),
    )  # fmt: skip
    torch.manual_seed(1)
    Data2VecForPreTraining(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def probe(folder, modality, data=None, **settings):
    return run_probe(ProbeSettings(model=str(folder), modality=modality, data=data, **settings))


def test_command_prints_one_line_of_json_and_all_else_to_stderr(saved_model):
    command = [sys.executable, "recipes/probe.py", str(saved_model), "--modality", "vision", "--max_samples", "120"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1
    result = json.loads(lines[0])
    for row in (result["pretrained"], result["random"], result["simple"]["pixels"]):
        assert set(row) == {"linear", "knn", "few", "few_std"}
        assert all(0.0 <= value <= 100.0 for value in row.values())
    expected = {"modality": "vision", "data": "builtin", "layer": "last", "classes": 10, "train_samples": 120}
    assert expected.items() <= result.items()
    assert result["model"] == str(saved_model) and result["test_samples"] == 120 and 5 < result["chance"] < 20
    assert "random" in done.stderr


@pytest.mark.parametrize("modality", ["audio", "text"])
def test_speech_and_text_are_probed_too(saved_model, modality, capsys):
    arguments = [str(saved_model), "--modality", modality, "--max_samples", "60", "--seeds", "0", "--few", "2"]
    main([*arguments, "--layer", "1"])
    result = json.loads(capsys.readouterr().out)
    assert result["layer"] == 1 and result["train_samples"] == 60 and result["seeds"] == [0]
    assert set(result["simple"]) == ({"mfcc", "mfcc_deltas"} if modality == "audio" else {"tfidf"})


def test_result_depends_on_the_weights_that_were_saved(saved_model, tmp_path):
    """Weights of zero give every picture the same features, so nothing but chance is left; random ones do better."""
    model = Data2VecForPreTraining.from_pretrained(saved_model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.save_pretrained(tmp_path)
    result = probe(tmp_path, "vision", simple=False, **QUICK)
    assert result["pretrained"]["linear"] == result["chance"]
    assert result["random"]["linear"] > result["chance"] + 10
    assert result["simple"] == {}


def test_same_arguments_give_the_same_result(saved_model):
    results = [probe(saved_model, "vision", simple=False, **QUICK) for _ in range(2)]
    for result in results:
        result.pop("seconds")
    assert results[0] == results[1]
    other = probe(saved_model, "vision", simple=False, random_seed=5, **QUICK)
    assert other["random"] != results[0]["random"]


def test_test_groups_are_tested_and_never_trained_on(saved_model):
    config = Data2VecConfig.from_pretrained(saved_model)
    voices = sorted(set(load_digit_words("train")[2]))
    section = ProbeDataOptions(test_split="train", test_groups=[voices[0]], exclude_groups=[voices[1]])
    train, test, held_out = open_parts("audio", config, section)
    assert not held_out
    assert set(test.groups) == {voices[0]}
    assert set(train.groups) == set(voices[2:])


def test_probing_on_the_training_samples_is_refused(saved_model):
    with pytest.raises(ValueError, match="fitted"):
        probe(saved_model, "vision", train_split="train", test_split="train")


def write_pictures(folder, per_class, classes, damaged=0):
    """An image folder with a folder per split and class; class c is a square of brightness 80 c."""
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in range(classes):
            target = folder / split / f"class{label}"
            target.mkdir(parents=True)
            for number in range(per_class):
                pixels = generator.integers(0, 40, (8, 8)) + 80 * label
                Image.fromarray(pixels.astype(np.uint8)).save(target / f"{number}.png")
            for number in range(damaged):
                (target / f"damaged{number}.png").write_bytes(b"no picture")


def test_folder_with_a_folder_for_each_class_and_no_test_part_is_probed(saved_model, tmp_path, capsys, caplog):
    write_pictures(tmp_path, per_class=12, classes=3)
    folder = str(tmp_path / "train")
    arguments = [str(saved_model), "--modality", "vision", "--data", folder, "--seeds", "0", "--few", "3"]
    main(arguments)
    result = json.loads(capsys.readouterr().out)
    assert result["held_out"] is True and result["train_samples"] == 30 and result["test_samples"] == 6
    assert result["simple"]["pixels"]["linear"] == 100.0
    assert "held out (6 samples)" in caplog.text
    for split in ("train", "test"):
        with pytest.raises(SystemExit, match="fitted on" if split == "train" else "There is no split 'test'"):
            main([*arguments, "--test_split", split])
    assert probe(saved_model, "vision", str(tmp_path), seeds=(0,), few=3)["held_out"] is False


def test_held_out_part_is_stratified_disjoint_and_the_same_every_time(saved_model, tmp_path):
    write_pictures(tmp_path, per_class=10, classes=3)
    config = Data2VecConfig.from_pretrained(saved_model)

    def names(max_samples=None):
        parts = open_parts("vision", config, ProbeDataOptions(data=str(tmp_path / "train")), max_samples)[:2]
        return [[part.name_of(index) for index in range(len(part))] for part in parts]

    train, test = names()
    assert len(train) == 24 and len(test) == 6 and not set(train) & set(test)
    assert sorted(name.split("/")[0] for name in test) == ["class0", "class0", "class1", "class1", "class2", "class2"]
    assert names() == [train, test]
    fewer = names(max_samples=5)
    assert [len(part) for part in fewer] == [5, 5]
    assert set(fewer[0]) <= set(train) and set(fewer[1]) <= set(test)


def test_nothing_can_be_held_out_of_classes_with_one_sample(saved_model, tmp_path):
    write_pictures(tmp_path, per_class=1, classes=3)
    with pytest.raises(ValueError, match="class"):
        probe(saved_model, "vision", str(tmp_path / "train"))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--batch_size", "0", "batch_size.*0.*1"),
        ("--max_samples", "-1", "max_samples.*-1.*1"),
        ("--max_seconds", "0", "max_seconds.*0.0.*0"),
        ("--device", "nosuch", "'nosuch'"),
    ],
)
def test_impossible_options_are_refused_in_a_sentence(saved_model, option, value, message):
    with pytest.raises(SystemExit, match=f"^d2v probe: .*{message}"):
        main([str(saved_model), "--modality", "vision", option, value])


def test_bad_samples_are_counted_and_left_out_of_every_measure(saved_model, tmp_path):
    write_pictures(tmp_path, per_class=8, classes=3, damaged=1)
    result = probe(saved_model, "vision", str(tmp_path), seeds=(0,), few=3, neighbours=3)
    assert result["bad_samples"] == 6 and result["train_samples"] == 24 and result["test_samples"] == 24
    assert result["simple"]["pixels"]["linear"] == 100.0


def test_data_without_labels_is_refused(saved_model, tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for number in range(3):
            Image.new("L", (8, 8), number).save(tmp_path / split / f"{number}.png")
    with pytest.raises(MissingLabelsError, match="label"):
        probe(saved_model, "vision", str(tmp_path))


def test_regression_labels_are_refused_and_alternatives_named(saved_model, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for split in ("train", "validation"):
        table = pa.table({"sentence1": ["a b"] * 3, "sentence2": ["c d"] * 3, "label": [0.5, 2.5, 4.0]})
        pq.write_table(table, tmp_path / f"{split}-00000-of-00001.parquet")
    with pytest.raises(MissingLabelsError, match="regression.*sst2"):
        probe(saved_model, "text", str(tmp_path))


def test_other_models_and_missing_modalities_are_refused(tmp_path, capsys):
    transformers.WhisperConfig().save_pretrained(tmp_path / "whisper")
    with pytest.raises(ValueError, match="whisper.*`input_features`"):
        probe(str(tmp_path / "whisper"), "audio")
    BackbonePreTrainingConfig(encoder_config=transformers.ViTConfig()).save_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match="final_backbone"):
        probe(str(tmp_path / "whole"), "vision")
    transformers.ViTConfig().save_pretrained(tmp_path / "vit")
    with pytest.raises(ValueError, match="text encoder"):
        probe(str(tmp_path / "vit"), "text")
    Data2VecConfig(modalities=["vision"]).save_pretrained(tmp_path / "vision")
    with pytest.raises(ValueError, match="audio encoder"):
        probe(str(tmp_path / "vision"), "audio")
    with pytest.raises(FileNotFoundError, match="`final`"):
        probe(str(tmp_path / "nothing"), "vision")
    with pytest.raises(SystemExit, match="audio encoder"):
        main([str(tmp_path / "vision"), "--modality", "audio"])
    with pytest.raises(SystemExit):
        main([str(tmp_path / "vision"), "--modality", "vision", "--layer", "first"])
    assert "'last'" in capsys.readouterr().err


def test_text_model_without_tokenizer_is_refused(tmp_path):
    Data2VecConfig(modalities=["text"]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="tokenizer"):
        probe(tmp_path, "text")


def test_a_tokenizer_of_more_tokens_than_the_model_is_refused(saved_model, tmp_path):
    shutil.copytree(saved_model, tmp_path / "model")
    tokenizer = build_tokenizer(load_python_prose()["train"][0][:200], 400)
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="400.*300"):
        probe(str(tmp_path / "model"), "text", **QUICK)


def test_normalisation_saved_with_the_model_is_used(saved_model, tmp_path):
    config = Data2VecConfig.from_pretrained(saved_model)
    processor = {"image_processor_type": "ViTImageProcessor", "image_mean": [0.1], "image_std": [0.2]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    found = load_transform(str(tmp_path), "vision", config)
    assert (found.mean, found.std) == ([0.1], [0.2])
    default = VisionTransform(image_size=8, num_channels=1, train=False)
    assert load_transform(str(saved_model), "vision", config) == default
    assert load_transform(str(tmp_path), "audio", config).standardised
    feature_extractor(do_normalize=False).save_pretrained(tmp_path / "speech")
    assert not load_transform(str(tmp_path / "speech"), "audio", config).standardised


def test_plain_encoders_of_transformers_are_probed_by_the_mean_of_real_tokens(tmp_path):
    tokenizer = text_tokenizer()
    tokenizer.mask_token = None
    tokenizer.save_pretrained(tmp_path)
    model = encoder("bert", vocab_size=len(tokenizer))
    model.save_pretrained(tmp_path)
    folder, texts = str(tmp_path), ["the cat", "the cat sat on the mat"]
    config = read_probed_config(folder, "text")
    records = [{"text": text, "id": number, "label": 0} for number, text in enumerate(texts)]
    transform, probed = load_transform(folder, "text", config), load_encoder(folder, config)
    last, first = (extract(probed, records, transform, layer=layer).features for layer in (None, 1))
    for row, one, text in zip(last, first, texts, strict=True):
        inputs = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            wanted = model(inputs, output_hidden_states=True).hidden_states
        np.testing.assert_allclose(row, wanted[-1][0].mean(dim=0), atol=1e-5)
        np.testing.assert_allclose(one, wanted[1][0].mean(dim=0), atol=1e-5)


def test_the_encoder_itself_its_random_twin_and_simple_features_are_measured(tmp_path):
    model = encoder("dinov2_with_registers", image_size=8, patch_size=2, num_channels=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.save_pretrained(tmp_path)
    result = probe(tmp_path, "vision", layer=2, **QUICK)
    assert result["pretrained"]["linear"] == result["chance"] and result["layer"] == 2
    assert result["random"]["linear"] > result["chance"] + 10 and "pixels" in result["simple"]


def test_pictures_are_cut_as_in_training_and_normalised_as_saved(saved_model, tmp_path):
    processor = {"image_processor_type": "ViTImageProcessor", "image_mean": [0.1], "image_std": [0.2]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    config = Data2VecConfig.from_pretrained(saved_model)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 50)).astype(np.uint8)
    # Interpolation looks a few columns beyond the cut, which goes from 15 to 35.
    other_sides = np.pad(pixels[:, 10:40], ((0, 0), (10, 10)))
    made = [
        transform({"image": Image.fromarray(picture), "id": 0})["pixel_values"]
        for transform in (
            load_transform(str(tmp_path), "vision", config),
            VisionTransform(image_size=8, num_channels=1, mean=0.1, std=0.2, train=False),
        )
        for picture in (pixels, other_sides)
    ]
    assert made[0].shape == (1, 8, 8)
    for other in made[1:]:
        torch.testing.assert_close(made[0], other)
