"""Small pictures, recordings and archives for tests of tables."""

import io
import tarfile

import numpy as np
import soundfile
from PIL import Image


def png(number=0, size=8):
    """Return a picture as PNG."""
    content = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def wav(number=0, samples=1600):
    """Return a recording at 16 kHz as WAV."""
    content = io.BytesIO()
    soundfile.write(content, np.random.default_rng(number).normal(0, 0.1, samples), 16000, format="WAV")
    return content.getvalue()


def write_tar(path, members, mode="w"):
    """Write a tar file of (name, content)."""
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def usable(dataset):
    """Return the number of samples that can be read, and the messages of the others."""
    good, messages = 0, []
    for index in range(len(dataset)):
        try:
            dataset.load(index)
            good += 1
        except ValueError as error:
            messages.append(str(error))
    return good, messages
