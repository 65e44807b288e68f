"""Folders of pictures, recordings and texts in which good files stand among broken and unusual ones."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image


Kinds = dict[str, str]
"""Reason or note by the name of a file (of a line, for texts)."""


def write_pictures(folder: Path, good: int = 6) -> tuple[Kinds, Kinds]:
    """Pictures of 8 x 8 and more.

    Returns:
        The broken ones with their reason, and the unusual ones with their note.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)) for _ in range(good)]
    for number, picture in enumerate(noise):
        picture.save(folder / f"good{number}.png")
    large = Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    large.save(folder / "truncated.jpg")
    (folder / "truncated.jpg").write_bytes((folder / "truncated.jpg").read_bytes()[:1500])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("no picture at all")
    (folder / "bomb.png").write_bytes(bomb())
    Image.new("RGB", (1, 1)).save(folder / "pixel.png")
    Image.new("RGB", (1, 300)).save(folder / "strip.png")
    Image.fromarray(np.full((8, 8), np.nan, dtype=np.float32)).save(folder / "nan.tiff")
    broken = {
        "truncated.jpg": "truncated",
        "empty.png": "empty",
        "text.png": "unreadable",
        "bomb.png": "too large",
        "pixel.png": "nothing to see",
        "strip.png": "nothing to see",
        "nan.tiff": "non-finite",
    }
    noise[0].convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(rng.integers(0, 65535, (8, 8), dtype=np.uint16)).save(folder / "deep.png")
    noise[0].convert("P").save(folder / "palette.png", transparency=3)
    noise[0].convert("RGBA").save(folder / "clear.png")
    clear = "transparency put on white"
    unusual = {"cmyk.jpg": "CMYK converted", "deep.png": "reduced to 8 bits", "palette.png": clear, "clear.png": clear}
    return broken, unusual


def bomb(side: int = 50_000) -> bytes:
    """A PNG of a few bytes that promises a picture which no memory holds."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(side))) + chunk(b"IEND", b"")


def write_recordings(folder: Path, good: int = 4) -> tuple[Kinds, Kinds]:
    """Recordings of a fifth of a second; what is returned is as in `write_pictures`."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)

    def noise(count: int = 3200, *channels: int) -> np.ndarray:
        return rng.uniform(-0.5, 0.5, (count, *channels)).astype(np.float32)

    for number in range(good):
        soundfile.write(folder / f"good{number}.flac", noise(), 16_000)
    soundfile.write(folder / "truncated.wav", noise(), 16_000)
    (folder / "truncated.wav").write_bytes((folder / "truncated.wav").read_bytes()[:2000])
    soundfile.write(folder / "no_samples.wav", noise(0), 16_000)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("no recording at all")
    for name, value in (("nan", np.nan), ("absurd", 1e30)):
        samples = noise()
        samples[100:200] = value
        soundfile.write(folder / f"{name}.wav", samples, 16_000, subtype="FLOAT")
    broken = {
        "truncated.wav": "truncated",
        "no_samples.wav": "empty",
        "empty.wav": "empty",
        "text.wav": "unreadable",
        "nan.wav": "non-finite",
        "absurd.wav": "non-finite",
    }
    soundfile.write(folder / "slow.wav", noise(1600), 8_000)
    soundfile.write(folder / "stereo.wav", noise(3200, 2), 16_000)
    soundfile.write(folder / "silent.wav", np.zeros(3200), 16_000)
    soundfile.write(folder / "short.wav", noise(7), 16_000)
    unusual = {"slow.wav": "resampled", "stereo.wav": "mixed down to mono", "silent.wav": "silent"}
    return broken, unusual


def write_texts(folder: Path, good: int = 40) -> Kinds:
    """Texts in a file of JSON lines and a plain one; returns the broken ones with their reason."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": f"document {number} of a few words"}).encode() for number in range(good)]
    lines[3] = b'{"text": "cut sho'
    lines[5] = json.dumps({"text": None}).encode()
    lines[7] = json.dumps({"text": 7}).encode()
    lines[9] = b'{"text": "caf\xe9"}'
    lines[11] = json.dumps({"text": " \n"}).encode()
    (folder / "lines.jsonl").write_bytes(b"\n".join(lines))
    (folder / "plain.txt").write_bytes(b"a first document\n\ncaf\xe9 in another encoding\n\na third one")
    return {
        "lines.jsonl, line 4": "unreadable",
        "lines.jsonl, line 6": "empty",
        "lines.jsonl, line 8": "unreadable",
        "lines.jsonl, line 10": "not UTF-8",
        "lines.jsonl, line 12": "empty",
        "plain.txt, document 2": "not UTF-8",
    }


def write_picture_table(path: Path) -> dict[int, str]:
    """A parquet file of pictures in rows 1 and 5 and nothing usable elsewhere; returns the reasons by row."""
    from datasets import Dataset, Features, Value

    write_pictures(path.parent / "pictures")
    encoded = (path.parent / "pictures" / "good0.png").read_bytes()
    rows: list[dict[str, Any] | None] = [
        {"bytes": b"", "path": None},
        {"bytes": encoded, "path": None},
        None,
        {"bytes": encoded[: len(encoded) // 2], "path": None},
        {"bytes": None, "path": None},
        {"bytes": encoded, "path": None},
    ]
    image = {"bytes": Value("binary"), "path": Value("string")}
    features = Features({"image": image, "number": Value("int64")})
    Dataset.from_dict({"image": rows, "number": list(range(6))}, features=features).to_parquet(str(path))
    return {0: "empty", 2: "missing", 3: "truncated", 4: "missing"}
