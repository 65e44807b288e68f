"""Checkpoint files as the reference implementations write them, made from the recorded fixtures."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.modeling_d2v.reference_fixtures import TASK, load_reference


TASKS = {"audio": {"normalize": True, "sample_rate": 16000}, "text": TASK, "image": {}}


def content_of(name: str, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """What a pretrained checkpoint of fairseq's trainer holds.

    Args:
        name: of the fixture.
        dtype: of the floating point tensors of the student; the teacher is kept in float32, as there.
    """
    reference = load_reference(name)
    state = {key: value if dtype is None else cast(value, dtype) for key, value in reference.state.items()}
    modality = name.split("_")[1]
    return {
        "args": None,
        "cfg": {"model": reference.record["config"], "task": TASKS[modality]},
        "model": state,
        "optimizer_history": [{"num_updates": 3}],
        "task_state": {},
        "extra_state": {},
    }


def cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def write(content: dict[str, Any], path: Path) -> Path:
    torch.save(content, path)
    return path


def student(name: str) -> dict[str, Tensor]:
    """The encoder of a fixture without what only pretraining needs."""
    left_out = (".decoder.", "final_proj.", "regression_head.")
    state = load_reference(name).state
    return {
        key: value for key, value in state.items() if isinstance(value, Tensor) and not any(x in key for x in left_out)
    }


def recogniser(name: str, rows: int = 9) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A speech recogniser (`wav2vec_ctc`) around an encoder, and its head."""
    config = load_reference(name).record["config"]
    head = linear(config.get("embed_dim") or config["encoder_embed_dim"], rows)
    state = {f"w2v_encoder.w2v_model.{key}": value for key, value in student(name).items()}
    state |= {f"w2v_encoder.proj.{key}": value for key, value in head.items()}
    # What fairseq writes over the settings of pretraining when it loads the encoder.
    replaced = {"mask_prob": 0.5, "mask_channel_prob": 0.25, "mask_channel_length": 64, "mask_length": 10}
    replaced |= {"feature_grad_mult": 0.0} if "encoder_layers" in config else {}
    inner = {**config, **replaced} if "encoder_layers" in config else dict(config)
    if "modalities" in config:
        over = replaced | {"local_grad_mult": 0.0, "encoder_zero_mask": False, "learned_alibi_scale": True}
        inner["modalities"] = {key: {**value, **over} for key, value in config["modalities"].items()}
    tuning = {"_name": "wav2vec_ctc", "w2v_args": {"model": inner, "task": TASKS["audio"]}, "normalize": True}
    tuning |= {"final_dropout": 0.1, "apply_mask": True, "dropout_input": 0.0, "w2v_path": "x.pt", **replaced}
    content = {
        "args": None,
        "cfg": {"model": tuning, "task": {"_name": "audio_finetuning", "normalize": True, "labels": "ltr"}},
        "model": state,
        "optimizer_history": [{"num_updates": 80}],
        "task_state": {},
    }
    return content, head


def image_classifier(rows: int = 6, **tuning: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An image classifier of 2.0 (`mae_image_classification`), and its head."""
    name = "d2v2_image_base"
    config = load_reference(name).record["config"]
    head = {f"head.{key}": value for key, value in linear(config["embed_dim"], rows).items()}
    head |= {f"fc_norm.{key}": 1 + torch.randn(config["embed_dim"]) * 0.1 for key in ("weight", "bias")}
    state = {f"model.{key}": value for key, value in student(name).items()} | head
    inner = {**config, "start_drop_path_rate": 0.05, "end_drop_path_rate": 0.1, "drop_path_rate": 0.1}
    inner["modalities"] = {"image": {**config["modalities"]["image"], "start_drop_path_rate": 0.0}}
    settings = {"_name": "mae_image_classification", "num_classes": rows, "prediction_mode": "MEAN_POOLING", **tuning}
    settings["pretrained_model_args"] = {"model": inner, "task": {}}
    return {"cfg": {"model": settings, "task": {"_name": "mae_image_classification"}}, "model": state}, head


def text_classifier(name: str, rows: int = 3, **tuning: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A text classifier of 2.0 (`data2vec_text_classification`) or 1.0 (a head of `data2vec_text`), and its head."""
    config = load_reference(name).record["config"]
    first = name.startswith("d2v1")
    width = config["transformer"]["encoder"]["embed_dim"] if first else config["embed_dim"]
    head = {f"dense.{key}": value for key, value in linear(width, width).items()}
    head |= {f"out_proj.{key}": value for key, value in linear(width, rows).items()}
    prefix = "" if first else "model."
    state: dict[str, Any] = {f"{prefix}{key}": value for key, value in student(name).items()}
    state |= {f"classification_heads.sentence_classification_head.{key}": value for key, value in head.items()}
    if first:
        # The first version is fine-tuned with its teacher and its prediction still there.
        state = load_reference(name).state | state
        settings = {**config, "_name": "data2vec_text", **tuning}
    else:
        wrapped = {"model": config, "task": TASKS["text"]}
        settings = {"_name": "data2vec_text_classification", "pretrained_model_args": wrapped, **tuning}
    return {"cfg": {"model": settings, "task": {"_name": "sentence_prediction"}}, "model": state}, head


def linear(inputs: int, outputs: int) -> dict[str, Tensor]:
    return {"weight": torch.randn(outputs, inputs) * 0.2, "bias": torch.randn(outputs) * 0.2}
