"""The released checkpoint files at full size: names and shapes, written down from the modules of the reference.

Sources: fairseq, `examples/data2vec`, and `data2vec_vision/beit`. The same functions, given the settings of a recorded
fixture, must give the layout of that fixture. Tensors hold one number each, a different one, and take no memory: they
are that number expanded to the shape.
"""

import math
from typing import Any

import torch
from released_settings import BEIT, BEIT_SIZES, DEVICE_BATCH, VERSION_1, settings_of

from modeling_d2v.conversion.fairseq.settings import conv_layers


Shapes = dict[str, tuple[int, ...]]
VOCABULARY = 50265
LETTERS = 32


# Parts of the layouts


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, size: int) -> Shapes:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def _under(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


def _blocks(prefix: str, count: int, block: Shapes) -> Shapes:
    return {f"{prefix}{i}.{name}": shape for i in range(count) for name, shape in block.items()}


def _timm_block(width: int, inner: int) -> Shapes:
    attention = _linear("attn.qkv", width, 3 * width) | _linear("attn.proj", width, width)
    return attention | _norm("norm1", width) | _norm("norm2", width) | _mlp("mlp.fc1", "mlp.fc2", width, inner)


def _mlp(first: str, second: str, width: int, inner: int) -> Shapes:
    return _linear(first, width, inner) | _linear(second, inner, width)


def _fairseq_block(width: int, inner: int) -> Shapes:
    names = [f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")]
    attention = {key: shape for name in names for key, shape in _linear(name, width, width).items()}
    norms = _norm("self_attn_layer_norm", width) | _norm("final_layer_norm", width)
    return attention | norms | _mlp("fc1", "fc2", width, inner)


def _beit_block(width: int, inner: int, mlp: tuple[str, str]) -> Shapes:
    vectors = dict.fromkeys(("attn.q_bias", "attn.v_bias", "gamma_1", "gamma_2"), (width,))
    attention = {"attn.qkv.weight": (3 * width, width)} | _linear("attn.proj", width, width)
    return vectors | attention | _norm("norm1", width) | _norm("norm2", width) | _mlp(*mlp, width, inner)


def _relative_bias(prefix: str, side: int, heads: int) -> Shapes:
    tokens = side**2 + 1
    return {
        f"{prefix}.relative_position_bias_table": ((2 * side - 1) ** 2 + 3, heads),
        f"{prefix}.relative_position_index": (tokens, tokens),
    }


def _convolutions(prefix: str, spec: str) -> Shapes:
    shapes, inputs, layers = {}, 1, conv_layers(spec)
    for i, (outputs, kernel) in enumerate(zip(layers["conv_dim"], layers["conv_kernel"], strict=True)):
        shapes |= {f"{prefix}.{i}.0.weight": (outputs, inputs, kernel)} | _norm(f"{prefix}.{i}.2.1", outputs)
        inputs = outputs
    return shapes


def _positions(prefix: str, depth: int, width: int, groups: int, size: int, first: int) -> Shapes:
    kernel = max(3, width // depth)
    weights = {f"{prefix}.{i + first}.0.weight": (size, size // groups, kernel) for i in range(depth)}
    return weights | {f"{prefix}.{i + first}.0.bias": (size,) for i in range(depth)}


# Whole layouts: student and teacher


def layout_v2(settings: dict[str, Any], vocabulary: int) -> tuple[Shapes, Shapes]:
    """data2vec 2.0 (`data2vec_multi`) of one modality."""
    name, width, depth = settings["supported_modality"], settings["embed_dim"], settings["depth"]
    section, block = settings["modalities"][name.lower()], _timm_block(width, int(width * settings["mlp_ratio"]))
    local, context = {
        "AUDIO": _audio_v2,
        "IMAGE": _image_v2,
        "TEXT": _text_v2,
    }[name](section, width, vocabulary)
    context |= _blocks("context_encoder.blocks.", section["prenet_depth"], block)
    if section["use_alibi_encoder"]:
        layers = depth + section["prenet_depth"] if section["learned_alibi_scale_per_layer"] else 1
        heads = settings["num_heads"] if section["learned_alibi_scale_per_head"] else 1
        context["alibi_scale"] = (layers, 1, heads, 1, 1)
    if section["num_extra_tokens"]:
        context["extra_tokens"] = (1, section["num_extra_tokens"], width)
    decoder = _decoder(section["decoder"], width, 2 if name == "IMAGE" else 1)
    shared, prefix = _blocks("blocks.", depth, block), f"modality_encoders.{name}."
    student = shared | _under(prefix, local | context | decoder)
    if settings["ema_encoder_only"]:
        return student, _blocks("", depth, block)
    taught = context | local if section["ema_local_encoder"] else context
    return student, shared | _under(prefix, taught)


def _audio_v2(section: dict[str, Any], width: int, vocabulary: int) -> tuple[Shapes, Shapes]:
    local = _convolutions("local_encoder.conv_layers", section["feature_encoder_spec"])
    channels = next(reversed(local.values()))[0]
    local |= _norm("project_features.1", channels) | _linear("project_features.2", channels, width)
    sizes = section["conv_pos_depth"], section["conv_pos_width"], section["conv_pos_groups"]
    return local, _positions("relative_positional_encoder", *sizes, width, 1) | _norm("context_encoder.norm", width)


def _image_v2(section: dict[str, Any], width: int, vocabulary: int) -> tuple[Shapes, Shapes]:
    side, patches = section["patch_size"], (section["input_size"] // section["patch_size"]) ** 2
    local = {
        "local_encoder.proj.weight": (width, section["in_chans"], side, side),
        "local_encoder.proj.bias": (width,),
    }
    positions = {"fixed_positional_encoder.positions": (1, patches, width)}
    return local, positions | _norm("context_encoder.norm", width)


def _text_v2(section: dict[str, Any], width: int, vocabulary: int) -> tuple[Shapes, Shapes]:
    return _embeddings("local_encoder.", vocabulary, section["max_source_positions"], width), {}


def _embeddings(prefix: str, vocabulary: int, positions: int, width: int) -> Shapes:
    tables = {"embed_tokens.weight": (vocabulary, width), "embed_positions.weight": (positions + 2, width)}
    return _under(prefix, tables | _norm("layernorm_embedding", width))


def _decoder(decoder: dict[str, Any], width: int, dims: int) -> Shapes:
    shapes, inputs, dim = {}, width, decoder["decoder_dim"]
    for i in range(decoder["decoder_layers"]):
        kernel = (decoder["decoder_kernel"],) * dims
        shapes |= {f"decoder.blocks.{i}.0.weight": (dim, inputs // decoder["decoder_groups"], *kernel)}
        shapes |= {f"decoder.blocks.{i}.0.bias": (dim,)}
        inputs = dim
    if decoder["projection_layers"] == 1:
        return shapes | _linear("decoder.proj", dim, width)
    middle = int(dim * decoder["projection_ratio"])
    return shapes | _linear("decoder.proj.0", dim, middle) | _linear("decoder.proj.2", middle, width)


def layout_v1_audio(settings: dict[str, Any], vocabulary: int) -> tuple[Shapes, Shapes]:
    """data2vec 1.0 for speech (`data2vec_audio`)."""
    width = settings["encoder_embed_dim"]
    block = _fairseq_block(width, settings["encoder_ffn_embed_dim"])
    front = _convolutions("feature_extractor.conv_layers", settings["conv_feature_layers"])
    channels = next(reversed(front.values()))[0]
    front |= _norm("layer_norm", channels) | _linear("post_extract_proj", channels, width) | {"mask_emb": (width,)}
    sizes = settings["pos_conv_depth"], settings["conv_pos"], settings["conv_pos_groups"]
    encoder = _blocks("layers.", settings["encoder_layers"], block) | _norm("layer_norm", width)
    encoder |= _positions("pos_conv", *sizes, width, 0)
    return front | _under("encoder.", encoder) | _linear("final_proj", width, width), encoder


def layout_v1_text(settings: dict[str, Any], vocabulary: int) -> tuple[Shapes, Shapes]:
    """data2vec 1.0 for text (`data2vec_text`), with the two-layer head of the published configuration."""
    transformer = settings["transformer"]
    sizes, width = transformer["encoder"], transformer["encoder"]["embed_dim"]
    encoder = _blocks("layers.", sizes["layers"], _fairseq_block(width, sizes["ffn_embed_dim"])) | {"version": (1,)}
    encoder |= _embeddings("", vocabulary, transformer["max_source_positions"], width)
    head = _linear("regression_head.0", width, 2 * width) | _linear("regression_head.2", 2 * width, width)
    return _under("encoder.", _under("sentence_encoder.", encoder) | head), encoder


def layout_v1_vision(settings: dict[str, Any], vocabulary: int) -> tuple[Shapes, Shapes]:
    """data2vec 1.0 for images in fairseq, of which no file was released."""
    width, side = settings["embed_dim"], settings["image_size"] // settings["patch_size"]
    block = _beit_block(width, width * settings["mlp_ratio"], ("mlp.0", "mlp.2"))
    encoder = _blocks("blocks.", settings["depth"], block) | _norm("norm", width)
    encoder |= _relative_bias("rel_pos_bias", side, settings["num_heads"])
    patch = (width, settings["in_channels"], settings["patch_size"], settings["patch_size"])
    front = {"patch_embed.conv.weight": patch, "patch_embed.conv.bias": (width,)}
    tokens = {"cls_emb": (1, 1, width), "mask_emb": (1, 1, width)}
    return front | tokens | _under("encoder.", encoder) | _linear("final_proj", width, width), encoder


def layout_beit(width: int, depth: int, heads: int) -> Shapes:
    """The released image models of 1.0 (`VisionTransformerForCyclicalTraining`), 224 pixels in patches of 16."""
    block = _beit_block(width, 4 * width, ("mlp.fc1", "mlp.fc2"))
    patches = {"patch_embed.proj.weight": (width, 3, 16, 16), "patch_embed.proj.bias": (width,)}
    tokens = dict.fromkeys(("cls_token", "mask_token"), (1, 1, width))
    rest = _relative_bias("rel_pos_bias", 14, heads) | _norm("norm", width) | _linear("lm_head", width, width)
    return patches | tokens | rest | _blocks("blocks.", depth, block)


LAYOUTS = {
    "fairseq-v2": layout_v2,
    "fairseq-v1-audio": layout_v1_audio,
    "fairseq-v1-text": layout_v1_text,
    "fairseq-v1-vision": layout_v1_vision,
}


# Files


class Numbers:
    """Makes tensors that hold one number each, 1, 2, 3, ...; `names` tells whose they are."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}

    def state(self, shapes: Shapes, prefix: str = "") -> dict[str, Any]:
        return {name: self._tensor(prefix + name, shape) for name, shape in shapes.items()}

    def _tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        number = len(self.names) + 1
        self.names[number] = name
        dtype = torch.int64 if name.endswith("_index") else torch.float32
        return torch.tensor(number, dtype=dtype).expand(shape)


def kind_of(preset: str) -> str:
    """Layout of a preset's file, one of `checkpoints.FAIRSEQ_KINDS`."""
    if preset in BEIT:
        return "beit-v1-vision"
    return f"fairseq-v1-{preset.split('-')[0]}" if preset in VERSION_1 else "fairseq-v2"


def released(preset: str, task: str = "pretraining", numbers: Numbers | None = None) -> dict[str, Any]:
    """What a released file holds.

    Args:
        preset: of its model.
        task: "pretraining", "ctc", "images" or "texts".
        numbers: makes the tensors.
    """
    numbers = numbers or Numbers()
    if preset in BEIT:
        state = numbers.state(layout_beit(*BEIT_SIZES[preset]))
        teacher = numbers.state(layout_beit(*BEIT_SIZES[preset]), "_ema.")
        return {"model": state, "model_ema": teacher, "epoch": 799, "args": BEIT[preset]}
    settings, version_1 = settings_of(preset), preset in VERSION_1
    student, teacher = LAYOUTS[kind_of(preset)](settings, VOCABULARY)
    step = {"optimizer_history": [{"num_updates": 1000}], "args": None, "task_state": {}, "extra_state": {}}
    data = {"_name": "masked_lm", "random_token_prob": 0, "leave_unmasked_prob": 0, "mask_prob": 0.35}
    if task == "pretraining":
        state: dict[str, Any] = numbers.state(student)
        state["encoder._ema" if kind_of(preset) == "fairseq-v1-text" else "_ema"] = numbers.state(teacher, "_ema.")
        name = {"fairseq-v2": "data2vec_multi"}.get(
            kind_of(preset), kind_of(preset).replace("fairseq-v1-", "data2vec_")
        )
        cfg = {"model": settings | {"_name": name}, "task": data, "dataset": {"batch_size": DEVICE_BATCH.get(preset)}}
        return step | {"cfg": cfg, "model": state}
    encoder = {name: shape for name, shape in student.items() if not _is_prediction(name)}
    return step | _fine_tuned(task, version_1, settings, encoder, numbers)


def _is_prediction(name: str) -> bool:
    return ".decoder." in name or name.startswith("final_proj.") or ".regression_head." in name


def _fine_tuned(
    task: str, version_1: bool, settings: dict[str, Any], encoder: Shapes, numbers: Numbers
) -> dict[str, Any]:
    width = settings["encoder_embed_dim"] if "encoder_embed_dim" in settings else settings["embed_dim"]
    wrapped = {"model": settings, "task": {}}
    if task == "ctc":
        state = _under("w2v_encoder.w2v_model.", encoder) | _linear("w2v_encoder.proj", width, LETTERS)
        model = {"_name": "wav2vec_ctc", "w2v_args": wrapped, "normalize": True, "final_dropout": 0.1}
        name = "audio_finetuning"
    elif task == "images":
        state = _under("model.", encoder) | _norm("fc_norm", width) | _linear("head", width, 1000)
        model = {"_name": "mae_image_classification", "prediction_mode": "MEAN_POOLING"}
        model["pretrained_model_args"], name = wrapped, "mae_image_classification"
    else:
        head = _linear("dense", width, width) | _linear("out_proj", width, 2)
        state = _under("model.", encoder) | _under("classification_heads.sentence_classification_head.", head)
        model = {"_name": "data2vec_text_classification", "pretrained_model_args": wrapped}
        name = "sentence_prediction"
    return {"cfg": {"model": model, "task": {"_name": name, "normalize": True}}, "model": numbers.state(state)}


def count(shapes: Shapes) -> int:
    """Numbers in a layout."""
    return sum(math.prod(shape) for shape in shapes.values())
