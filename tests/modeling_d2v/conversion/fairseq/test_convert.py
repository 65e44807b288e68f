"""Checkpoint files of the reference as models: outputs are the recorded ones, whatever the file is fine-tuned for."""

import copy

import pytest
import torch
from transformers import AutoModel

from modeling_d2v import (
    Data2VecForPreTraining,
    Data2VecModel,
)
from modeling_d2v.conversion.fairseq.convert import convert_checkpoint
from modeling_d2v.modalities import modality_of_input
from tests.modeling_d2v.reference_fixtures import UNPADDED, V1, V2, load_reference, relative_error
from tests.modeling_d2v.source_checkpoints import (
    cast,
    content_of,
    recogniser,
    write,
)


def convert(content, tmp_path, **options):
    return convert_checkpoint(write(content, tmp_path / "source.pt"), **options)


def sample_of(name):
    """The recorded features of a sample in which nothing is padding, and that sample as input."""
    reference, sample = load_reference(name), UNPADDED.get(name, 0)
    batch = {key: value for key, value in reference.batch(sample).items() if modality_of_input(key)}
    return batch, reference.tensors["out.features.x"][sample : sample + 1]


@pytest.mark.parametrize("name", V2 + V1)
@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 1e-5), (torch.float16, 1e-3)], ids=["float32", "float16"])
def test_pretrained(name, dtype, tolerance, tmp_path):
    """Loss under the recorded mask, and features of the encoder, of files in float32 and in half precision."""
    converted = convert(content_of(name, dtype), tmp_path)
    converted.save(tmp_path / "model")
    model, info = Data2VecForPreTraining.from_pretrained(
        tmp_path / "model", output_loading_info=True, fairseq_compatible_padding=True, **without_noise(converted)
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.dtype == torch.float32 and int(model.ema_step) == 3
    reference = load_reference(name)
    with torch.no_grad():
        output = model(**reference.batch())
    recorded = [value for key, value in reference.tensors.items() if key.endswith("loss_sum")]
    assert output.loss.item() == pytest.approx(sum(recorded).item() / reference.num_items, rel=tolerance)
    inputs, features = sample_of(name)
    encoder = AutoModel.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        hidden = encoder(**inputs).last_hidden_state[:, -features.shape[1] :]
    # Rounding the weights of these tiny models moves a loss by less than 1e-3, but a single feature by up to 3e-3.
    assert relative_error(hidden, features) < (tolerance if dtype is None else 4e-3)
    name = "encoder.blocks.1.attention.qkv.weight"
    rounded = dict(load_reference(reference.name).model().data2vec.named_parameters())[name]
    assert torch.equal(dict(encoder.named_parameters())[name], cast(rounded, dtype or torch.float32).float())


def without_noise(converted):
    """The recording had no noise in the decoder."""
    part = f"{converted.config.modalities[0]}_config"
    return {part: {"mask_noise_std": 0.0}}


def test_cls_loss_is_summed_over_as_many_rows_as_a_device_of_the_checkpoint_took(tmp_path):
    reference = load_reference("d2v2_image_base")
    content, batch = content_of("d2v2_image_base"), reference.batch()
    untold = convert(content, tmp_path)
    assert untold.config.vision_config.cls_loss_rows is None and "dataset.batch_size" in untold.notes[-1]
    content["cfg"]["dataset"] = {"batch_size": len(batch["pixel_values"])}
    converted = convert(content, tmp_path)
    rows = batch["mask"].shape[:2].numel()
    assert converted.config.vision_config.cls_loss_rows == rows and "cls_loss_rows" not in " ".join(converted.notes)
    converted.save(tmp_path / "model")
    model = Data2VecForPreTraining.from_pretrained(tmp_path / "model", **without_noise(converted))
    with torch.no_grad():
        alone, one_of_two = model(**batch), model(**batch, num_rows=2 * rows)
    recorded = reference.tensors["out.cls.loss_sum"].item() / reference.num_items
    assert alone.losses["cls"].item() == pytest.approx(recorded, rel=1e-5)
    assert one_of_two.losses["cls"].item() == pytest.approx(recorded / 2, rel=1e-5)


@pytest.mark.parametrize("weights", ["student", "teacher"])
@pytest.mark.parametrize("name", ["d2v2_audio_base", "d2v2_image_base", "d2v1_text_base"])
def test_the_encoder_alone(name, weights, tmp_path):
    converted = convert(content_of(name), tmp_path, encoder_only=True, weights=weights)
    model = converted.build()
    assert type(model) is Data2VecModel
    whole = load_reference(name).model()
    expected = whole.data2vec if weights == "student" else whole.trained_encoder("teacher")
    actual = dict(model.named_parameters())
    assert all(torch.equal(actual[key], value) for key, value in expected.named_parameters())
    unused = {unused.name for unused in converted.unused if unused.reason.startswith("only the encoder")}
    left = {name for name in whole.state_dict() if not name.startswith("data2vec.")} - {"ema_step"}
    if weights == "teacher":
        left = {name for name in left if name.startswith("decoders.")}
        left |= {f"data2vec.{name}" for name, _ in whole.teacher.named_parameters()}
    assert unused == left


def test_a_missing_teacher_starts_as_the_student(tmp_path):
    content = content_of("d2v2_audio_base")
    del content["model"]["_ema"]
    converted = convert(content, tmp_path)
    tensors, name = converted.tensors, "encoder.blocks.1.mlp.fc1.weight"
    assert torch.equal(tensors[f"teacher.{name}"], tensors[f"data2vec.{name}"]) and int(tensors["ema_step"]) == 0
    assert any("starts as a copy" in note for note in converted.notes)
    with pytest.raises(ValueError, match="teacher"):
        convert(content, tmp_path, encoder_only=True, weights="teacher")


def test_a_missing_decoder_is_said(tmp_path):
    content = content_of("d2v2_text_base")
    content["model"] = {key: value for key, value in content["model"].items() if "decoder" not in key}
    with pytest.raises(ValueError, match="`encoder_only`"):
        convert(content, tmp_path)
    assert type(convert(content, tmp_path, encoder_only=True).build()) is Data2VecModel


def test_the_teacher_stays_in_float32(tmp_path):
    converted = convert(content_of("d2v2_text_base"), tmp_path)
    converted.save(tmp_path / "half", torch.float16)
    model = Data2VecForPreTraining.from_pretrained(tmp_path / "half")
    assert model.data2vec.dtype == torch.float16 and model.config.dtype == torch.float16
    assert {p.dtype for p in model.teacher.parameters()} == {torch.float32}
    built = converted.build(torch.float16)
    assert all(torch.equal(value, built.state_dict()[key]) for key, value in model.state_dict().items())


def test_numbers_of_the_source_are_kept_when_asked_for(tmp_path):
    converted = convert(content_of("d2v2_text_base", torch.bfloat16), tmp_path)
    converted.save(tmp_path / "model", None)
    assert Data2VecModel.from_pretrained(tmp_path / "model").dtype == torch.bfloat16


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(value, tmp_path):
    content = copy.deepcopy(content_of("d2v2_text_base"))
    content["model"]["blocks.1.mlp.fc1.weight"][3, 4] = value
    converted = convert(content, tmp_path)
    with pytest.raises(ValueError, match=r"1.*data2vec\.encoder\.blocks\.1\.mlp\.fc1\.weight"):
        converted.save(tmp_path / "model")
    converted.save(tmp_path / "model", allow_nonfinite=True)


def test_numbers_too_large_for_the_type_are_refused(tmp_path):
    content = copy.deepcopy(content_of("d2v2_text_base"))
    content["model"]["blocks.1.mlp.fc1.weight"][3, 4] = 1e6
    with pytest.raises(ValueError, match="large"):
        convert(content, tmp_path).save(tmp_path / "model", torch.float16)


def with_missing_tensor(content):
    del content["model"]["blocks.0.norm1.weight"]


def test_the_settings_are_doubted_only_where_tensors_do_not_fit_them(tmp_path):
    content = copy.deepcopy(content_of("d2v2_text_base"))
    del content["model"]["_ema"]
    with pytest.raises(ValueError, match="has no teacher") as caught:
        convert(content, tmp_path, encoder_only=True, weights="teacher")
    assert "its settings do not describe" not in str(caught.value)
    with_missing_tensor(content)
    with pytest.raises(ValueError, match="nothing fills(.|\\n)*its settings do not describe its tensors"):
        convert(content, tmp_path)


def test_options_that_do_not_fit_together(tmp_path):
    with pytest.raises(ValueError, match="`encoder_only`"):
        convert({}, tmp_path, weights="teacher")
    with pytest.raises(ValueError, match='"student"'):
        convert({}, tmp_path, weights="both")
    with pytest.raises(ValueError, match="fine-tuned"):
        convert(recogniser("d2v1_audio_base")[0], tmp_path, encoder_only=True)
