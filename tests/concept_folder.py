"""A folder of eight concepts in three modalities, whose examples differ by concept, and a quick preregistration."""

import json

import numpy as np
import soundfile
import yaml
from PIL import Image


WORDS = ["bridge", "candle", "dog", "goose", "lemon", "lion", "torch", "wheel"]
GROUPS = {"dog": "animal/mammal", "lion": "animal/mammal", "goose": "animal/bird", "lemon": "food"}
STUDY = {"permutations": 39, "draws": 20, "untrained": 2, "neighbours": 3, "question": "dog"}


def write_concepts(folder, examples=4):
    """Pictures of one brightness, tones of one pitch and sentences, all with a little noise."""
    random = np.random.default_rng(0)
    rows = [{"name": word, "word": word, "group": GROUPS.get(word, "artifact"), "corpus_sentences": 20 + len(word)}
            for word in WORDS]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "concepts.json").write_text(json.dumps({"concepts": rows, "left_out": {"teddy": "a first name"}}))
    (folder / "sentences").mkdir()
    for i, word in enumerate(WORDS):
        for kind in ("pictures", "recordings"):
            (folder / kind / word).mkdir(parents=True)
        for number in range(examples):
            pixels = random.integers(0, 30, (8, 8, 3)) + int(220 * (i / 7) ** 2)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "pictures" / word / f"{word}_{number}.png")
            tone = np.sin(np.arange(3200 + 200 * i) * 0.05 * (i + 1)) + random.normal(0, 0.1, 3200 + 200 * i)
            soundfile.write(folder / "recordings" / word / f"voice_{number}.wav", 0.4 * tone / 2, 16_000)
        lines = [f"There was the {word} of number {number} in it." for number in range(examples)]
        (folder / "sentences" / f"{word}.txt").write_text("\n".join(lines) + "\n")
    return folder


def write_preregistration(path, **changes):
    path.write_text(yaml.safe_dump({"study": STUDY | changes}))
    return path
