"""The processor: any subset of its parts through files, inputs that the model takes, CTC decoding."""

import copy
import logging
import pickle
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
import soundfile
import torch
from model_factory import HIDE_PACKAGE, tiny_config
from PIL import Image
from processing_factory import LETTERS, feature_extractor, image_processor, letter_tokenizer, text_tokenizer
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoProcessor, AutoTokenizer

from modeling_d2v import Data2VecModel, Data2VecProcessor


PARTS = ("tokenizer", "image_processor", "feature_extractor")
SUBSETS = [subset for size in (1, 2, 3) for subset in combinations(PARTS, size)]
LOADERS = dict(zip(PARTS, (AutoTokenizer, AutoImageProcessor, AutoFeatureExtractor), strict=True))
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))
WAVES = [np.random.default_rng(i).normal(size=n).astype(np.float32) for i, n in enumerate((900, 500))]


def make(*names):
    makers = dict(zip(PARTS, (text_tokenizer, image_processor, feature_extractor), strict=True))
    return Data2VecProcessor(**{name: makers[name]() for name in names})


@pytest.fixture
def speech(tmp_path):
    return Data2VecProcessor(tokenizer=letter_tokenizer(tmp_path), feature_extractor=feature_extractor())


def prepared(processor):
    """What each part that is there makes of the same inputs."""
    out = {}
    if hasattr(processor, "tokenizer"):
        out["text"] = processor(text=["the cat", "mat"], padding=True, return_tensors="pt")
    if hasattr(processor, "image_processor"):
        out["images"] = processor(images=PICTURE, return_tensors="pt")
    if hasattr(processor, "feature_extractor"):
        out["audio"] = processor(audio=WAVES, sampling_rate=16000, padding=True, return_tensors="pt")
    return out


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].keys() == second[name].keys()
        for key in first[name]:
            torch.testing.assert_close(first[name][key], second[name][key], rtol=0, atol=0)


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_files_give_back_exactly_the_parts(tmp_path, subset):
    processor = make(*subset)
    processor.save_pretrained(tmp_path)
    for again in (AutoProcessor.from_pretrained(tmp_path), Data2VecProcessor.from_pretrained(tmp_path)):
        assert type(again) is Data2VecProcessor
        assert [name for name in PARTS if hasattr(again, name)] == list(subset)
        assert_same(prepared(processor), prepared(again))
    for name in subset:
        assert type(LOADERS[name].from_pretrained(tmp_path)) is type(getattr(processor, name))
    again.save_pretrained(tmp_path / "again")
    assert_same(prepared(processor), prepared(AutoProcessor.from_pretrained(tmp_path / "again")))


@pytest.mark.parametrize("names", [("tokenizer", "image_processor"), ("feature_extractor",)], ids="+".join)
def test_parts_that_were_saved_one_by_one_are_found_beside_a_model(tmp_path, names):
    Data2VecModel(tiny_config()).save_pretrained(tmp_path)
    with pytest.raises(OSError, match="tokenizer"):
        AutoProcessor.from_pretrained(tmp_path)
    processor = make(*names)
    for name in names:
        getattr(processor, name).save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is Data2VecProcessor and again.get_attributes() == list(names)
    assert_same(prepared(processor), prepared(again))


def test_the_inputs_are_what_the_model_takes():
    processor = make(*PARTS)
    model = Data2VecModel(tiny_config(text_config={"vocab_size": len(processor.tokenizer)})).eval()
    keys = {"text": {"input_ids", "attention_mask"}, "images": {"pixel_values"}}
    keys["audio"] = {"input_values", "attention_mask"}
    for modality, inputs in prepared(processor).items():
        assert inputs.keys() == keys[modality]
        assert torch.isfinite(model(**inputs).pooler_output).all()
    assert prepared(processor)["audio"]["attention_mask"].sum(dim=1).tolist() == [900, 500]
    assert set(processor.model_input_names) == {*set.union(*keys.values()), "audio_attention_mask"}


def test_a_transcript_becomes_labels(speech):
    inputs = speech(audio=WAVES, text=["ab c", "d"], sampling_rate=16000, padding=True, return_tensors="pt")
    letters = [LETTERS.index(letter) for letter in "ab|c"]
    assert inputs["labels"].tolist() == [letters, [LETTERS.index("d"), -100, -100, -100]]
    alone = speech(audio=WAVES[0], text="ab c", sampling_rate=16000)
    assert alone["labels"] == [letters]
    assert inputs.keys() == {"input_values", "attention_mask", "labels"}


def test_recordings_are_taken_in_any_form(speech):
    options = dict(sampling_rate=16000, padding=True, return_tensors="pt")
    expected = speech(audio=WAVES, **options)
    for given in ([torch.from_numpy(wave) for wave in WAVES], [wave.tolist() for wave in WAVES], tuple(WAVES)):
        assert_same({"audio": speech(audio=given, **options)}, {"audio": expected})
    for given in (WAVES[0], torch.from_numpy(WAVES[0]), WAVES[0].tolist(), torch.from_numpy(WAVES[0])[None]):
        inputs = speech(audio=given, **options)
        torch.testing.assert_close(inputs["input_values"], expected["input_values"][:1], rtol=0, atol=0)


def test_recordings_as_soundfile_reads_them(speech):
    wave = np.random.default_rng(0).normal(size=900).astype(np.float32)
    expected = speech(audio=wave, sampling_rate=16000)
    for mono in (wave[:, None], [wave[:, None]], torch.from_numpy(wave)[:, None], [wave[None]]):
        assert_same({"audio": speech(audio=mono, sampling_rate=16000)}, {"audio": expected})
    for channels in (2, 6):
        stereo = np.stack([wave] * channels, axis=1)
        for given in (stereo, torch.from_numpy(stereo), [stereo, stereo]):
            with pytest.raises(ValueError, match="mean over the channels"):
                speech(audio=given, sampling_rate=16000)
    batch = np.stack([wave] * 2)
    assert len(speech(audio=batch, sampling_rate=16000)["input_values"]) == 2


def test_a_missing_sampling_rate_is_warned_of(speech, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    expected = speech(audio=WAVES, sampling_rate=16000)
    assert "sampling_rate" not in caplog.text
    assert_same({"audio": speech(audio=WAVES)}, {"audio": expected})
    assert "sampling_rate" in caplog.text
    assert_same({"audio": speech(audio=WAVES, audio_kwargs={"sampling_rate": 16000})}, {"audio": expected})


def test_an_argument_by_place_is_the_input_of_the_only_part(speech):
    only = make("feature_extractor")
    expected = only(audio=WAVES, sampling_rate=16000)
    assert_same({"audio": only(WAVES, sampling_rate=16000)}, {"audio": expected})
    assert_same({"audio": only(WAVES[0])}, {"audio": only(audio=WAVES[0])})
    texts = make("tokenizer")
    for given in (["the cat"], "the cat"):
        assert texts(given) == texts(text=given)
    pictures = make("image_processor")
    torch.testing.assert_close(
        pictures(PICTURE, return_tensors="pt")["pixel_values"],
        pictures(images=PICTURE, return_tensors="pt")["pixel_values"],
    )
    with_transcript = speech(WAVES, ["ab", "c"], sampling_rate=16000)
    assert with_transcript["labels"] == speech(audio=WAVES, text=["ab", "c"], sampling_rate=16000)["labels"]
    assert speech(["ab"])["input_ids"] == speech(text=["ab"])["input_ids"]
    with pytest.raises(TypeError, match="`audio` was given twice"):
        only(WAVES, audio=WAVES)


def test_several_modalities_in_one_call_give_the_union():
    processor = make(*PARTS)
    options = dict(padding=True, return_tensors="pt")
    texts = ["the cat", "mat"]
    inputs = processor(images=[PICTURE] * 2, text=texts, audio=WAVES, sampling_rate=16000, **options)
    assert set(inputs) == set(processor.model_input_names)
    text = processor(text=texts, **options)
    audio = processor(audio=WAVES, sampling_rate=16000, **options)
    for name, expected in (
        ("input_ids", text["input_ids"]),
        ("attention_mask", text["attention_mask"]),
        ("pixel_values", processor(images=[PICTURE] * 2, return_tensors="pt")["pixel_values"]),
        ("input_values", audio["input_values"]),
        ("audio_attention_mask", audio["attention_mask"]),
    ):
        torch.testing.assert_close(inputs[name], expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match="one modality"):
        Data2VecModel(tiny_config())(**inputs)
    for given in ({"text": texts, "images": [PICTURE] * 2}, {"images": [PICTURE] * 2, "audio": WAVES}):
        names = {"text": {"input_ids"}, "images": {"pixel_values"}, "audio": {"input_values"}}
        wanted = {*set.union(*(names[name] for name in given)), "attention_mask"}
        assert set(processor(**given, sampling_rate=16000, **options)) == wanted


def test_options_of_one_part_are_for_that_part():
    processor = make(*PARTS)
    inputs = processor(
        images=PICTURE,
        text="the cat",
        text_kwargs={"padding": "max_length", "max_length": 20},
        images_kwargs={"do_normalize": False},
        return_tensors="pt",
    )
    assert inputs["input_ids"].shape == (1, 20) and inputs["pixel_values"].min() >= 0
    with pytest.raises(ValueError, match="padding was passed two times"):
        processor(images=PICTURE, text="the", text_kwargs={"padding": False}, padding=True)


def test_what_is_saved_is_what_is_loaded(tmp_path):
    for subset in SUBSETS:
        folder = tmp_path / "+".join(subset)
        first = make(*subset)
        own = first.to_dict()["auto_map"]
        first.save_pretrained(folder)
        again = Data2VecProcessor.from_pretrained(folder).to_dict()
        assert again == first.to_dict() and again["auto_map"] == own


def test_pairs_of_texts():
    processor = make("tokenizer")
    ids = processor(text=["the"], text_pair=["cat"])["input_ids"]
    assert ids == processor.tokenizer(["the"], ["cat"])["input_ids"]


def test_mistakes_are_explained(speech):
    with pytest.raises(ValueError, match="image_processor"):
        Data2VecProcessor()
    with pytest.raises(ValueError, match="image_processor"):
        speech(images=PICTURE)
    with pytest.raises(AttributeError, match="image_processor"):
        _ = speech.image_processor
    with pytest.raises(ValueError, match="Nothing to prepare"):
        speech()
    with pytest.raises(ValueError, match="8000.*16000"):
        speech(audio=WAVES, sampling_rate=8000)
    for wrong in ([np.zeros((8000, 2))], [WAVES[0], np.zeros(0)], [], torch.zeros(1, 2, 8000)):
        with pytest.raises(ValueError, match="channels"):
            speech(audio=wrong, sampling_rate=16000)
    with pytest.raises(ValueError, match="2 recordings.*1 transcripts"):
        speech(audio=WAVES, text=["a"], sampling_rate=16000)
    with pytest.raises(ValueError, match="tokenizer"):
        make("image_processor").batch_decode(torch.zeros(1, 2))
    with pytest.raises(TypeError, match="Wav2Vec2FeatureExtractor"):
        Data2VecProcessor(feature_extractor())


def test_copies_and_worker_processes_get_the_processor():
    processor = make(*PARTS)
    for again in (copy.deepcopy(processor), pickle.loads(pickle.dumps(processor))):
        assert again.get_attributes() == list(PARTS)
        assert_same(prepared(processor), prepared(again))
    assert "Data2VecImageProcessor" in repr(processor)


WITHOUT_PACKAGE = (
    HIDE_PACKAGE
    + """
import sys, torch
import numpy as np
from PIL import Image
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoProcessor, AutoTokenizer
folder, again, out = sys.argv[1:]
picture = Image.fromarray(np.arange(40 * 50, dtype=np.uint16).reshape(40, 50) * 30)
for source in (folder, again):
    processor = AutoProcessor.from_pretrained(source, trust_remote_code=True)
    print(processor.get_attributes())
    pixels = AutoImageProcessor.from_pretrained(source, trust_remote_code=True)(picture, return_tensors="pt")
    AutoTokenizer.from_pretrained(source), AutoFeatureExtractor.from_pretrained(source)  # they are transformers' own
    processor.save_pretrained(again)
logits = torch.zeros(1, 3, 270).index_fill(2, torch.tensor([70]), 9.0)
torch.save(dict(pixels=pixels["pixel_values"], text=processor.decode_with_lm(logits)), out)
"""
)


def test_where_the_package_is_not_importable(tmp_path):
    """Loaded, saved and loaded again; the parts that transformers knows need no trust."""
    processor = make(*PARTS)
    processor.save_pretrained(tmp_path / "one")
    paths = [str(tmp_path / name) for name in ("one", "two", "out.pt")]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE, *paths],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [str(list(PARTS))] * 2
    out = torch.load(tmp_path / "out.pt", weights_only=True)
    picture = Image.fromarray(np.arange(40 * 50, dtype=np.uint16).reshape(40, 50) * 30)
    torch.testing.assert_close(out["pixels"], processor(images=picture, return_tensors="pt")["pixel_values"])
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert {"processing_data2vec.py", "image_processing_data2vec.py", "ctc_beam_search.py"} <= names
    assert names == {path.name for path in (tmp_path / "two").iterdir()}


def frames(text, peak=9.0):
    """Logits (1, T, V) of a model that is sure of one token a frame; "_" is the blank."""
    ids = [0 if letter == "_" else LETTERS.index(letter) for letter in text]
    return peak * torch.nn.functional.one_hot(torch.tensor([ids]), len(LETTERS)).float()


def test_greedy_decoding_with_offsets(speech):
    logits = frames("aa_ab|_cc")
    assert speech.batch_decode(logits) == ["aab c"]
    assert speech.batch_decode(logits.numpy()) == speech.batch_decode(logits.argmax(dim=-1)) == ["aab c"]
    assert speech.decode(logits[0]) == "aab c"
    words = speech.batch_decode(logits, output_word_offsets=True)["word_offsets"][0]
    assert [(w["word"], w["start_offset"], w["end_offset"]) for w in words] == [("aab", 0, 5), ("c", 7, 9)]
    letters = speech.decode(logits[0], output_char_offsets=True)["char_offsets"]
    assert [(c["char"], c["start_offset"]) for c in letters] == [("a", 0), ("a", 3), ("b", 4), (" ", 5), ("c", 7)]


def test_padding_is_not_decoded(speech):
    logits = torch.cat([frames("ab__"), frames("abcd")])
    assert speech.batch_decode(logits, lengths=[2, 4]) == ["ab", "abcd"]
    assert speech.batch_decode(logits, lengths=torch.tensor([4, 2])) == ["ab", "ab"]
    assert speech.decode_with_lm(logits, lengths=[4, 3]) == ["ab", "abc"]
    padded = torch.cat([frames("ab"), torch.full((1, 3, len(LETTERS)), -100.0)], dim=1)
    assert speech.batch_decode(padded) == ["ab"], "logits padded by Trainer"
    assert speech.batch_decode(torch.tensor([[5, 6, -100]])) == ["ab"], "ids padded by Trainer"


class OnlyBa:
    """A language model that has heard of one word."""

    def start(self):
        return 0

    def score(self, state, word):
        return (0.0 if word in ("ba", None) else -5.0), state + 1


def test_a_language_model_corrects_the_text(speech):
    logits = frames("ba|ba") + 0.9 * frames("bb|bb", peak=11.0)
    assert speech.batch_decode(logits) == ["b b"]
    assert speech.decode_with_lm(logits, OnlyBa(), alpha=1.0, beam_width=20) == ["ba ba"]
    assert speech.decode_with_lm(logits, OnlyBa(), alpha=0.0, beta=0.0) == speech.decode_with_lm(logits)


def test_decoding_needs_the_tokenizer_of_the_model(speech):
    with pytest.raises(ValueError, match="20.*12"):
        speech.decode_with_lm(torch.zeros(1, 4, 20))
    with pytest.raises(ValueError, match=r"\(4, 12\)"):
        speech.decode_with_lm(torch.zeros(4, 12))


def test_recordings_are_read_at_the_rate_of_the_model_in_one_channel(tmp_path):
    processor = Data2VecProcessor(feature_extractor=feature_extractor())
    tone = np.sin(np.arange(16000) / 10).astype(np.float32)
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone, 16000, subtype="FLOAT")
    assert np.array_equal(processor.load_audio(path), tone)
    with open(path, "rb") as file:
        assert np.array_equal(processor.load_audio(file), tone)
    for channels, expected in [((tone, 0 * tone), tone / 2), ((tone, -tone), tone)]:  # the second pair cancels itself
        soundfile.write(path, np.stack(channels, axis=1), 16000, subtype="FLOAT")
        assert np.allclose(processor.load_audio(path), expected, atol=1e-6)
    soundfile.write(path, tone[::2], 8000, subtype="FLOAT")
    found = processor.load_audio(path)
    assert found.dtype == np.float32 and found.shape == (16000,) and np.abs(found - tone)[200:-200].max() < 0.01


def test_recordings_that_cannot_be_read_say_so(tmp_path, monkeypatch):
    processor = Data2VecProcessor(feature_extractor=feature_extractor())
    path = tmp_path / "broken.wav"
    path.write_bytes(b"no sound")
    with pytest.raises(ValueError, match="broken.wav cannot be read as a recording"):
        processor.load_audio(path)
    with pytest.raises(ValueError, match="missing.wav cannot be read"):
        processor.load_audio(tmp_path / "missing.wav")
    soundfile.write(path, np.zeros(0), 16000)
    with pytest.raises(ValueError, match="without samples"):
        processor.load_audio(path)
    soundfile.write(path, np.zeros(100), 8000)
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(ImportError, match="8000 Hz.*pip install soxr"):
        processor.load_audio(path)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ImportError, match="pip install soundfile"):
        processor.load_audio(path)
    with pytest.raises(ValueError, match="text, not audio"):
        Data2VecProcessor(tokenizer=text_tokenizer()).load_audio(path)
