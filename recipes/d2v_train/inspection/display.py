"""Inputs of a model as a reader sees or hears them: small data URIs and tokens.

They are made from what the model gets, after the transform, and not from files: what is shown is what was measured.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np

from d2v_train.data.tables import SAMPLING_RATE
from d2v_train.inspection.results import Item
from d2v_train.support.extras import need
from modeling_d2v.modalities import modality_of_input


LONGEST_SIDE = 96
"""Pixels of a thumbnail; smaller pictures keep their size."""


def data_uri(content: bytes, kind: str) -> str:
    """Return content of a MIME type as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def picture_uri(pixels: Any, side: int = LONGEST_SIDE) -> str:
    """Return a picture as a data URI.

    Args:
        pixels: Input of a model (C, H, W), of one or three channels; its own smallest and largest value become black
            and white. Or a `PIL.Image.Image`.
        side: Longest side in pixels.
    """
    Image = need("PIL.Image", "vision")
    if isinstance(pixels, Image.Image):
        image = pixels.convert("RGB")
    else:
        array = np.asarray(pixels, dtype=np.float64)
        array = (array - array.min()) / max(np.ptp(array), 1e-12)
        array = np.round(255 * array).astype(np.uint8)
        image = Image.fromarray(array[0] if len(array) == 1 else np.moveaxis(array[:3], 0, -1))
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    if max(image.size) <= 32:
        image.save(buffer, "PNG")
        return data_uri(buffer.getvalue(), "image/png")
    image.convert("RGB").save(buffer, "JPEG", quality=80)
    return data_uri(buffer.getvalue(), "image/jpeg")


def recording_uri(samples: Any, sampling_rate: int = SAMPLING_RATE) -> str:
    """Return a recording as a data URI, at most half loud: MP3, or WAV where libsndfile lacks it.

    Args:
        samples: (S,) waveform of any scale.
        sampling_rate: In Hz.
    """
    soundfile = need("soundfile", "audio")
    samples = np.asarray(samples, dtype=np.float32)
    samples = 0.5 * samples / max(float(np.abs(samples).max(initial=0)), 1e-9)
    buffer = io.BytesIO()
    if "MP3" in soundfile.available_formats():
        soundfile.write(buffer, samples, sampling_rate, format="MP3", bitrate_mode="CONSTANT", compression_level=0.9)
        return data_uri(buffer.getvalue(), "audio/mpeg")
    soundfile.write(buffer, samples, sampling_rate, format="WAV", subtype="PCM_16")
    return data_uri(buffer.getvalue(), "audio/wav")


def tokens_of(ids: Any, tokenizer: Any) -> list[str]:
    """Return the tokens of a text as a reader knows them: decoded one by one, special ones in angle brackets."""
    return [tokenizer.decode([int(token)]) or "·" for token in ids]


def shown(item: dict[str, Any], concept: str, name: str = "", value: float = 0.0, tokenizer: Any = None) -> Item:
    """Return an input of a model for display.

    Args:
        item: Input without batch dimension.
        concept: Name of its concept.
        name: Its name; a text is named by itself.
        value: See `Item`.
        tokenizer: Of texts.
    """
    modality = next(modality for key in item if (modality := modality_of_input(key)) is not None)
    uri = ""
    if modality == "vision":
        uri = picture_uri(item["pixel_values"])
    elif modality == "audio":
        uri = recording_uri(item["input_values"])
    elif tokenizer is not None:
        name = tokenizer.decode([int(token) for token in item["input_ids"]], skip_special_tokens=True).strip()
    return Item(modality=modality, concept=concept, name=name, uri=uri, value=float(value))
