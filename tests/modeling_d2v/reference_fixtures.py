"""Loads the recorded numbers of the reference implementation and records the same quantities from our model.

Names of quantities are those of the fixtures (see `tests/fixtures/reference/README.md`) without the leading "out.".
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from modeling_d2v.configuration_data2vec import Data2VecConfig
from modeling_d2v.conversion.fairseq.layouts import config_from_fairseq, convert_state_dict, detect_kind, translate
from modeling_d2v.conversion.tensors import Place
from modeling_d2v.modalities import MODALITIES, modality_of_input
from modeling_d2v.pretraining_data2vec import Data2VecForPreTraining


FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "reference"
V2 = ("d2v2_audio_base", "d2v2_audio_large", "d2v2_image_base", "d2v2_text_base")
VARIANTS = tuple(sorted(path.stem for path in (FOLDER / "variants").glob("*.json")))
V1_PUBLISHED = ("d2v1_audio_base", "d2v1_text_base", "d2v1_image_base")
# Settings that no published model has.
V1_OTHERS = ("d2v1_audio_preln", "d2v1_audio_groupnorm", "d2v1_text_sinusoidal", "d2v1_image_owner")
V1 = V1_PUBLISHED + V1_OTHERS
# Fixtures of which the shared data folder holds a whole checkpoint.
WHOLE = (*(name for name in V2 if name != "d2v2_audio_large"), *V1_PUBLISHED, "d2v1_audio_preln")

# Outputs that only some fixtures hold, by fixture.
RECORDED = {
    "d2v2_audio_base": {"features.padding_mask", "encoder_padding_mask", "alibi_bias_sample0"},
    "d2v2_audio_large": {"features.padding_mask", "encoder_padding_mask", "alibi_bias_sample0"},
    "d2v2_image_base": {"cls.loss_sum"},
    "d2v2_text_base": {"features.padding_mask", "encoder_padding_mask"},
    "d2v1_audio_base": {"features.padding_mask"},
    "d2v1_image_base": set(),
    "d2v1_text_base": set(),
    "d2v1_audio_preln": {"features.padding_mask"},
    "d2v1_audio_groupnorm": {"features.padding_mask"},
    "d2v1_text_sinusoidal": set(),
    "d2v1_image_owner": set(),
}
# Of the greatest recorded value. A norm over three samples magnifies rounding: those recorded targets are themselves
# 1.3e-5 from the ones computed in double precision.
TOLERANCES = {"d2v1_audio_preln": 2e-5}

# A sample of each fixture in which nothing is padding.
UNPADDED = {"d2v2_audio_large": 1, "d2v1_audio_preln": 1}

# The recorded text batch masks every chosen token; the published 80 / 10 / 10 split is the task's, not the model's.
TASK = {"random_token_prob": 0.0, "leave_unmasked_prob": 0.0}


@dataclass
class Reference:
    """One fixture: settings, inputs and recorded outputs."""

    name: str
    tensors: dict[str, Tensor]
    record: dict[str, Any]

    @property
    def state(self) -> dict[str, Any]:
        """Weights as the reference's checkpoints hold them, the teacher nested under `_ema`."""
        state: dict[str, Any] = {
            k.removeprefix("model."): v for k, v in self.tensors.items() if k.startswith("model.")
        }
        teacher = {k.removeprefix("ema."): v for k, v in self.tensors.items() if k.startswith("ema.")}
        return state | ({self.record.get("ema_key_in_checkpoint", "_ema"): teacher} if teacher else {})

    @property
    def kind(self) -> str:
        return detect_kind(self.state, self.record["config"])

    @property
    def scalars(self) -> dict[str, Any]:
        return self.record["scalars"]

    @property
    def recorded(self) -> set[str]:
        """Outputs that this fixture must hold and others lack."""
        return RECORDED[self.name]

    @property
    def num_items(self) -> int:
        """Masked positions, by which the reference divides."""
        return self.scalars["sample_size"]

    def config(self, **overrides: Any) -> Data2VecConfig:
        vocabulary = [v.shape[0] for k, v in self.state.items() if k.endswith("embed_tokens.weight")]
        config = config_from_fairseq(
            self.record["config"],
            self.kind,
            task_config=TASK,
            vocab_size=vocabulary[0] if vocabulary else None,
            state=self.state,
        )
        for name, value in overrides.items():
            setattr(config, name, value)
        return config

    def model(self, optional: tuple[str, ...] = (), **overrides: Any) -> Data2VecForPreTraining:
        """The converted model, in eval mode: dropout and decoder noise are off, as in the recording."""
        config = self.config(**overrides)
        model = Data2VecForPreTraining(config)
        tensors = convert_state_dict(self.state, self.kind, config, optional=optional).tensors
        model.load_state_dict(tensors, strict=not optional)
        return model.eval()

    def batch(self, sample: int | None = None) -> dict[str, Tensor]:
        """Arguments of `Data2VecForPreTraining`; with `sample`, of that sample alone."""
        source = self.tensors["in.source"] if "in.source" in self.tensors else self.tensors["in.target_tokens"]
        mask = self.tensors["in.mask"].bool().unflatten(0, (source.shape[0], -1))
        batch = {MODALITIES[self.config().modalities[0]].input_name: source, "mask": mask}
        if "in.padding_mask" in self.tensors:
            batch["attention_mask"] = 1 - self.tensors["in.padding_mask"].long()
        if sample is None:
            return batch
        assert "attention_mask" not in batch or batch["attention_mask"][sample].all()
        return {k: v[sample : sample + 1] for k, v in batch.items() if k != "attention_mask"}

    def expected(self, sample: int | None = None) -> dict[str, Tensor]:
        """Recorded outputs, kept tokens in ascending order; with `sample`, those of that sample.

        Losses are sums over a batch and left out for a single sample.
        """
        out = {k.removeprefix("out."): v for k, v in self.tensors.items() if k.startswith("out.")}
        if "ids_keep" in out:
            out = _in_order(out)
        if sample is None:
            return out
        batch, mask = self.batch(), self.tensors["in.mask"].bool()
        rows = mask.shape[0] // batch["mask"].shape[0]
        of_row = torch.arange(mask.shape[0]) // rows == sample
        of_token = of_row[:, None].expand_as(mask)[mask]
        chosen = {len(of_token): of_token, len(of_row): of_row, len(batch["mask"]): torch.tensor([sample])}
        return {k: v[chosen[len(v)]] for k, v in out.items() if v.dim() > 1 and not k.startswith("alibi")}

    def norms_by_place(self, recorded: dict[str, float | None], teacher: bool = False) -> dict[str, float]:
        """L2 norms by the reference's names -> by ours, where several of its tensors may make up one of ours."""
        squares: dict[str, float] = {}
        for name, norm in recorded.items():
            place = translate(name, self.kind, teacher, self.config())
            if isinstance(place, Place) and norm is not None:
                squares[place.name] = squares.get(place.name, 0.0) + norm**2
        return {name: square**0.5 for name, square in squares.items()}


def _in_order(out: dict[str, Tensor]) -> dict[str, Tensor]:
    order = out["ids_keep"].argsort(dim=1)
    extra = out["encoder_x"].shape[1] - order.shape[1]
    places = torch.cat([torch.arange(extra).expand(len(order), -1), order + extra], dim=1)
    rows = torch.arange(len(order))[:, None]
    for name in ("encoder_in", "encoder_x", "encoder_padding_mask"):
        if name in out:
            out[name] = out[name][rows, places]
    out["ids_keep"] = out["ids_keep"][rows, order]
    if "alibi_bias_sample0" in out:
        first = places[0]
        out["alibi_bias_sample0"] = out["alibi_bias_sample0"][:, first][:, :, first]
    return out


@cache
def load_reference(name: str, folder: Path | None = None) -> Reference:
    """One of the fixtures by its file name without suffix; those of this project unless a folder is given."""
    path = (folder or FOLDER) / name
    return Reference(
        name, load_file(path.with_suffix(".safetensors")), json.loads(path.with_suffix(".json").read_text())
    )


@cache
def load_numbers() -> dict[str, Any]:
    """Tables of positions and of the decay of the teacher."""
    return json.loads((FOLDER / "positions_and_decay.json").read_text())


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Greatest difference in units of the greatest recorded value."""
    assert ours.shape == theirs.shape, f"shape {tuple(ours.shape)} instead of {tuple(theirs.shape)}"
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12)).item()


def assert_close(ours: Tensor, theirs: Tensor, what: str, tolerance: float = 1e-5) -> None:
    """Equal up to `tolerance` of the greatest recorded value, plus 1e-6 for means that are nearly zero themselves."""
    assert ours.shape == theirs.shape, f"{what} has shape {tuple(ours.shape)} instead of {tuple(theirs.shape)}"
    error, greatest = (ours.float() - theirs.float()).abs().max().item(), theirs.abs().max().item()
    assert error <= tolerance * greatest + 1e-6, (
        f"{what} differs from the reference by {error:.1e}, its greatest value is {greatest:.1e}"
    )


@torch.no_grad()
def record_features(model: Data2VecForPreTraining, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder on unmasked input: local features, output and both results of every shared block."""
    modality, inputs = model.data2vec.select_input(**{k: x for k, x in batch.items() if modality_of_input(k)})
    encoder = model.data2vec.modality_encoders[modality]
    local = model.data2vec.local_features(encoder, inputs, batch.get("attention_mask"))
    seen: dict[str, Tensor] = {"local_features": local.features}

    def on_layer(layer: int, output: Tensor, feed_forward: Tensor) -> None:
        seen[f"block.{layer}"], seen[f"feed_forward.{layer}"] = output, feed_forward

    tokens, hidden = model.data2vec.encode(encoder, local, on_layer=on_layer)
    seen["encoder_in"], seen["x"] = tokens.hidden_states, hidden[:, encoder.num_extra :]
    if local.token_mask is not None:
        seen["padding_mask"] = (~local.token_mask).to(torch.uint8)
    return seen


@torch.no_grad()
def record_teacher(model: Data2VecForPreTraining, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The teacher on unmasked input: both results of every shared block without extra tokens, and the targets."""
    modality, inputs = model.data2vec.select_input(**{k: x for k, x in batch.items() if modality_of_input(k)})
    scope = model.config.modality_config(modality).ema_scope
    student, teacher = model.data2vec.modality_encoders[modality], model.teacher.modality_encoders
    attention_mask = batch.get("attention_mask")
    local = model.data2vec.local_features(student, inputs, attention_mask)
    encoder = student if scope == "blocks" else teacher[modality]
    seen: dict[str, Tensor] = {}

    def on_layer(layer: int, output: Tensor, feed_forward: Tensor) -> None:
        seen[f"block.{layer}"] = output[:, encoder.num_extra :]
        seen[f"feed_forward.{layer}"] = feed_forward[:, encoder.num_extra :]

    own = model.teacher.local_features(encoder, inputs, attention_mask) if scope == "all" else local
    model.teacher.encode(encoder, own, on_layer=on_layer)
    seen["targets"] = model.teacher_targets(modality, inputs, attention_mask, local)
    return seen


@torch.no_grad()
def record_student(model: Data2VecForPreTraining, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The student of 2.0 on its visible tokens (in ascending order), and the decoder at all places."""
    modality, inputs = model.data2vec.select_input(**{k: x for k, x in batch.items() if modality_of_input(k)})
    encoder, decoder, mask = model.data2vec.modality_encoders[modality], model.decoders[modality], batch["mask"]
    local = model.data2vec.local_features(encoder, inputs, batch.get("attention_mask"))
    if local.token_mask is not None and not model.config.fairseq_compatible_padding:
        mask = mask & local.token_mask[:, None]
    tokens, hidden = model.data2vec.encode(encoder, local, mask, drop=True)
    seen = {"encoder_in": tokens.hidden_states, "encoder_x": hidden, "ids_keep": tokens.index}
    if tokens.token_mask is not None:
        seen["encoder_padding_mask"] = (~tokens.token_mask).to(torch.uint8)
    if tokens.bias is not None:
        seen["alibi_bias_sample0"] = encoder.attention_bias.scaled(tokens.bias, len(encoder.prenet))[0]
    seen["decoder_out"] = decoder.projection(decoder.features(hidden, tokens, local, mask))
    return seen


def parameter_norms(model: Data2VecForPreTraining, batch: dict[str, Tensor], num_items: int) -> dict[str, float]:
    """L2 norm of the gradient of the summed loss by parameter."""
    model.zero_grad()
    (model(**batch).loss * num_items).backward()
    return {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}


def train_three_steps(
    model: Data2VecForPreTraining, batch: dict[str, Tensor]
) -> tuple[list[float], list[float], dict[str, float]]:
    """Three full-batch steps of Adam, each followed by the update of the teacher, and a fourth forward pass.

    Returns:
        losses, decays, and by name the L2 norm of how far each teacher parameter moved.
    """
    start = {name: p.clone() for name, p in model.teacher.named_parameters()}
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, betas=(0.9, 0.98), eps=1e-6)
    losses, decays = [], []
    for step in (1, 2, 3):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        decays.append(model.update_teacher(step))
    losses.append(model(**batch).loss.item())
    moved = {f"teacher.{name}": (p - start[name]).norm().item() for name, p in model.teacher.named_parameters()}
    return losses, decays, moved
