"""Streaming gives the batches of map-style data in the same blocks: every kind of source, epochs, sources, budgets."""

import json

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
import yaml
from datasets import Audio, Dataset, Image
from PIL import Image as Pictures
from tiny_run import assert_same_weights, pretrain, tiny, write_config

from d2v_train.batching.batches import load_steps
from d2v_train.batching.build import build_steps
from d2v_train.batching.lengths import sample_counts
from d2v_train.batching.order import Mixture
from d2v_train.data import kinds as module
from d2v_train.data.bad_samples import BadSample
from d2v_train.data.parquet_rows import ParquetRows
from d2v_train.data.records import RawDataset, open_dataset
from d2v_train.data.source_list import open_sources
from d2v_train.data.tables import Table
from d2v_train.data.text_rows import TextRows
from d2v_train.inputs.tokenizer import build_tokenizer
from d2v_train.models.build import build_config
from d2v_train.options.files import load_options


MODEL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vision_config": {"image_size": 8, "patch_size": 2, "num_channels": 1, "num_masks": 2},
    "audio_config": {"num_masks": 2},
    "text_config": {"vocab_size": 300, "max_position_embeddings": 24, "num_masks": 2},
}


def encoded(tmp_path, number):
    path = tmp_path / f"clip {number}.wav"
    soundfile.write(path, np.random.default_rng(number).normal(0, 0.1, 3200 + 160 * (number * 7 % 11)), 16000)
    return {"bytes": path.read_bytes(), "path": path.name}


def write_parquet(folder, columns, features=None, files=3, group_rows=4):
    """Several files with several row groups each."""
    folder.mkdir()
    dataset = Dataset.from_dict(columns)
    for name, feature in (features or {}).items():
        dataset = dataset.cast_column(name, feature)
    table = dataset.with_format("arrow")[:]
    size = -(-len(table) // files)
    for number in range(files):
        part = table.slice(number * size, size).replace_schema_metadata(dataset.features.arrow_schema.metadata)
        pq.write_table(part, folder / f"train-{number:05}-of-{files:05}.parquet", row_group_size=group_rows)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A source of each kind, 29 samples or more, some of them broken."""
    root = tmp_path_factory.mktemp("data")
    clips = [encoded(root, number) for number in range(29)]
    clips[5]["bytes"] = b"broken"
    speakers = [f"speaker {number % 3}" for number in range(29)]
    pictures = []
    for number in range(29):
        path = root / f"{number}.png"
        Pictures.fromarray(np.random.default_rng(number).integers(0, 255, (8, 8), dtype=np.uint8)).save(path)
        pictures.append({"bytes": path.read_bytes(), "path": path.name})
    texts = [f"Paragraph {number} tells of {'many ' * (number % 7)}things." for number in range(60)]
    write_parquet(root / "clips", {"audio": clips, "speaker": speakers}, {"audio": Audio(16000, decode=False)})
    write_parquet(root / "more", {"audio": clips[:11]}, {"audio": Audio(16000, decode=False)}, files=1, group_rows=3)
    write_parquet(root / "pictures", {"image": pictures}, {"image": Image(decode=False)})
    write_parquet(root / "paragraphs", {"text": texts})
    (root / "folder").mkdir()
    for number in range(7):
        soundfile.write(root / "folder" / f"{number}.wav", np.random.default_rng(number).normal(0, 0.1, 4000), 16000)
    (root / "lines").mkdir()
    lines = [json.dumps({"text": text, "label": 1}) for text in texts]
    (root / "lines" / "a.jsonl").write_text("\n".join([*lines[:20], "", "{broken", *lines[20:30]]) + "\n")
    (root / "lines" / "b.jsonl").write_bytes("\r\n".join(lines[30:]).encode())
    (root / "documents").mkdir()
    (root / "documents" / "a.txt").write_bytes(b"\xef\xbb\xbf\n\n" + "\n \t\n\n".join(texts[:30]).encode())
    (root / "documents" / "b.txt").write_bytes("\r\n\r\n".join([*texts[30:], "of two\r\nlines"]).encode() + b"\r\n")
    (root / "documents" / "c.txt").write_bytes(b"")
    return root


def steps_of(data, modality, source, streaming, *overrides, buffer=10):
    config = data / "config.yaml"
    model = {key: value for key, value in MODEL.items() if not key.endswith("_config") or key.startswith(modality)}
    config.write_text(yaml.safe_dump({"output_dir": "run", "model": model, modality: {"batch_size": 4}}))
    options = load_options(
        config,
        [f"data.{modality}={source}", f"data.shuffle_buffer={buffer}", f"data.streaming={streaming}", *overrides],
    )
    sources = open_sources(options, {"vision": {"channels": 1}})
    tokenizer = build_tokenizer([f"Paragraph {number} tells of many things." for number in range(60)], 300)
    return build_steps(options, build_config(options), sources, tokenizer)


def assert_same(one, other):
    one, other = list(one), list(other)
    assert len(one) == len(other) > 0
    for first, second in zip(one, other, strict=True):
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert a.inputs.keys() == b.inputs.keys() and a.tokens == b.tokens
            assert all(torch.equal(a.inputs[name], b.inputs[name]) for name in a.inputs)


CROP = ["audio.transform.crop_seconds=[0.1, 0.3]"]
BUDGET = ["audio.batch_size=null", "audio.batch_tokens=60", "audio.bucket_steps=3", "audio.micro_batch_tokens=20"]
KINDS = {
    "audio": ("audio", "{data}/clips", []),
    "audio, joined clips": ("audio", "{data}/clips", [*CROP, "audio.transform.concat_group=true"]),
    "audio, some speakers": ("audio", "{data}/clips", ["audio.dataset.exclude_groups=[speaker 1]"]),
    "audio, token budget": ("audio", "{data}/clips", [*CROP, *BUDGET]),
    "audio, several sources": (
        "audio",
        "[{{source: {data}/clips, ratio: 3}}, {{source: {data}/more}}, {{source: {data}/folder}}]",
        [*CROP, *BUDGET],
    ),
    "images": ("vision", "{data}/pictures", ["vision.transform.crop_scale=[0.5, 1.0]"]),
    "packed parquet": ("text", "{data}/paragraphs", []),
    "packed lines": ("text", "{data}/lines", []),
    "packed documents": ("text", "{data}/documents", []),
    "lines": ("text", "{data}/lines", ["text.transform.pack=false"]),
    "documents": ("text", "{data}/documents", ["text.transform.pack=false"]),
    "text, two sources": (
        "text",
        "[{data}/lines, {data}/documents]",
        ["text.transform.pack=false", "text.batch_size=null", "text.batch_tokens=90"],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_streams_give_the_batches_of_map_style_data_over_epochs(data, kind):
    modality, source, overrides = KINDS[kind]
    source = source.format(data=data)
    whole = steps_of(data, modality, source, False, *overrides)
    stream = steps_of(data, modality, source, True, *overrides)
    last = next(step for step in range(40) if whole.plan.epochs(step, modality)[0] > 1.15)
    assert whole.fingerprint == stream.fingerprint, "a run may change over when it is resumed"
    assert_same((whole[step] for step in range(last)), (stream[step] for step in range(last)))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_any_number_of_workers_gives_the_same_batches_in_both_styles(data):
    modality, source, overrides = KINDS["audio, several sources"]
    whole, stream = (steps_of(data, modality, source.format(data=data), style, *overrides) for style in (False, True))
    alone = list(load_steps(whole, 0, 9))
    assert_same(alone, load_steps(stream, 0, 9, num_workers=4))
    assert_same(alone[3:], load_steps(stream, 3, 9, num_workers=1))
    assert_same(alone, load_steps(whole, 0, 9, num_workers=4))


def test_blocks_are_shuffled_and_so_are_the_samples_of_each():
    order = Mixture([29], None, 3, "audio", block=10)
    epochs = [[key.index for key in order.keys(29 * epoch, 29)] for epoch in range(12)]
    starts = set()
    for indices in epochs:
        assert sorted(indices) == list(range(29))
        blocks = [index // 10 for index in indices]
        changes = sum(before != after for before, after in zip(blocks, blocks[1:], strict=False))
        assert changes == 2, "one block after another"
        starts.add(blocks[0])
    assert starts == {0, 1, 2} and len(set(map(tuple, epochs))) == 12
    assert order.keys(40, 30) == order.keys(0, 70)[40:]
    assert Mixture([29], None, 3, "audio", block=29).keys(0, 60) == Mixture([29], None, 3, "audio").keys(0, 60)


def test_a_stream_reads_every_row_group_once_a_block_and_starts_anywhere(data, monkeypatch):
    steps = steps_of(data, "audio", data / "clips", True, "audio.batch_size=2", buffer=8)
    rows = steps.data["audio"].dataset.table.values
    assert isinstance(rows, ParquetRows) and len(rows) == 29
    read, original = [], rows._read
    monkeypatch.setattr(rows, "_read", lambda number, columns: read.append(number) or original(number, columns))
    steps[1000]
    assert 1 <= len(read) <= 2, "nothing before is read"
    read.clear()
    for step in range(15):
        steps[step]
    assert len(set(read)) == 9 and len(read) <= 2 * 9, "groups at the border of two blocks are read for each"
    assert rows.column("speaker") == [f"speaker {number % 3}" for number in range(29)]


def test_samples_are_decoded_in_the_worker_processes(data, monkeypatch):
    decoded, original = [], module.decode_audio
    monkeypatch.setattr(module, "decode_audio", lambda *value: decoded.append(1) or original(*value))
    for streaming in (False, True):
        steps = steps_of(data, "audio", data / "clips", streaming)
        assert len(list(load_steps(steps, 0, 2, num_workers=1))) == 2 and not decoded
    assert steps[0] and len(decoded) == 4


def test_remote_files_are_read_where_they_are(data):
    memory = fsspec.filesystem("memory")
    for path in (data / "clips").iterdir():
        memory.pipe_file(f"/hub/{path.name}", path.read_bytes())
    rows = ParquetRows([f"memory://hub/train-{number:05}-of-00003.parquet" for number in range(3)])
    rows.columns = ["audio"]
    whole = open_dataset("audio", str(data / "clips"))
    assert rows[17] == whole.table.values[17] and rows.identity != whole.table.values.identity
    with pytest.raises(ValueError, match="downloading"):
        sample_counts(RawDataset("audio", Table(rows)))


def test_data_of_the_hub_that_is_not_parquet_is_refused(monkeypatch):
    class Builder:
        class config:
            data_files = {"train": ["hf://datasets/a/b/train.csv"]}

    monkeypatch.setattr("datasets.load_dataset_builder", lambda *_: Builder)
    with pytest.raises(ValueError, match="a/b.*parquet"):
        open_dataset("text", "a/b", stream_block=10)
    Builder.config.data_files = None
    with pytest.raises(ValueError, match="a/b.*Hub"):
        open_dataset("text", "a/b", stream_block=10)


@pytest.mark.parametrize("block, function", [(None, "load_dataset"), (10, "load_dataset_builder")])
def test_a_name_that_is_neither_here_nor_on_the_hub_is_said_to_be_neither(monkeypatch, block, function):
    def unreachable(*_):
        raise ConnectionError("no network")

    monkeypatch.setattr(f"datasets.{function}", unreachable)
    with pytest.raises(ConnectionError, match="'data/clips'"):
        open_dataset("text", "data/clips", stream_block=block)


def test_a_run_goes_on_from_a_checkpoint_streaming_or_not(data, tmp_path):
    section = {"batch_size": None, "batch_tokens": 60, "bucket_steps": 2, "transform": {"crop_seconds": [0.1, 0.3]}}
    source = {"audio": str(data / "clips"), "shuffle_buffer": 10}
    settings = tiny("audio", checkpoints={"every": 3}, optim={"schedule_steps": 6}, audio=section, data=source)
    config = write_config(tmp_path, settings)
    pretrain(config, tmp_path / "whole", "data.streaming=true")
    pretrain(config, tmp_path / "broken", "max_steps=3", "data.streaming=true")
    pretrain(config, tmp_path / "broken")
    assert_same_weights(tmp_path / "whole", tmp_path / "broken")


def test_rows_of_parquet_files_are_those_of_the_data_set(data):
    rows, whole = ParquetRows(sorted(data.glob("clips/*"))), open_dataset("audio", str(data / "clips"))
    rows.columns = ["audio"]
    assert all(rows[index] == whole.table.values[index] for index in (28, 0, 13, 4))
    with pytest.raises(IndexError):
        rows[29]


def test_documents_of_text_files_and_their_names_are_those_of_the_data_set(data):
    for name in ("lines", "documents"):
        whole = open_dataset("text", str(data / name))
        stream = open_dataset("text", str(data / name), stream_block=10)
        assert isinstance(stream.table.values, TextRows) and len(stream) == len(whole)
        assert [stream.name_of(index) for index in range(len(stream))] == list(whole.table.values.names)
        assert stream.groups == whole.groups
        same = {"label": 0, "origin": None}
        assert [stream[index] | same for index in range(len(stream))] == [
            whole[index] | same for index in range(len(whole))
        ]


def test_a_broken_line_is_described_as_in_map_style_data(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "whole"}\n{"text": "cut sho\n{"text": "whole"}\n')
    for block in (None, 10):
        with pytest.raises(BadSample, match="Unterminated"):
            open_dataset("text", str(tmp_path), stream_block=block).load(1)


def test_packed_tokens_of_a_stream_are_made_once_and_anew_when_a_file_changes(data, tmp_path, monkeypatch):
    (tmp_path / "texts.txt").write_text("one two\n\nthree four\n\nfive six seven eight nine ten\n" * 5)
    first = steps_of(data, "text", tmp_path / "texts.txt", True)
    tokens = np.array(first.data["text"].dataset.tokens)
    with monkeypatch.context() as patched:
        patched.setattr("d2v_train.inputs.packing._tokenise", lambda *_: pytest.fail("made again"))
        again = steps_of(data, "text", tmp_path / "texts.txt", True)
        assert (again.data["text"].dataset.tokens == tokens).all()
    pq.write_table(pa.table({"a": ["one"] * 9, "b": ["many words of it"] * 9}), tmp_path / "train.parquet")
    by_column = [
        steps_of(data, "text", tmp_path / "train.parquet", True, f"text.dataset.column={column}") for column in "ab"
    ]
    assert len({len(steps.data["text"].dataset.tokens) for steps in by_column}) == 2
    (tmp_path / "texts.txt").write_text("something else\n\nand more of it, in many words\n" * 5)
    assert len(steps_of(data, "text", tmp_path / "texts.txt", True).data["text"].dataset.tokens) != len(tokens)


def test_what_cannot_be_streamed_is_a_sentence(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "train-0.parquet")
    pq.write_table(pa.table({"other": ["a"]}), tmp_path / "train-1.parquet")
    with pytest.raises(ValueError, match="train-1.parquet"):
        open_dataset("text", str(tmp_path), stream_block=10)
    (tmp_path / "train-1.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(ValueError, match="train-1.parquet"):
        open_dataset("text", str(tmp_path), stream_block=10)


def test_streaming_has_a_buffer_of_its_own_accord(data):
    (data / "config.yaml").write_text(yaml.safe_dump({"output_dir": "run", "audio": {}}))
    assert load_options(data / "config.yaml", ["data.streaming=true"]).data.shuffle_buffer == 10_000
    assert load_options(data / "config.yaml").data.shuffle_buffer is None
