"""A saved model to probe, pictures to probe it on, and the probe."""

import numpy as np
import torch
from PIL import Image

from d2v_train.data.builtin import load_python_prose
from d2v_train.inputs.tokenizer import build_tokenizer
from d2v_train.probing.run import ProbeSettings, run_probe
from modeling_d2v import Data2VecConfig, Data2VecForPreTraining


DECODER = dict(decoder_layers=1, decoder_kernel_size=3, decoder_hidden_size=32, decoder_groups=4)


def save_model(folder):
    """A tiny model with random weights for all modalities, with its tokenizer."""
    tokenizer = build_tokenizer(load_python_prose()["train"][0][:200], 300)
    config = Data2VecConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        vision_config=dict(image_size=8, patch_size=2, num_channels=1, prenet_depth=1, **DECODER),
        audio_config=dict(
            conv_dim=[8] * 5, conv_kernel=[10, 4, 4, 4, 4], conv_stride=[5, 4, 4, 4, 4], conv_pos_depth=1,
            conv_pos_width=3, conv_pos_groups=4, **DECODER,
        ),
        text_config=dict(vocab_size=len(tokenizer), max_position_embeddings=66, **DECODER),
    )  # fmt: skip
    torch.manual_seed(1)
    Data2VecForPreTraining(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_pictures(folder, per_class, classes, damaged=0):
    """An image folder with a folder per split and class; class c is a square of brightness 80 c."""
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in range(classes):
            target = folder / split / f"class{label}"
            target.mkdir(parents=True)
            for number in range(per_class):
                pixels = generator.integers(0, 40, (8, 8)) + 80 * label
                Image.fromarray(pixels.astype(np.uint8)).save(target / f"{number}.png")
            for number in range(damaged):
                (target / f"damaged{number}.png").write_bytes(b"no picture")


def probe(folder, modality, data=None, **settings):
    return run_probe(ProbeSettings(model=str(folder), modality=modality, data=data, **settings))
