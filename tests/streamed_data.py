"""A source of each kind to stream from, and the steps over it."""

import json

import numpy as np
import pyarrow.parquet as pq
import soundfile
import yaml
from datasets import Audio, Dataset, Image
from PIL import Image as Pictures

from d2v_train.batching.build import build_steps
from d2v_train.data.source_list import open_sources
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


def write_sources(root):
    """A source of each kind, 29 samples or more, some of them broken."""
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
