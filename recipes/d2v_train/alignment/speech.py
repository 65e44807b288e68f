"""Spoken words from espeak-ng, in many voices, speeds and pitches.

The speech is synthetic, and results of it must say so.
"""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from d2v_train.data.tables import SAMPLING_RATE
from d2v_train.support.extras import MissingDependencyError, need


PROGRAM = "espeak-ng"


@dataclass(frozen=True)
class Voice:
    """A way to speak.

    Attributes:
        name: Accent and variant of espeak-ng, such as "en-us+f2"; `espeak-ng --voices=en` and `--voices=variant` list
            them.
        speed: Words per minute.
        pitch: 0 to 99.
    """

    name: str
    speed: int = 160
    pitch: int = 50

    @property
    def label(self) -> str:
        """Name for files and groups."""
        return f"{self.name.replace('+', '-')}_s{self.speed}_p{self.pitch}"


def voices(accents: Sequence[str], variants: Sequence[str], speeds: Sequence[int], pitches: Sequence[int],
           count: int) -> list[Voice]:  # fmt: skip
    """Return `count` voices: variants in turn, each with another accent, speed and pitch than the one before.

    The first `len(variants)` voices all have different variants.
    """
    return [
        Voice(
            f"{accents[i % len(accents)]}+{variants[i % len(variants)]}",
            speeds[(i + i // len(variants)) % len(speeds)],
            pitches[(i * 2 + i // len(variants)) % len(pitches)],
        )
        for i in range(count)
    ]


def speak(text: str, voice: Voice) -> np.ndarray:
    """Return a text as speech.

    Args:
        text: Words or a sentence.
        voice: How to speak it.

    Returns:
        (S,) float32 at 16 kHz, without silence at its ends.

    Raises:
        MissingDependencyError: If espeak-ng, soundfile or soxr is not installed.
        ValueError: If espeak-ng does not know the voice or says nothing.
    """
    soundfile, soxr = need("soundfile", "audio"), need("soxr", "audio")
    if shutil.which(PROGRAM) is None:
        raise MissingDependencyError(
            "The program espeak-ng, which speaks the words, is not installed. Install it with the package manager of "
            "the system, for example: apt-get install espeak-ng. Or give recordings of your own, a folder per concept."
        )
    command = [PROGRAM, "-v", voice.name, "-s", str(voice.speed), "-p", str(voice.pitch), "--stdout", "--", text]
    spoken = subprocess.run(command, capture_output=True)
    if spoken.returncode or not spoken.stdout:
        message = spoken.stderr.decode(errors="replace").strip() or "no sound"
        raise ValueError(f"espeak-ng cannot say {text!r} with the voice {voice.name!r}: {message}")
    # The header of a stream holds no length, so the samples are read as raw ones behind it.
    start = spoken.stdout.index(b"data") + 8
    header = soundfile.info(io.BytesIO(spoken.stdout))
    samples = np.frombuffer(spoken.stdout[start : start + (len(spoken.stdout) - start) // 2 * 2], dtype="<i2")
    samples = soxr.resample(samples.astype(np.float32) / 32768, header.samplerate, SAMPLING_RATE)
    loud = np.flatnonzero(np.abs(samples) > 0.01 * max(np.abs(samples).max(initial=0.0), 1e-6))
    if not len(loud):
        raise ValueError(f"espeak-ng says nothing for {text!r} with the voice {voice.name!r}.")
    return samples[loud[0] : loud[-1] + 1]


def write_speech(text: str, voice: Voice, path: Path) -> None:
    """Write a text as speech to a FLAC file, unless there is one; its folder is made."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    need("soundfile", "audio").write(path, speak(text, voice), SAMPLING_RATE, format="FLAC", subtype="PCM_16")
