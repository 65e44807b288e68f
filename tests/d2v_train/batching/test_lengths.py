"""Lengths of samples without decoding them: headers, columns, tokenizers; never less than what the model gets."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from datasets import Audio, Dataset
from model_factory import SPECTROGRAM

from d2v_train.batching import lengths as module
from d2v_train.batching.lengths import header_seconds, read_header, sample_counts, token_lengths
from d2v_train.data.records import RawDataset, open_dataset
from d2v_train.data.tables import SourceSettings, Table
from d2v_train.inputs.byte_tokens import BYTE_IDS, byte_tokenizer
from d2v_train.inputs.tokenizer import build_tokenizer
from d2v_train.inputs.transforms import build_transform
from d2v_train.options.errors import OptionError
from d2v_train.options.files import build_options
from modeling_d2v import Data2VecConfig


CONFIG = Data2VecConfig(
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    modalities=["audio", "text", "vision"],
    text_config={"max_position_embeddings": 40, "vocab_size": 300, "mask_token_id": 299},
)

SPECTROGRAMS = Data2VecConfig(modalities=["audio"], audio_config=SPECTROGRAM)


@pytest.fixture
def recordings(tmp_path):
    """Clips of several rates and kinds, and one whose header is no header."""
    rng = np.random.default_rng(0)
    for number, (count, rate, suffix) in enumerate(
        [(9000, 16000, "wav"), (4000, 8000, "flac"), (44100, 44100, "wav")]
    ):
        soundfile.write(tmp_path / f"{number}.{suffix}", rng.normal(0, 0.1, count), rate)
    (tmp_path / "3.wav").write_bytes(b"no header")
    return tmp_path


def test_headers_tell_the_length_of_the_decoded_recordings(recordings):
    dataset = open_dataset("audio", str(recordings))
    counts = sample_counts(dataset)
    assert counts.tolist() == [len(dataset.load(index)["audio"]) for index in range(3)] + [-1]
    assert counts.tolist() == [9000, 8000, 16000, -1]
    assert sample_counts(open_dataset("audio", None, max_samples=5)).min() > 4000


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_seconds": 0.7},
        {"crop_seconds": [0.2, 0.6]},
        {"crop_seconds": [0.2, 0.6], "speed": [0.8, 1.2]},
        {"crop_seconds": [0.2, 1.5], "concat_group": True},
    ],
)
@pytest.mark.parametrize("config", [CONFIG, SPECTROGRAMS], ids=["convolutions", "spectrogram"])
def test_lengths_of_recordings_are_those_after_the_transform_or_more(config, options):
    dataset = open_dataset("audio", None, max_samples=12)
    transform = build_transform("audio", options, config)
    prepared = transform.prepare(dataset)
    lengths = token_lengths(prepared, transform, config)
    found = np.array(
        [
            max(
                config.audio_config.num_tokens(len(transform(prepared[index], seed=seed)["input_values"]))
                for seed in range(40)
            )
            for index in range(12)
        ]
    )
    assert (found <= lengths).all() and (found >= 0.85 * lengths).all()


def test_an_unreadable_recording_counts_as_the_longest(recordings):
    dataset = open_dataset("audio", str(recordings))
    frames = token_lengths(dataset, build_transform("audio", {}, CONFIG), CONFIG)
    assert frames[3] == frames[2] == frames.max()


def test_a_column_tells_samples_or_seconds(recordings):
    (recordings / "metadata.csv").write_text("file_name,duration,bad\n0.wav,0.5625,x\n1.flac,8000,2\n2.wav,,-1\n")
    dataset = open_dataset("audio", str(recordings), length_column="duration")
    assert sample_counts(dataset).tolist() == [9000, 8000, -1]
    with pytest.raises(ValueError, match="'x'.*'bad'"):
        open_dataset("audio", str(recordings), length_column="bad")
    with pytest.raises(ValueError, match="'length'"):
        open_dataset("audio", str(recordings), length_column="length")


def test_lengths_of_many_recordings_are_looked_up_once_until_a_file_changes(recordings, monkeypatch):
    monkeypatch.setattr(module, "KEPT_FROM", 1)
    dataset = open_dataset("audio", str(recordings))
    first = sample_counts(dataset)
    with monkeypatch.context() as patched:
        patched.setattr(module, "read_header", lambda value: pytest.fail("looked up again"))
        assert (sample_counts(open_dataset("audio", str(recordings))) == first).all()
    soundfile.write(recordings / "0.wav", np.zeros(5000), 16000)
    assert sample_counts(open_dataset("audio", str(recordings)))[0] == 5000


def test_lengths_of_texts_are_their_tokens(tmp_path, monkeypatch):
    texts = ["one two three four five", "a", "word " * 100, "six seven"]
    (tmp_path / "texts.jsonl").write_text("\n".join(f'"{text}"' for text in texts) + "\n5\n")
    dataset = open_dataset("text", str(tmp_path))
    tokenizer = build_tokenizer(texts, 300)
    transform = build_transform("text", {"pack": False}, CONFIG, tokenizer)
    lengths = token_lengths(transform.prepare(dataset), transform, CONFIG)
    assert lengths.tolist() == [len(transform(dataset.load(index))["input_ids"]) for index in range(4)] + [40]
    monkeypatch.setattr(module, "KEPT_FROM", 1)
    stream = open_dataset("text", str(tmp_path), stream_block=2)
    assert (token_lengths(stream, transform, CONFIG) == lengths).all()
    monkeypatch.setattr(RawDataset, "load", lambda *_: pytest.fail("tokenised again"))
    assert (token_lengths(stream, transform, CONFIG) == lengths).all()
    monkeypatch.undo()
    packing = build_transform("text", {"max_length": 16}, CONFIG, tokenizer)
    assert set(token_lengths(packing.prepare(dataset), packing, CONFIG).tolist()) == {16}


def test_images_have_no_lengths_and_options_that_contradict_are_sentences():
    transform = build_transform("vision", {}, CONFIG)
    with pytest.raises(ValueError, match="Images.*size"):
        token_lengths(open_dataset("vision"), transform, CONFIG)
    for section, message in [
        ({"vision": {"batch_tokens": 100}}, "batch_tokens"),
        ({"audio": {"batch_tokens": 100, "batch_size": 3}}, "audio.batch_size.*audio.batch_tokens"),
        ({"audio": {"micro_batch_size": 0}}, "audio.micro_batch_size.*0.*1"),
        ({"text": {"bucket_steps": -1}}, "text.bucket_steps.*-1"),
    ]:
        with pytest.raises(OptionError, match=message):
            build_options({"output_dir": "run", **section})
    assert build_options({"output_dir": "run", "audio": {"batch_tokens": 100}}).audio.batch_size is None


def test_encoded_bytes_are_enough():
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(4000), 8000, format="FLAC")
    assert read_header({"bytes": buffer.getvalue(), "path": "x.flac"}) == (4000, 8000)


def test_both_lengths_come_from_one_reader(recordings, monkeypatch):
    """Seconds for fine-tuning and samples for pretraining, of files, of none, and of what promises too much."""
    soundfile.write(recordings / "4.wav", np.zeros(0), 16000)
    dataset = open_dataset("audio", str(recordings))
    assert header_seconds(dataset).tolist() == pytest.approx([9000 / 16000, 0.5, 1.0, np.nan, 0.0], nan_ok=True)
    assert sample_counts(dataset).tolist() == [9000, 8000, 16000, -1, -1]
    monkeypatch.setattr(module, "read_header", lambda value: (441, 44100))
    assert header_seconds(dataset).tolist() == [0.01] * 5 and sample_counts(dataset).tolist() == [160] * 5
    monkeypatch.undo()
    endless = SimpleNamespace(frames=2**63 - 1, samplerate=16000)
    monkeypatch.setattr(soundfile, "info", lambda file: endless)
    assert read_header("a.wav") is None
    monkeypatch.setattr(module, "need", lambda name, extra: pytest.fail("arrays need no library"))
    assert read_header({"array": np.zeros((2, 30)), "sampling_rate": 8000}) == (30, 8000)
    assert read_header({"array": np.zeros(0), "sampling_rate": 8000}) == (0, 8000)


def test_headers_are_read_of_paths_and_of_bytes(recordings):
    for value in (recordings / "1.flac", (recordings / "1.flac").read_bytes()):
        assert read_header(value) == (4000, 8000)
    assert read_header({"bytes": None, "path": str(recordings / "1.flac")}) == (4000, 8000)
    assert read_header(recordings / "gone.wav") is read_header({"bytes": b"", "path": None}) is None


def write_clip(path, seconds=0.1, rate=16_000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * rate)), rate)
    return path


def test_lengths_come_from_headers(tmp_path):
    lengths = {"a.wav": (0.5, 16_000), "b.flac": (0.25, 44_100), "c.wav": (1.0, 8_000)}
    for name, (seconds, rate) in lengths.items():
        write_clip(tmp_path / name, seconds, rate)
    (tmp_path / "d.wav").write_bytes(b"no audio")
    (tmp_path / "e.wav").write_bytes(b"")
    raw = open_dataset("audio", str(tmp_path))
    seconds = header_seconds(raw)
    np.testing.assert_allclose(seconds[:3], [0.5, 0.25, 1.0], atol=1e-4)
    assert np.isnan(seconds[3:]).all()
    assert not raw.bad, "nothing may be decoded"
    encoded = [(tmp_path / name).read_bytes() for name in lengths]
    rows = Dataset.from_dict({"audio": [{"bytes": data, "path": None} for data in encoded]})
    rows.cast_column("audio", Audio(decode=False)).to_parquet(tmp_path / "parquet" / "train.parquet")
    parquet = open_dataset("audio", str(tmp_path / "parquet"))
    np.testing.assert_allclose(header_seconds(parquet.select([2, 0])), [1.0, 0.5], atol=1e-4)


def test_lengths_of_arrays():
    raw = open_dataset("audio", None)
    seconds = header_seconds(raw)
    assert seconds[3] == pytest.approx(len(raw[3]["audio"]) / 16_000, abs=1e-3)


def test_lengths_of_long_texts_take_their_beginning():
    texts = ["one two three " * 2000, "one", "x" * 5000]
    tokenizer = build_tokenizer(texts, 300)
    config = Data2VecConfig(text_config={"vocab_size": 300, "max_position_embeddings": 34})
    transform = build_transform("text", {"max_length": 12, "pack": False}, config, tokenizer)
    dataset = RawDataset("text", Table(texts))
    assert token_lengths(dataset, transform, config).tolist() == [
        len(tokenizer(text, truncation=True, max_length=12)["input_ids"]) for text in texts
    ]


def test_headers_that_hide_samples_do_not_shorten_a_batch(tmp_path):
    """A length that is too small would let a batch exceed its budget: it is unknown instead."""
    write_clip(tmp_path / "right.wav")
    for name, position, size in (("zero.wav", 40, 4), ("small.au", 8, 4)):
        write_clip(tmp_path / name)
        content = bytearray((tmp_path / name).read_bytes())
        content[position : position + size] = (2).to_bytes(size, "big" if name.endswith("au") else "little")
        (tmp_path / name).write_bytes(content)
    write_clip(tmp_path / "link.ogg")
    (tmp_path / "links.ogg").write_bytes((tmp_path / "link.ogg").read_bytes() * 2)
    for name, found in (
        ("right.wav", 1600),
        ("zero.wav", None),
        ("small.au", None),
        ("link.ogg", 1600),
        ("links.ogg", None),
    ):
        for value in (tmp_path / name, str(tmp_path / name), (tmp_path / name).read_bytes()):
            assert read_header(value) == (None if found is None else (found, 16_000))
    raw = open_dataset("audio", str(tmp_path))
    decoded = {raw.name_of(index): len(raw[index]["audio"]) for index in range(len(raw))}
    assert set(decoded.values()) == {1600, 3200} and not raw.bad.total


def test_arrays_without_a_rate_have_that_of_the_source():
    assert read_header({"array": [0.0] * 30}) is None
    assert read_header({"array": [0.0] * 30, "sampling_rate": None}, array_rate=8000) == (30, 8000)
    table = Table([{"array": [0.1] * count} for count in (80, 160)])
    raw = RawDataset("audio", table, settings=SourceSettings(sampling_rate=8000))
    assert sample_counts(raw).tolist() == [160, 320] == [len(raw[index]["audio"]) for index in range(2)]


def test_lengths_of_series_are_read_from_headers_and_cut(tmp_path, monkeypatch):
    for row, length in enumerate((50, 7, 120)):
        np.save(tmp_path / f"{row}.npy", np.zeros((length, 2), dtype=np.int16))
    (tmp_path / "3.npy").write_text("damaged")
    config = Data2VecConfig(modalities=["arrays"], arrays_config={"num_channels": 2, "group_size": 8})
    dataset = open_dataset("arrays", str(tmp_path), num_channels=2, num_dims=1)
    monkeypatch.setattr(RawDataset, "_decode", lambda *_: pytest.fail("a sample was decoded"))
    whole = build_transform("arrays", None, config)
    # The damaged one is replaced by another of unknown length; the shortest is padded to two groups.
    assert token_lengths(dataset, whole, config).tolist() == [7, 2, 15, 15]
    crop = build_transform("arrays", {"crop_length": 64}, config)
    assert token_lengths(dataset, crop, config).tolist() == [7, 2, 8, 8]


def test_arrays_of_several_sides_have_no_lengths():
    config = Data2VecConfig(modalities=["arrays"], arrays_config={"num_dims": 2, "mask_sampler": "inverse_block"})
    dataset = RawDataset("arrays", Table([np.zeros((4, 4))] * 3), settings=SourceSettings(num_dims=2))
    with pytest.raises(ValueError, match="no token budget"):
        token_lengths(dataset, build_transform("arrays", None, config), config)


def test_lengths_of_texts_as_bytes_count_groups():
    settings = {"front_end": "perceiver", "group_size": 4, "max_position_embeddings": 40, **BYTE_IDS}
    config = Data2VecConfig(modalities=["text"], text_config=settings)
    dataset = RawDataset("text", Table(["abc", "défg", "x" * 100]))
    options = {"pack": False}
    transform = build_transform("text", options, config, byte_tokenizer())
    # With the end of the text 4, 6 and 40 ids.
    assert token_lengths(dataset, transform, config).tolist() == [1, 2, 10]
    packed = build_transform("text", {"max_length": 20}, config, byte_tokenizer())
    assert set(token_lengths(packed.prepare(dataset), packed, config)) == {5}
