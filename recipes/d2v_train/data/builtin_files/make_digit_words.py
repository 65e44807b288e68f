"""Generate the built-in speech data: the words zero to nine, spoken by many synthetic voices.

    apt-get install espeak-ng
    python recipes/d2v_train/data/builtin_files/make_digit_words.py [--output recipes/d2v_train/data/builtin_files]

Only this script needs espeak-ng; the FLAC files it writes are what the recipes read. It writes
`digit_words_train.flac`, `digit_words_test.flac` (all clips of a split one after another, 16 kHz, mono,
16-bit) and `digit_words.csv` (one row per clip: where it lies in its file, label, voice, speed and pitch).

Every clip is a pure function of `SEED`, its voice, word and take, so a second run with the same espeak-ng and soxr
gives the same samples. The shipped files were made with eSpeak NG 1.51 (Debian 1.51+dfsg-10+deb12u2) and
soxr 1.1.0; `README.md` beside this file holds the resulting counts, licence and checksums.
"""

import argparse
import csv
import io
import subprocess
import zlib
from pathlib import Path

import numpy as np
import soundfile
import soxr


SEED = 0
SAMPLING_RATE = 16_000
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TAKES = 3
SPEED_RANGE = (150, 240)  # words per minute
PITCH_RANGE = (25, 75)  # espeak-ng scale of 0 to 99
MARGIN_RANGE = (0.01, 0.06)  # seconds kept on either side of the word
TRIM_THRESHOLD = 0.02  # of the clip's peak
PEAK = 0.95
# FLAC stores low bits that are always zero for free: 8 significant bits cost half of what 16 do, and put the rounding
# noise about 48 dB below the peak, which keeps the whole set at 4 MB.
SIGNIFICANT_BITS = 8

ACCENTS = ["en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc"]
# A voice is a variant (the shape of the vocal tract) with one accent. No variant is in both splits, nor are two
# variants that espeak-ng derives from each other (steph, steph2; m1 to m8 are independent).
TRAIN_VARIANTS = (
    "f1 f2 f3 f4 Alicia Annie aunty belinda steph anika "
    "m1 m2 m3 m4 m5 m6 adam Alex Andy antonio benjamin boris caleb david Diogo edward Gene Hugo iven Jacky "
    "john Lee Marco max Michael Mike Nguyen quincy sandro croak"
).split()
TEST_VARIANTS = "f5 linda grandma Andrea m7 paul robert Denis klatt2 shelby".split()


def check_variants(variants: list[str]) -> None:
    """Fail if espeak-ng lacks one of `variants`: it would fall back to the plain voice without a word."""
    listing = subprocess.run(["espeak-ng", "--voices=variant"], capture_output=True, text=True, check=True).stdout
    known = {line.split("!v/")[1].strip().split("  ")[0] for line in listing.splitlines() if "!v/" in line}
    missing = sorted(set(variants) - known)
    if missing:
        raise SystemExit(f"This espeak-ng has no voice variants named {missing}; use version 1.51 or edit the lists.")


def synthesise(word: str, voice: str, speed: int, pitch: int) -> np.ndarray:
    """Return `word` as float32 samples at 16 kHz, before trimming."""
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", word]
    wav = subprocess.run(command, capture_output=True, check=True).stdout
    samples, rate = soundfile.read(io.BytesIO(wav), dtype="float32")
    return soxr.resample(samples, rate, SAMPLING_RATE, quality="VHQ")


def trim(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut the silence around the word down to a random margin; where there is too little, pad with zeros."""
    loud = np.flatnonzero(np.abs(samples) > TRIM_THRESHOLD * np.abs(samples).max())
    before, after = (int(margin * SAMPLING_RATE) for margin in rng.uniform(*MARGIN_RANGE, size=2))
    padded = np.pad(samples, (before, after))
    return padded[loud[0] : loud[-1] + 1 + before + after]


def quantise(samples: np.ndarray) -> np.ndarray:
    """Scale the peak to `PEAK` and round to 16-bit integers of `SIGNIFICANT_BITS` significant bits."""
    levels = 2 ** (SIGNIFICANT_BITS - 1)
    rounded = np.round(samples / np.abs(samples).max() * PEAK * levels)
    return (rounded * 2 ** (16 - SIGNIFICANT_BITS)).astype(np.int16)


def make_split(split: str, variants: list[str], output: Path) -> list[dict]:
    """Write the FLAC file of one split; return the index rows of its clips."""
    clips, rows, start = [], [], 0
    for number, variant in enumerate(variants):
        voice = f"{ACCENTS[number % len(ACCENTS)]}+{variant}"
        for label, word in enumerate(WORDS):
            for take in range(TAKES):
                rng = np.random.default_rng([SEED, zlib.crc32(voice.encode()), label, take])
                speed = int(rng.integers(SPEED_RANGE[0], SPEED_RANGE[1] + 1))
                pitch = int(rng.integers(PITCH_RANGE[0], PITCH_RANGE[1] + 1))
                clip = quantise(trim(synthesise(word, voice, speed, pitch), rng))
                row = {"split": split, "start": start, "length": len(clip), "label": label, "word": word}
                rows.append(row | {"voice": voice, "speed": speed, "pitch": pitch, "take": take})
                clips.append(clip)
                start += len(clip)
    path = output / f"digit_words_{split}.flac"
    soundfile.write(path, np.concatenate(clips), SAMPLING_RATE, subtype="PCM_16", compression_level=1.0)
    print(f"{path}: {len(clips)} clips, {start / SAMPLING_RATE / 60:.1f} min, {path.stat().st_size / 1e6:.2f} MB")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder to write to")
    output = parser.parse_args().output
    check_variants(TRAIN_VARIANTS + TEST_VARIANTS)
    rows = make_split("train", TRAIN_VARIANTS, output) + make_split("test", TEST_VARIANTS, output)
    with open(output / "digit_words.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
