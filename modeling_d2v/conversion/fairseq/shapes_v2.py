"""What the names and shapes of a 2.0 checkpoint's tensors tell about the model, where its settings may not.

Every value is `None` where the tensors do not tell it: with no tensors at all, or where a part is missing.
"""

import re
from collections.abc import Iterable, Mapping, Sequence


Shape = Sequence[int]


class ModelShapes:
    """Sizes of the shared blocks.

    Args:
        shapes: Shapes of the student's tensors by name; empty if they are not known.
    """

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self.shapes = shapes
        block = "blocks.0."
        self.known = f"{block}attn.proj.weight" in shapes
        self.width: int | None = _size(shapes, f"{block}attn.proj.weight", 0)
        self.depth: int | None = _count(shapes, r"blocks\.(\d+)\.") or None
        self.intermediate: int | None = _size(shapes, f"{block}mlp.fc1.weight", 0)
        norms = any(re.match(r"blocks\.\d+\.norm[12]\.", name) for name in shapes)
        self.norm_affine: bool | None = norms if self.known else None
        # Only a pre-norm model has a norm after the last block, with weights if the others have them.
        self.pre_norm: bool | None = bool({"norm.weight", "norm.bias"} & shapes.keys()) if norms else None

    def modalities(self, names: Iterable[str]) -> list[str]:
        """Return which of these modalities the tensors belong to; none if they do not tell."""
        return [name for name in names if self.of_modality(name).known]

    def of_modality(self, name: str) -> "ModalityShapes":
        """Return the sizes of the encoder of a modality, by the name of its section."""
        prefix = f"modality_encoders.{name.upper()}."
        own = {key[len(prefix) :]: shape for key, shape in self.shapes.items() if key.startswith(prefix)}
        return ModalityShapes(own)


class ModalityShapes:
    """Sizes of the encoder and the decoder of a modality.

    Args:
        shapes: Shapes of its tensors by their names inside it.
    """

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self.shapes = shapes
        self.known = bool(shapes)
        self.prenet_depth: int | None = _count(shapes, r"context_encoder\.blocks\.(\d+)\.") if shapes else None
        extra = shapes.get("extra_tokens")
        self.extra_tokens: int | None = extra[1] if extra else 0 if shapes else None

        scale = shapes.get("alibi_scale")
        self.has_alibi: bool | None = scale is not None if shapes else None
        self.scale_heads: int | None = scale[-3] if scale else None
        self.scales_per_head: bool | None = True if scale and scale[-3] > 1 else None
        self.scales_per_layer: bool | None = len(scale) == 5 and scale[0] > 1 if scale else None

        first = shapes.get("decoder.blocks.0.0.weight")
        inner = shapes.get("decoder.input_proj.weight")
        self.transformer_decoder: bool | None = inner is not None if first or inner else None
        self.cross_attention: bool | None = "decoder.blocks.0.attn.q_proj.weight" in shapes if inner else None
        inside = "decoder.blocks.0." if self.cross_attention else "decoder.encoder.blocks.0."
        self.decoder_intermediate: int | None = _size(shapes, f"{inside}mlp.fc1.weight", 0)
        layers = _count(shapes, r"decoder\.blocks\.(\d+)\.0\.weight")
        self.decoder_layers: int | None = layers or _count(shapes, r"decoder\.(?:encoder\.)?blocks\.(\d+)\.") or None
        self.decoder_width: int | None = (first or inner)[0] if first or inner else None
        self.decoder_kernel: int | None = first[-1] if first else None
        projections = sorted(
            (int(found[1]), shape)
            for name, shape in shapes.items()
            if (found := re.fullmatch(r"decoder\.proj\.(\d+)\.weight", name))
        )
        self.projection_layers: int | None = len(projections) or None
        if "decoder.proj.weight" in shapes:
            self.projection_layers = 1
        self.projection_hidden: int | None = projections[0][1][0] if len(projections) > 1 else None

        local = "local_encoder."
        self.extractor_mode: str | None = None
        if f"{local}conv_layers.0.0.weight" in shapes:
            grouped = f"{local}conv_layers.0.2.weight" in shapes
            self.extractor_mode = "default" if grouped else "layer_norm"
        convolutions = [
            shapes[name]
            for i in range(_count(shapes, r"local_encoder\.conv_layers\.(\d+)\.0\.weight"))
            if (name := f"{local}conv_layers.{i}.0.weight") in shapes
        ]
        self.convolutions: dict[str, list[int]] = {
            "conv_dim": [shape[0] for shape in convolutions],
            "conv_kernel": [shape[2] for shape in convolutions],
        }

        position = next((s for n, s in shapes.items() if re.fullmatch(_POSITION.format(r"1"), n)), None)
        self._position = position
        self.position_layers: int | None = _count(shapes, _POSITION.format(r"(\d+)"), first=1) or None
        self.position_kernel: int | None = position[-1] if position else None
        norm = shapes.get("relative_positional_encoder.0.weight")
        self.position_norm: bool | None = norm is not None if position else None

        patch = shapes.get(f"{local}proj.weight") or shapes.get(f"{local}0.proj.weight")
        self.has_expansion: bool = f"{local}1.weight" in shapes
        self.patch_width: int | None = patch[0] if patch else None
        self.channels: int | None = patch[1] if patch else None
        self.patch_size: int | None = patch[2] if patch else None
        places = shapes.get("fixed_positional_encoder.positions")
        side = round(places[1] ** 0.5) if places else 0
        self.image_size: int | None = side * patch[2] if places and patch and side**2 == places[1] else None

        self.learned_positions: int | None = _size(shapes, f"{local}embed_positions.weight", 0)
        text = f"{local}embed_tokens.weight" in shapes
        norm = any(name.startswith(f"{local}layernorm_embedding.") for name in shapes)
        self.embedding_norm: bool | None = norm if text else None

    def decoder_groups(self, width: int) -> int | None:
        """Return the groups of the decoder's convolutions, the first of which reads `width` channels."""
        first = self.shapes.get("decoder.blocks.0.0.weight")
        return width // first[1] if first else None

    def position_groups(self, width: int) -> int | None:
        """Return the groups of the position encoder's convolutions over `width` channels."""
        return width // self._position[1] if self._position else None


# Its convolutions are numbered from 1; a norm before them moves them down by one name.
_POSITION = r"relative_positional_encoder\.(?:1\.)?{}\.0\.weight"


def _size(shapes: Mapping[str, Shape], name: str, dim: int) -> int | None:
    return shapes[name][dim] if name in shapes else None


def _count(shapes: Mapping[str, Shape], pattern: str, first: int = 0) -> int:
    """Return how many numbers from `first` on the names have where `pattern` has its group."""
    numbers = {int(found[1]) for name in shapes if (found := re.match(pattern, name))}
    return len(numbers & set(range(first, first + len(numbers))))
