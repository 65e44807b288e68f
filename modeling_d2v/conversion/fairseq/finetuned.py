"""Conversion of fine-tuned checkpoints of the reference implementations to models with a task head.

Speech recognition (fairseq's `wav2vec_ctc`), image classification (`mae_image_classification` of 2.0, BEiT's program
for 1.0) and text classification (`data2vec_text_classification` of 2.0, the classification heads of 1.0).
"""

from typing import Any

from torch import Tensor

from modeling_d2v.configuration_data2vec import Data2VecConfig
from modeling_d2v.conversion.fairseq.layouts import check_fixed_scale, layout_of, translate, walk_state
from modeling_d2v.conversion.fairseq.sources import CTC, IMAGES, TEXTS, Source
from modeling_d2v.conversion.tensors import Conversion, Filler, Place, Unused, expected_shapes
from modeling_d2v.heads import Data2VecHead
from modeling_d2v.heads_audio import Data2VecForCTC
from modeling_d2v.heads_text import Data2VecForSequenceClassification
from modeling_d2v.heads_vision import Data2VecForImageClassification


HEADS: dict[str, type[Data2VecHead]] = {
    CTC: Data2VecForCTC,
    IMAGES: Data2VecForImageClassification,
    TEXTS: Data2VecForSequenceClassification,
}
_MASK_TOKENS = "mask_token"  # of vision 1.0: its fine-tuning has none


def head_config(source: Source, config: Data2VecConfig) -> Data2VecConfig:
    """Return the configuration of the model with its head.

    Args:
        source: The fine-tuned checkpoint.
        config: Configuration of its encoder, see `config_from_fairseq`.

    Raises:
        ValueError: Our head cannot compute what the source's does.
    """
    model_class = HEADS[source.task]
    _, rows = _check_head(source, config)
    if source.task == CTC:
        fields = _ctc(source.tuning, rows)
        for name, value in fields.items():
            setattr(config.audio_config, name, value)
    else:
        config.num_labels = rows
        config.problem_type = "regression" if rows == 1 else "single_label_classification"
    if source.task == TEXTS:
        config.text_config.classifier_dropout = source.tuning.get("pooler_dropout", 0.0)
    if source.task == IMAGES:
        config.vision_config.use_mean_pooling = _pools_the_mean(source, config)
        config.vision_config.classifier_dropout = 0.0
        # Of 1.0 the class token is taken away twice, the second time it is a patch.
        config.vision_config.pooling_start = int(source.kind == "fairseq-v1-vision")
    config.check()
    return model_class.own_config(config)


def convert_finetuned(source: Source, config: Data2VecConfig) -> Conversion:
    """Convert the tensors of encoder and head.

    Args:
        source: The fine-tuned checkpoint.
        config: See `head_config`.

    Raises:
        ValueError: A tensor is unknown, missing or of another shape; the message names all of them.
    """
    model_class = HEADS[source.task]
    expected = expected_shapes(model_class, config)
    what = f"{source.kind} ({source.task})"
    filler = Filler(expected, what, without_key_bias=layout_of(source.kind).without_key_bias)
    for name, tensor, teacher in walk_state(source.state):
        label = f"_ema.{name}" if teacher else name
        place = Unused(label, "the average of the weights, which is used in pretraining only")
        if not teacher:
            place = check_fixed_scale(translate(name, source.kind, config=config), label, tensor, config)
            if isinstance(place, Place) and place.name.startswith("decoders."):
                place = Unused(label, "the prediction of pretraining")
            elif place.name.endswith(f".{_MASK_TOKENS}") and place.name not in expected:
                place = Unused(label, "masks of pretraining")
        filler.put(label, place, tensor)
    for name, tensor in source.head.items():
        filler.put(name, Place(name), tensor)
    optional = tuple(name for name in expected if name.endswith(f".{_MASK_TOKENS}"))
    return filler.finish(optional)


def _check_head(source: Source, config: Data2VecConfig) -> tuple[str, int]:
    """Return the name and the number of rows of the output layer."""
    last = {CTC: "lm_head.weight", IMAGES: "classifier.weight", TEXTS: "classifier.out_proj.weight"}[source.task]
    tensor: Tensor | None = source.head.get(last)
    if tensor is None:
        raise ValueError(
            f"The head for {source.task} lacks its output layer ({last} here); it has only "
            f"{', '.join(sorted(source.head))} in the checkpoint."
        )
    if source.task == TEXTS:
        function = source.tuning.get("pooler_activation_fn", "tanh")
        if function != "tanh" or source.tuning.get("spectral_norm_classification_head", False):
            raise ValueError(
                f"The classification head has pooler_activation_fn={function!r} and spectral_norm_classification_head="
                f"{source.tuning.get('spectral_norm_classification_head', False)}; here it has tanh and no spectral "
                "norm."
            )
    return last, tensor.shape[0]


def _ctc(tuning: dict[str, Any], rows: int) -> dict[str, Any]:
    """Return the fields of the audio configuration. The blank of fairseq's CTC is the first entry, `<s>`."""
    return {
        "vocab_size": rows,
        "pad_token_id": 0,
        "feat_proj_dropout": tuning.get("dropout_input", 0.0),
        "final_dropout": tuning.get("final_dropout", 0.0),
        "apply_spec_augment": bool(tuning.get("apply_mask", False)),
        "mask_time_prob": min(tuning.get("mask_prob", 0.5), 0.99),
        "mask_time_length": tuning.get("mask_length", 10),
        "mask_feature_prob": min(tuning.get("mask_channel_prob", 0.0), 0.99),
        "mask_feature_length": tuning.get("mask_channel_length", 10),
    }


def _pools_the_mean(source: Source, config: Data2VecConfig) -> bool:
    """Return whether the normalised mean of the patches is classified, instead of the extra token."""
    norm = "fc_norm.weight" in source.head
    if source.kind == "beit-v1-vision":
        if not norm and "norm.weight" not in source.state:
            raise ValueError(
                "The head for images has no norm with weights (fc_norm): it was trained as a linear classifier on "
                "frozen features, which has no counterpart here."
            )
        return norm
    if source.kind == "fairseq-v1-vision" and norm:
        return True
    mode = str(source.tuning.get("prediction_mode", "MEAN_POOLING")).rpartition(".")[2]
    if (mode, norm) not in (("MEAN_POOLING", True), ("CLS_TOKEN", False)):
        raise ValueError(
            f"The head for images has prediction_mode={mode} {'with' if norm else 'without'} a norm (fc_norm); here "
            "it is the mean of the patches with a norm, or the extra token (CLS_TOKEN) without one."
        )
    if mode == "MEAN_POOLING" and (config.norm_first or config.layer_norm_eps != 1e-6):
        raise ValueError(
            "The head for images normalises with eps 1e-6 after an encoder that is pre-norm or has another eps "
            f"({config.layer_norm_eps}); here a pre-norm encoder has no final norm then, and both have the same eps."
        )
    return mode == "MEAN_POOLING"
