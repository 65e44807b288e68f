"""Streaming gives the batches of map-style data in the same blocks: every kind of source, epochs, sources, budgets."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from streamed_data import steps_of, write_sources
from tiny_run import assert_same_weights, pretrain, tiny, write_config

from d2v_train.batching.batches import load_steps
from d2v_train.data import kinds as module
from d2v_train.options.files import load_options


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("data"))


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


def test_samples_are_decoded_in_the_worker_processes(data, monkeypatch):
    decoded, original = [], module.decode_audio
    monkeypatch.setattr(module, "decode_audio", lambda *value: decoded.append(1) or original(*value))
    for streaming in (False, True):
        steps = steps_of(data, "audio", data / "clips", streaming)
        assert len(list(load_steps(steps, 0, 2, num_workers=1))) == 2 and not decoded
    assert steps[0] and len(decoded) == 4


def test_a_run_goes_on_from_a_checkpoint_streaming_or_not(data, tmp_path):
    section = {"batch_size": None, "batch_tokens": 60, "bucket_steps": 2, "transform": {"crop_seconds": [0.1, 0.3]}}
    source = {"audio": str(data / "clips"), "shuffle_buffer": 10}
    settings = tiny("audio", checkpoints={"every": 3}, optim={"schedule_steps": 6}, audio=section, data=source)
    config = write_config(tmp_path, settings)
    pretrain(config, tmp_path / "whole", "data.streaming=true")
    pretrain(config, tmp_path / "broken", "max_steps=3", "data.streaming=true")
    pretrain(config, tmp_path / "broken")
    assert_same_weights(tmp_path / "whole", tmp_path / "broken")


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


def test_streaming_has_a_buffer_of_its_own_accord(data):
    (data / "config.yaml").write_text(yaml.safe_dump({"output_dir": "run", "audio": {}}))
    assert load_options(data / "config.yaml", ["data.streaming=true"]).data.shuffle_buffer == 10_000
    assert load_options(data / "config.yaml").data.shuffle_buffer is None
