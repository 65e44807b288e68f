"""Small tokenizers, image processors and feature extractors, as a checkpoint carries them."""

import json
from pathlib import Path
from typing import Any

from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor

from d2v_train.inputs.tokenizer import build_tokenizer
from modeling_d2v import Data2VecImageProcessor


LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", "a", "b", "c", "d", "e", "f", "g"]


def text_tokenizer() -> Any:
    """Byte-level BPE with at most 300 tokens, trained on a sentence."""
    return build_tokenizer(["the cat sat on the mat"] * 10, 300, 40)


def letter_tokenizer(folder: Path) -> Wav2Vec2CTCTokenizer:
    """Tokenizer of a CTC model over `LETTERS`."""
    path = Path(folder) / "letters.json"
    path.write_text(json.dumps({letter: i for i, letter in enumerate(LETTERS)}), encoding="utf-8")
    return Wav2Vec2CTCTokenizer(str(path))


def image_processor(num_channels: int = 3, **settings: Any) -> Data2VecImageProcessor:
    """Shorter side to 32 pixels, centre cut out."""
    defaults: dict[str, Any] = dict(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    values = [0.5] * num_channels
    defaults |= dict(num_channels=num_channels, image_mean=values, image_std=values)
    return Data2VecImageProcessor(**{**defaults, **settings})


def feature_extractor(**settings: Any) -> Wav2Vec2FeatureExtractor:
    """Standardised waveforms of 16 kHz."""
    return Wav2Vec2FeatureExtractor(**{"return_attention_mask": True, **settings})
