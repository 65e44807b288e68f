"""Pictures of masks and of neighbours: what they show, and that the model does not notice."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from d2v_train.batching.build import build_steps
from d2v_train.data.source_list import open_sources
from d2v_train.models.build import build_config, build_model
from d2v_train.options.files import load_options
from d2v_train.pretraining.run_tokenizer import prepare_tokenizer
from d2v_train.probing import pictures as module
from d2v_train.probing.drawings import HIDDEN
from d2v_train.probing.observers import Observers
from d2v_train.probing.pictures import Pictures, label_text, short_names
from d2v_train.support.extras import MissingDependencyError


SMALL = ["output_dir=x", "text.transform.max_length=24", "text.tokenizer_documents=20", "text.dataset.max_samples=20",
         "model.text_config.vocab_size=300", "vision.dataset.max_samples=20", "audio.dataset.max_samples=20",
         "audio.transform.crop_seconds=[0.3, 0.6]"]  # fmt: skip


def share_of(path, colour=HIDDEN, tolerance=12):
    """Share of the pixels of a picture that have about a colour."""
    wanted = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)])
    return (np.abs(np.asarray(Image.open(path).convert("RGB"), dtype=int) - wanted).max(axis=2) < tolerance).mean()


@pytest.mark.parametrize(
    "names, short",
    [
        (["a/one.wav", "b/two.wav"], ["one.wav", "two.wav"]),
        (["s1/a/0.wav", "s1/b/0.wav", "s1/b/1.wav", "s1/a/0.wav"], ["a/0.wav", "b/0.wav", "1.wav", "a/0.wav"]),
        (["row 3 (x/0.wav)", "row 14 (y/0.wav)", "row 2"], ["row 3", "row 14", "row 2"]),
        (["1" + "x" * 40, "2" + "x" * 40], ["x" * 28 + " (1)", "x" * 28 + " (2)"]),
    ],
)
def test_names_of_samples_are_short_and_tell_them_apart(names, short):
    assert short_names(names) == short


def test_every_modality_is_drawn_and_the_model_does_not_notice(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "POOL", 8)
    options = load_options("tiny_joint", SMALL)
    sources = open_sources(options, {"vision": {"channels": 1}})
    tokenizer = prepare_tokenizer(options, sources["text"], tmp_path / "tokenizer")
    config = build_config(options, len(tokenizer))
    steps = build_steps(options, config, sources, tokenizer)
    model = build_model(options, config).train()
    shared = {}

    def share(drawn, step):
        shared.update({name: (path, step) for name, path in drawn.items()})

    observer = Pictures(5, tmp_path, steps, config, tokenizer, share=share)

    observers = Observers([observer, Pictures(0, tmp_path, steps, config)])
    assert observers.due(0) and observers.due(5) and not observers.due(4)
    before, state = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    assert observers.look(model, 4) == observers.look(model, 5) == {}
    assert torch.equal(state, torch.get_rng_state())
    assert model.training and model.data2vec.training and not model.teacher.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    expected = {f"{name}/{kind}" for name in ("vision", "audio", "text") for kind in ("masks", "neighbours")}
    assert shared.keys() == expected and {step for _, step in shared.values()} == {5}
    assert len(list((tmp_path / "pictures").iterdir())) == 6
    for path, _ in shared.values():
        assert path.name.startswith("step_00000005_") and Image.open(path).width > 500
    assert share_of(shared["vision/masks"][0], tolerance=40) > 0.2  # seven tenths of three of four pictures


def test_picture_that_cannot_be_drawn_ends_no_run(tmp_path, monkeypatch, caplog):
    shared = []
    observer = Pictures(1, tmp_path, None, None, share=lambda drawn, step: shared.append(drawn))

    def refuse(first):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(observer, "_samples", refuse)
    assert observer.look(torch.nn.Linear(1, 1), 7) == {} and shared == []
    assert "No space left on device" in caplog.text


def test_missing_library_is_named_before_the_run(tmp_path, monkeypatch):
    def missing(name, extra):
        raise MissingDependencyError(f"{name} of {extra}")

    monkeypatch.setattr(module, "need", missing)
    Pictures(0, tmp_path, None, None)
    with pytest.raises(MissingDependencyError, match="matplotlib"):
        Pictures(10, tmp_path, None, None)


@pytest.mark.parametrize(
    "labels, names, texts",
    [
        (None, None, ["", ""]),
        (np.array([1, -1]), ["cat", "dog"], ["dog", ""]),
        (np.array([0.5, np.nan], dtype=np.float32), None, ["0.5", ""]),
        (np.array([[1, 0, 1], [np.nan] * 3], dtype=np.float32), ["a", "b", "c"], ["a, c", ""]),
        (np.array([0, 1]), ["a" * 30, "two\nlines"], ["a" * 19 + "…", "two lines"]),
    ],
)
def test_samples_are_named_by_their_labels(labels, names, texts):
    dataset = SimpleNamespace(labels=labels, label_names=names)
    assert [label_text(dataset, index) for index in range(2)] == texts
