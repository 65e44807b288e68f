"""Voices of a list differ; what espeak-ng lacks is said in a sentence."""

import stat

import numpy as np
import pytest

from d2v_train.alignment import speech
from d2v_train.alignment.speech import Voice, speak, voices, write_speech
from d2v_train.support.extras import MissingDependencyError


@pytest.fixture
def synthesiser(tmp_path, monkeypatch):
    """A program that answers as espeak-ng does: a stream with an empty length, and a message for unknown voices."""
    soundfile = pytest.importorskip("soundfile")
    tone = np.concatenate([np.zeros(2205), 0.5 * np.sin(np.arange(4410) * 0.2), np.zeros(2205)])
    soundfile.write(tmp_path / "tone.wav", tone, 22_050, subtype="PCM_16")
    program = tmp_path / "espeak-ng"
    program.write_text(
        "#!/bin/sh\ncase \"$*\" in *nobody*) echo 'voice does not exist' >&2; exit 1;; esac\n"
        f"cat {tmp_path / 'tone.wav'}\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def test_voices_take_turns():
    made = voices(["en-us", "en-gb"], ["m1", "f1", "m2"], [120, 150], [30, 60], 6)
    assert len(set(made)) == 6
    assert {voice.name.partition("+")[2] for voice in made[:3]} == {"m1", "f1", "m2"}
    assert len({voice.label for voice in made}) == 6


def test_speech_is_16_khz_without_silent_ends(synthesiser):
    samples = speak("dog", Voice("en-us+f2"))
    assert samples.dtype == np.float32
    assert abs(len(samples) - 3200) < 100  # 0.2 of the 0.4 s
    assert abs(samples).max() > 0.4


def test_a_file_that_is_there_is_kept(synthesiser, tmp_path):
    path = tmp_path / "recordings" / "dog" / "a.flac"
    write_speech("dog", Voice("en-us+f2"), path)
    before = path.stat().st_mtime_ns
    write_speech("dog", Voice("en-us+f2"), path)
    assert path.stat().st_mtime_ns == before


def test_an_unknown_voice(synthesiser):
    with pytest.raises(ValueError, match="cannot say 'dog' with the voice 'nobody': voice does not exist"):
        speak("dog", Voice("nobody"))


def test_a_missing_program_is_named(monkeypatch):
    monkeypatch.setattr(speech.shutil, "which", lambda name: None)
    with pytest.raises(MissingDependencyError, match="apt-get install espeak-ng"):
        speak("dog", Voice("en-us"))
