"""A probe of a saved model: what is measured, on which samples, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from backbone_factory import encoder
from multi_labels import with_sets
from PIL import Image
from probed_model import probe, write_pictures
from processing_factory import feature_extractor, text_tokenizer

from d2v_train.data.builtin import load_python_prose
from d2v_train.data.labels import MissingLabelsError
from d2v_train.inputs.tokenizer import build_tokenizer
from d2v_train.inputs.vision import VisionTransform
from d2v_train.models.encoders import load_encoder
from d2v_train.probing import splits
from d2v_train.probing.features import extract
from d2v_train.probing.run import load_transform, read_probed_config
from modeling_d2v import Data2VecConfig, Data2VecForPreTraining


QUICK = dict(max_samples=100, seeds=(0, 1), few=3, neighbours=5)


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


def test_probing_on_the_training_samples_is_refused(saved_model):
    with pytest.raises(ValueError, match="fitted"):
        probe(saved_model, "vision", train_split="train", test_split="train")


def test_nothing_can_be_held_out_of_classes_with_one_sample(saved_model, tmp_path):
    write_pictures(tmp_path, per_class=1, classes=3)
    with pytest.raises(ValueError, match="class"):
        probe(saved_model, "vision", str(tmp_path / "train"))


def test_bad_samples_are_counted_and_left_out_of_every_measure(saved_model, tmp_path):
    write_pictures(tmp_path, per_class=8, classes=3, damaged=1)
    result = probe(saved_model, "vision", str(tmp_path), seeds=(0,), few=3, neighbours=3)
    assert result["bad_samples"] == 6 and result["train_samples"] == 24 and result["test_samples"] == 24
    assert result["simple"]["pixels"]["linear"] == 100.0


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "one split"])
def test_samples_without_a_label_are_left_out_and_counted(saved_model, tmp_path, kind, caplog):
    write_pictures(tmp_path, per_class=8, classes=2)
    if kind == "one split":
        shutil.rmtree(tmp_path / "test")
    for split in sorted(path.name for path in tmp_path.iterdir()):
        names = sorted(str(path.relative_to(tmp_path / split)) for path in (tmp_path / split).rglob("*.png"))
        labels = [None if name.endswith(("3.png", "5.png")) else name.split("/")[0] for name in names]
        if kind == "parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pictures = [{"bytes": (tmp_path / split / name).read_bytes(), "path": name} for name in names]
            shutil.rmtree(tmp_path / split)
            pq.write_table(pa.table({"image": pictures, "label": labels}), tmp_path / f"{split}.parquet")
        else:
            rows = [{"file_name": name, "label": label} for name, label in zip(names, labels, strict=True)]
            (tmp_path / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = probe(saved_model, "vision", str(tmp_path), simple=False, seeds=(0,), few=2, neighbours=3)
    whole = 16 if kind == "one split" else 32
    assert result["bad_samples"] == whole // 4
    assert result["train_samples"] + result["test_samples"] == whole - whole // 4
    assert "no label: 4 (" in caplog.text and "3.png" in caplog.text


def test_several_classes_each_are_refused(saved_model, tmp_path, monkeypatch):
    write_pictures(tmp_path, per_class=2, classes=2)
    opened = splits.open_dataset
    sets = {"class0": ("a", "b"), "class1": ("b",)}
    monkeypatch.setattr(splits, "open_dataset", lambda *args, **more: with_sets(opened(*args, **more), sets))
    with pytest.raises(MissingLabelsError, match="several classes each"):
        probe(saved_model, "vision", str(tmp_path))


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
