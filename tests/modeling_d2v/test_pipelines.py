"""Pipelines of transformers over saved folders: right results, and nothing to warn of."""

import logging
import sys
import warnings

import numpy as np
import pytest
import soundfile
import torch
from head_factory import make_head
from model_factory import randomise, tiny_config
from PIL import Image
from processing_factory import LETTERS, feature_extractor, image_processor, letter_tokenizer, text_tokenizer
from transformers import AutoProcessor, pipeline

from modeling_d2v import Data2VecModel, Data2VecProcessor


RATE = 16000
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))
TEXTS = ["the cat sat", "on the mat the cat sat on"]
SOUND = np.random.default_rng(0).normal(size=RATE).astype(np.float32)


@pytest.fixture(autouse=True)
def nothing_to_warn_of():
    """Fails a test in which transformers logs a warning or anything warns."""
    said = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield said
    logger.removeHandler(handler)
    assert said == [] and [str(warning.message) for warning in warned] == []


def named(*labels):
    """What a configuration takes to name its classes."""
    return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}


def save(folder, model, **parts):
    model.save_pretrained(folder)
    Data2VecProcessor(**parts).save_pretrained(folder)
    return folder


@pytest.fixture
def text(tmp_path):
    """Makes a text head, saves it with a tokenizer, and gives (head, tokenizer, folder)."""

    def make(name, **overrides):
        tokenizer = text_tokenizer()
        model = make_head(name, text_config={"vocab_size": len(tokenizer)}, **overrides)
        return model, tokenizer, save(tmp_path / "model", model, tokenizer=tokenizer)

    return make


def test_text_classification(text):
    model, tokenizer, folder = text("Data2VecForSequenceClassification", **named("bad", "good", "so so"))
    found = pipeline("text-classification", model=folder)(TEXTS, batch_size=2, top_k=None)
    for sample, labels in zip(TEXTS, found, strict=True):
        scores = model(**tokenizer(sample, return_tensors="pt")).logits.softmax(dim=-1)[0]
        assert {entry["label"] for entry in labels} == {"bad", "good", "so so"}
        for entry in labels:
            assert entry["score"] == pytest.approx(scores[model.config.label2id[entry["label"]]].item(), abs=1e-5)


def test_a_pair_of_texts_is_classified(text):
    model, tokenizer, folder = text("Data2VecForSequenceClassification")
    (found,) = pipeline("text-classification", model=folder)([{"text": TEXTS[0], "text_pair": TEXTS[1]}])
    logits = model(**tokenizer(TEXTS[0], TEXTS[1], return_tensors="pt")).logits
    assert found["score"] == pytest.approx(logits.softmax(dim=-1).max().item(), abs=1e-5)


def test_zero_shot_classification(text):
    _, _, folder = text("Data2VecForSequenceClassification", **named("contradiction", "neutral", "entailment"))
    found = pipeline("zero-shot-classification", model=folder)(TEXTS[0], candidate_labels=["cat", "mat"])
    assert sorted(found["labels"]) == ["cat", "mat"] and sum(found["scores"]) == pytest.approx(1)


@pytest.mark.parametrize("strategy", ["none", "simple"])
def test_token_classification(text, strategy):
    model, tokenizer, folder = text("Data2VecForTokenClassification", **named("O", "B-X", "I-X"))
    found = pipeline("token-classification", model=folder, aggregation_strategy=strategy, ignore_labels=[])(TEXTS[1])
    encoded = tokenizer(TEXTS[1], return_tensors="pt", return_offsets_mapping=True)
    offsets = encoded.pop("offset_mapping")[0, 1:-1].tolist()
    ids = model(**encoded).logits[0, 1:-1].argmax(dim=-1).tolist()
    if strategy == "none":
        assert [entry["entity"] for entry in found] == [model.config.id2label[i] for i in ids]
        assert [[entry["start"], entry["end"]] for entry in found] == offsets
    else:
        assert [found[0]["start"], found[-1]["end"]] == [0, len(TEXTS[1])]
        assert all("entity_group" in entry for entry in found)


def test_fill_mask(text):
    model, tokenizer, folder = text("Data2VecForMaskedLM")
    found = pipeline("fill-mask", model=folder)("the <mask> sat", top_k=3)
    encoded = tokenizer("the <mask> sat", return_tensors="pt")
    place = (encoded["input_ids"][0] == tokenizer.mask_token_id).nonzero().item()
    scores = model(**encoded).logits[0, place].softmax(dim=-1)
    assert [entry["token"] for entry in found] == scores.topk(3).indices.tolist()
    assert [entry["score"] for entry in found] == pytest.approx(scores.topk(3).values.tolist(), abs=1e-5)


def test_feature_extraction(tmp_path):
    tokenizer = text_tokenizer()
    model = randomise(Data2VecModel(tiny_config("text", text_config={"vocab_size": len(tokenizer)}))).eval()
    save(tmp_path, model, tokenizer=tokenizer)
    found = pipeline("feature-extraction", model=tmp_path)(TEXTS, return_tensors=True, batch_size=2)
    for sample, features in zip(TEXTS, found, strict=True):
        expected = model(**tokenizer(sample, return_tensors="pt")).last_hidden_state
        torch.testing.assert_close(features[:, : expected.shape[1]], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels", [3, 1])
def test_image_classification(tmp_path, channels):
    model = make_head("Data2VecForImageClassification", vision_config={"num_channels": channels})
    processor = image_processor(channels)
    save(tmp_path, model, image_processor=processor)
    found = pipeline("image-classification", model=tmp_path)([PICTURE, PICTURE.rotate(90)], batch_size=2, top_k=3)
    for picture, labels in zip((PICTURE, PICTURE.rotate(90)), found, strict=True):
        scores = model(**processor(picture, return_tensors="pt")).logits.softmax(dim=-1)[0]
        assert [entry["score"] for entry in labels] == pytest.approx(sorted(scores.tolist(), reverse=True), abs=1e-5)


def test_image_segmentation(tmp_path):
    model = make_head("Data2VecForSemanticSegmentation", **named("sky", "road", "tree"))
    processor = image_processor(size={"height": 32, "width": 32}, do_center_crop=False)
    save(tmp_path, model, image_processor=processor)
    found = pipeline("image-segmentation", model=tmp_path)(PICTURE)
    logits = model(**processor(PICTURE, return_tensors="pt")).logits
    ids = torch.nn.functional.interpolate(logits, (40, 50), mode="bilinear")[0].argmax(dim=0).numpy()
    assert {entry["label"] for entry in found} == {model.config.id2label[i] for i in np.unique(ids)}
    for entry in found:
        assert entry["mask"].size == PICTURE.size
        np.testing.assert_array_equal(np.asarray(entry["mask"]) > 0, ids == model.config.label2id[entry["label"]])


def test_image_feature_extraction(tmp_path):
    model = randomise(Data2VecModel(tiny_config("vision"))).eval()
    save(tmp_path, model, image_processor=image_processor())
    extractor = pipeline("image-feature-extraction", model=tmp_path)
    expected = model(**image_processor()(PICTURE, return_tensors="pt"))
    torch.testing.assert_close(extractor(PICTURE, return_tensors=True), expected.last_hidden_state, atol=1e-5, rtol=0)
    torch.testing.assert_close(extractor(PICTURE, return_tensors=True, pool=True), expected.pooler_output)


def test_audio_classification(tmp_path):
    model = make_head("Data2VecForAudioClassification")
    save(tmp_path, model, feature_extractor=feature_extractor())
    sounds = [SOUND[:6000], SOUND[:3000]]
    found = pipeline("audio-classification", model=tmp_path)(sounds, batch_size=2, top_k=3)
    for sound, labels in zip(sounds, found, strict=True):
        inputs = feature_extractor()(sound, sampling_rate=RATE, return_tensors="pt")
        scores = model(**inputs).logits.softmax(dim=-1)[0].tolist()
        assert [entry["score"] for entry in labels] == pytest.approx(sorted(scores, reverse=True), abs=1e-5)


def recogniser(folder, local=False):
    """A CTC model in a folder; with `local`, a frame depends on nothing but the samples below it."""
    model = make_head("Data2VecForCTC", audio_config={"vocab_size": len(LETTERS)})
    if local:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".attention.projection." in name or ".fc2." in name or ".position_encoder." in name:
                    parameter.zero_()
    extractor = feature_extractor(do_normalize=not local)
    folder.mkdir()
    save(folder, model, tokenizer=letter_tokenizer(folder), feature_extractor=extractor)
    return model, Data2VecProcessor.from_pretrained(folder)


def words_of(model, processor, sound):
    """Greedy text and the time stamps in seconds of its words."""
    inputs = processor(audio=sound, sampling_rate=RATE, return_tensors="pt")
    decoded = processor.decode(model(**inputs).logits[0], output_word_offsets=True)
    seconds = model.config.inputs_to_logits_ratio / RATE
    return decoded["text"], [
        (w["word"], w["start_offset"] * seconds, w["end_offset"] * seconds) for w in decoded["word_offsets"]
    ]


def test_speech_recognition_with_time_stamps(tmp_path):
    model, processor = recogniser(tmp_path / "model")
    assert model.config.inputs_to_logits_ratio == 320
    found = pipeline("automatic-speech-recognition", model=tmp_path / "model")(SOUND, return_timestamps="word")
    text, words = words_of(model, processor, SOUND)
    assert found["text"] == text and len(set(text)) > 2
    assert [chunk["text"] for chunk in found["chunks"]] == [word for word, _, _ in words]
    for chunk, (_, start, end) in zip(found["chunks"], words, strict=True):
        assert chunk["timestamp"] == pytest.approx((start, end))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_long_recordings_are_recognised_in_chunks(tmp_path, batch_size):
    """The parts are joined without a seam, since the strides cover what a frame sees."""
    model, processor = recogniser(tmp_path / "model", local=True)
    sound = np.random.default_rng(1).normal(size=int(3.7 * RATE)).astype(np.float32)
    sound *= np.repeat(np.random.default_rng(2).uniform(0, 3, 37), RATE // 10)
    recognise = pipeline("automatic-speech-recognition", model=tmp_path / "model")
    options = dict(chunk_length_s=1.0, stride_length_s=0.2, return_timestamps="word")
    found = recognise(sound, batch_size=batch_size, **options)
    text, words = words_of(model, processor, sound)
    assert found["text"] == text and len(set(text)) > 2 and len(words) > 3
    assert [chunk["text"] for chunk in found["chunks"]] == [word for word, _, _ in words]
    stamps = [chunk["timestamp"] for chunk in found["chunks"]]
    np.testing.assert_allclose(stamps, [(start, end) for _, start, end in words], atol=1e-6)
    assert stamps[-1][1] > 3


def test_recordings_of_several_lengths_are_recognised_in_one_batch(tmp_path):
    model, processor = recogniser(tmp_path / "model")
    sounds = [SOUND, SOUND[:7000], SOUND[:3000]]
    recognise = pipeline("automatic-speech-recognition", model=tmp_path / "model")
    alone = [words_of(model, processor, sound)[0] for sound in sounds]
    for batch_size in (1, 3):
        assert [
            found["text"] for found in recognise([sound.copy() for sound in sounds], batch_size=batch_size)
        ] == alone
    inputs = processor(audio=sounds, sampling_rate=RATE, padding=True, return_tensors="pt")
    lengths = model.config.audio_config.num_frames(inputs["attention_mask"].sum(dim=1))
    logits = model(**inputs).logits
    assert processor.batch_decode(logits, lengths=lengths) == processor.batch_decode(logits) == alone


def test_the_alarm_of_this_file_rings(nothing_to_warn_of):
    logging.getLogger("transformers.pipelines").warning("a warning")
    assert nothing_to_warn_of == ["a warning"]
    nothing_to_warn_of.clear()


@pytest.mark.parametrize("rate, suffix", [(RATE, "flac"), (8000, "wav"), (44100, "ogg")])
def test_recordings_are_read_without_ffmpeg_and_torchaudio(tmp_path, rate, suffix, monkeypatch):
    """In the line of the README; the result is that of the samples, whatever rate and number of channels they have."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    monkeypatch.setitem(sys.modules, "librosa", None)
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    model = randomise(make_head("Data2VecForAudioClassification", **named("a", "b", "c"))).eval()
    folder = save(tmp_path / "model", model, feature_extractor=feature_extractor())
    time = np.arange(rate) / rate
    tone = 0.4 * np.sin(2 * np.pi * 300 * time).astype(np.float32)
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, np.stack([tone, tone], axis=1), rate)
    classify = pipeline("audio-classification", str(folder))
    found = classify(AutoProcessor.from_pretrained(folder).load_audio(str(path)))
    expected = classify(0.4 * np.sin(2 * np.pi * 300 * np.arange(RATE) / RATE).astype(np.float32))
    assert [entry["label"] for entry in found] == [entry["label"] for entry in expected]
    assert [entry["score"] for entry in found] == pytest.approx([entry["score"] for entry in expected], abs=0.02)
    with pytest.raises(ValueError, match="ffmpeg"):
        classify(str(path))
