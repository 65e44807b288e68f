"""Checkpoints of every kind are converted and pretrained further: their first step is that of the converted model."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from model_factory import randomise
from PIL import Image
from processing_factory import text_tokenizer

from d2v_train.programs.convert import run_program as convert
from d2v_train.programs.pretrain import run_program as pretrain
from d2v_train.support.jsonl import read_log
from modeling_d2v import Data2VecForPreTraining, Data2VecModel
from tests.modeling_d2v.source_checkpoints import content_of, write


ROOT = Path(__file__).resolve().parents[3]
FAIRSEQ = {
    "d2v2_audio_base": "audio",
    "d2v2_image_base": "vision",
    "d2v2_text_base": "text",
    "d2v1_audio_base": "audio",
    "d2v1_image_base": "vision",
    "d2v1_text_base": "text",
}
SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
THEIRS = {
    "data2vec-audio": dict(conv_dim=[8] * 7, num_conv_pos_embeddings=2, conv_pos_kernel_size=5)
    | dict(num_conv_pos_embedding_groups=4),
    "data2vec-vision": dict(image_size=64, use_shared_relative_position_bias=True, use_mean_pooling=False),
    "data2vec-text": dict(max_position_embeddings=42, type_vocab_size=1, layer_norm_eps=1e-5),
}


def from_fairseq(name, folder, rows):
    """A converted fixture; its vocabulary is enlarged to `rows` entries."""
    content = content_of(name)

    def enlarge(state):
        for key, value in state.items():
            if isinstance(value, dict):
                enlarge(value)
            elif key.endswith("embed_tokens.weight"):
                extra = torch.randn(rows - len(value), value.shape[1], generator=torch.Generator().manual_seed(0))
                state[key] = torch.cat([value, extra * 0.02])

    enlarge(content["model"])
    convert([str(write(content, folder / "source.pt")), str(folder / "model")])
    return Data2VecForPreTraining.from_pretrained(folder / "model")


def from_transformers(kind, folder, rows):
    config = transformers.CONFIG_MAPPING[kind](**SIZES, **THEIRS[kind])
    if kind == "data2vec-text":
        config.vocab_size = rows
    source = randomise(transformers.AutoModel.from_config(config))
    source.save_pretrained(folder / "source")
    convert([str(folder / "source"), str(folder / "model")])
    return Data2VecModel.from_pretrained(folder / "model")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of pictures of 64 x 64 pixels."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("kind", [*FAIRSEQ, *THEIRS])
def test_pretraining_goes_on(kind, tmp_path, pictures):
    tokenizer = text_tokenizer()
    modality = FAIRSEQ.get(kind) or kind.removeprefix("data2vec-")
    make = from_fairseq if kind in FAIRSEQ else from_transformers
    converted = make(kind, tmp_path, len(tokenizer))
    if modality == "text":
        tokenizer.save_pretrained(tmp_path / "model")
    options = [f"output_dir={tmp_path / 'run'}", f"init_from={tmp_path / 'model'}", "model=null", "cpu=true"]
    # So small a step, and so slow a teacher, that what the run began with is what it ends with, almost.
    options += ["model.ema_decay=1.0", "model.ema_end_decay=1.0"]
    options += ["max_steps=2", "logging.every=1", f"{modality}.batch_size=2", "optim.lr=1e-6", "optim.warmup=0.0"]
    options += {
        "audio": ["audio.transform.crop_seconds=[0.3,0.5]", "audio.dataset.max_samples=8"],
        "vision": [f"data.vision={pictures}", "vision.transform=null"],
        "text": ["text.transform.max_length=32"],
    }[modality]
    pretrain([str(ROOT / f"recipes/d2v_train/configs/tiny_{modality}.yaml"), *options])
    last = read_log(tmp_path / "run" / "log.jsonl")[-1]
    assert last["step"] == 2 and np.isfinite(last[f"{modality}/loss"]) and last["grad_norm"] > 0

    ended = Data2VecForPreTraining.from_pretrained(tmp_path / "run" / "final")
    began = (
        converted.state_dict() if kind in FAIRSEQ else {f"data2vec.{k}": v for k, v in converted.state_dict().items()}
    )
    began.pop("ema_step", None)
    moved = {
        name: (ended.state_dict()[name] - tensor).abs().max().item()
        for name, tensor in began.items()
        if not (name.startswith("teacher.") and ended._is_copied(name.removeprefix("teacher.")))
    }
    assert max(moved.values()) < 1e-5
    student = [change for name, change in moved.items() if name.startswith("data2vec.encoder.")]
    assert sum(change > 0 for change in student) > 0.9 * len(student)
    if kind not in FAIRSEQ:  # the teacher of a model without one starts as its student
        names = [name for name, _ in ended.teacher.named_parameters()]
        assert all(
            torch.allclose(ended.teacher.get_parameter(name), began[f"data2vec.{name}"], atol=1e-5) for name in names
        )
