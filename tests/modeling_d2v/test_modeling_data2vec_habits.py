"""What callers of transformers expect of every model: main input, places of arguments, masks, embeddings, devices."""

import copy

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from head_factory import HEADS, head_class, head_config, head_inputs, make_head, results
from model_factory import FRONT_ENDS, front_end_config, inputs_for, padded_inputs, randomise, tiny_config
from torch import nn
from transformers import Trainer, TrainingArguments

from modeling_d2v import Data2VecForCTC, Data2VecForImageClassification, Data2VecForPreTraining, Data2VecModel
from modeling_d2v.modalities import MODALITIES


SINGLE = tuple(MODALITIES)


def model_of(modality, **overrides):
    return randomise(Data2VecModel(tiny_config(modality, **overrides))).eval()


def hidden(output):
    return output.last_hidden_state


# Main input


@pytest.mark.parametrize("modality", SINGLE)
@pytest.mark.parametrize("model_class", [Data2VecModel, Data2VecForPreTraining])
def test_the_main_input_is_that_of_the_modality(modality, model_class):
    assert model_class(tiny_config(modality)).main_input_name == MODALITIES[modality].input_name
    assert model_class(tiny_config()).main_input_name == "input_ids"


@pytest.mark.parametrize("modality", SINGLE)
def test_trainer_counts_the_elements_of_the_main_input(tmp_path, modality):
    ((name, values),) = inputs_for(modality, 4).items()
    model = Data2VecForPreTraining(tiny_config(modality))
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        include_num_input_tokens_seen=True,
    )
    trainer = Trainer(model, arguments, train_dataset=[{name: row} for row in values])
    trainer.train()
    assert trainer.state.num_input_tokens_seen == values.numel()
    assert trainer.state.total_flos == 6 * values.numel() * model.num_parameters(exclude_embeddings=True)


@pytest.mark.parametrize("modality", SINGLE)
def test_arguments_by_place_start_with_the_only_modality(modality):
    model = model_of(modality)
    ((name, values),) = inputs_for(modality).items()
    expected = model(**{name: values})
    torch.testing.assert_close(hidden(model(values)), hidden(expected), rtol=0, atol=0)
    if modality != "vision":
        batch, _ = padded_inputs(modality)
        given = model(batch[name], batch["attention_mask"])
        torch.testing.assert_close(hidden(given), hidden(model(**batch)), rtol=0, atol=0)
    with pytest.raises(TypeError, match=f"`{name}` twice"):
        model(values, **{name: values})
    with pytest.raises(TypeError, match="takes 3 arguments"):
        model(values, None, None, None)


def test_one_recording_without_any_name():
    model = randomise(Data2VecForCTC(head_config("Data2VecForCTC"))).eval()
    wave = torch.randn(1, 16000)
    torch.testing.assert_close(model(wave).logits, model(input_values=wave).logits, rtol=0, atol=0)
    assert model_of("audio")(wave).last_hidden_state.shape == (1, 49, 32)
    loss = Data2VecForPreTraining(tiny_config("audio")).eval()(wave).loss
    assert torch.isfinite(loss)


def test_arguments_by_place_of_a_joint_model_are_those_of_the_signature():
    model, ids = randomise(Data2VecModel(tiny_config())).eval(), inputs_for("text")["input_ids"]
    torch.testing.assert_close(hidden(model(ids)), hidden(model(input_ids=ids)), rtol=0, atol=0)
    with pytest.raises(ValueError, match="one modality"):
        model(ids, inputs_for("vision")["pixel_values"])


@pytest.mark.filterwarnings("ignore")  # of the tracer
@pytest.mark.parametrize("modality", SINGLE)
def test_a_model_of_one_modality_can_be_traced(modality):
    model = model_of(modality)
    ((name, values),) = inputs_for(modality).items()
    with torch.no_grad():
        traced = torch.jit.trace(model, values)
        others = inputs_for(modality, seed=1)[name]
        assert isinstance(traced(values), tuple)
        torch.testing.assert_close(traced(others)[0], hidden(model(others)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in HEADS if name != "Data2VecBackbone"])
def test_heads_can_be_traced(name):
    model, inputs = make_head(name), head_inputs(name)
    (values,) = inputs.values()
    with torch.no_grad():
        traced = torch.jit.trace(model, values)(values)
    expected = next(iter(results(model(**inputs)).values()))
    torch.testing.assert_close(traced[0], expected)


@pytest.mark.filterwarnings("ignore")
def test_a_traced_model_sees_padding():
    model = model_of("text")
    batch, _ = padded_inputs("text")
    whole = torch.ones_like(batch["attention_mask"])
    with torch.no_grad():
        traced = torch.jit.trace(model, (batch["input_ids"], whole))
        given = traced(batch["input_ids"], batch["attention_mask"])
    torch.testing.assert_close(given[0], hidden(model(**batch)))


# Masks


@pytest.mark.parametrize("modality", SINGLE)
def test_the_mask_of_the_output_can_be_computed_with(modality):
    mask = model_of(modality)(**inputs_for(modality)).attention_mask
    assert mask.dtype == torch.int64 and (1 - mask).sum() == 0


@pytest.mark.parametrize("layout", ["2.0", "1.0"])
def test_padded_patches_change_nothing(layout):
    config = front_end_config(layout, "vision")
    model = randomise(Data2VecModel(config)).eval()
    images, extra = inputs_for("vision")["pixel_values"], config.vision_config.num_extra_tokens
    real = torch.arange(16)[None] < torch.tensor([[16], [11]])
    other = images.clone()
    for patch in range(11, 16):
        row, column = divmod(patch, 4)
        other[1, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 3.0
    given = [model(pixel_values=x, attention_mask=real.long()) for x in (images, other)]
    keep = given[0].attention_mask.bool()
    assert keep.sum(dim=1).tolist() == [extra + 16, extra + 11]
    torch.testing.assert_close(*(hidden(output)[keep] for output in given))
    torch.testing.assert_close(*(output.pooler_output for output in given))
    whole = model(pixel_values=images, attention_mask=torch.ones(2, extra + 16, dtype=torch.long))
    torch.testing.assert_close(hidden(whole), hidden(model(pixel_values=images)))


def test_a_head_for_images_takes_the_mask_of_patches():
    model = make_head("Data2VecForImageClassification")
    images, mask = inputs_for("vision")["pixel_values"], torch.ones(2, 16, dtype=torch.long)
    torch.testing.assert_close(model(images, attention_mask=mask).logits, model(images).logits)
    mask[:, 8:] = 0
    assert not torch.allclose(model(images, attention_mask=mask).logits, model(images).logits)


def test_other_masks_of_images_are_refused_in_a_sentence():
    images = inputs_for("vision")["pixel_values"]
    with pytest.raises(ValueError, match=r"of patches, \(2, 16\)"):
        model_of("vision")(pixel_values=images, attention_mask=torch.ones_like(images))
    with pytest.raises(ValueError, match="not padded in pretraining"):
        Data2VecForPreTraining(tiny_config("vision"))(pixel_values=images, attention_mask=torch.ones(2, 16))


# Embeddings


@pytest.mark.parametrize(
    ("modalities", "kind"), [("text", nn.Embedding), ("vision", nn.Conv2d), (("text", "audio"), nn.Embedding)]
)
def test_input_embeddings(modalities, kind):
    for model_class in (Data2VecModel, Data2VecForPreTraining):
        assert isinstance(model_class(tiny_config(modalities)).get_input_embeddings(), kind)


@pytest.mark.parametrize("front_end", ["audio", "spectrogram"])
def test_speech_has_no_input_embeddings(front_end):
    model = Data2VecModel(front_end_config("2.0", front_end))
    assert model.get_input_embeddings() is None and model.get_output_embeddings() is None
    with pytest.raises(ValueError, match="no 'text'"):
        model.resize_token_embeddings(10)
    with pytest.raises(ValueError, match="no text"):
        model.set_input_embeddings(nn.Embedding(3, 3))


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_gradients_reach_adapters_of_a_frozen_model(front_end):
    model = Data2VecModel(front_end_config("2.0", front_end)).train().requires_grad_(False)
    adapter = model.encoder.blocks[0].mlp.fc1.weight.requires_grad_(True)
    model.activation_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    inputs = inputs_for(FRONT_ENDS[front_end][0])
    model(**inputs).last_hidden_state.square().sum().backward()
    assert adapter.grad.abs().sum() > 0
    model.disable_input_require_grads()
    local = next(iter(model.modality_encoders.values())).local_encoder
    assert not local(*inputs.values(), None).features.requires_grad


# Other devices and types of weights


def offloaded(model, how, folder):
    """The model, loaded from a folder with its weights elsewhere."""
    model.save_pretrained(folder / "model")
    if how == "device map":
        return type(model).from_pretrained(
            folder / "model", device_map={"": "disk"}, offload_folder=folder / "weights"
        )
    loaded = type(model).from_pretrained(folder / "model")
    if how == "cpu":
        return cpu_offload(loaded, execution_device="cpu")
    return disk_offload(loaded, folder / "weights", execution_device="cpu")


@pytest.mark.parametrize("how", ["device map", "cpu", "disk"])
@pytest.mark.parametrize("layout", ["2.0", "1.0"])
@pytest.mark.parametrize("modality", SINGLE)
def test_an_offloaded_model_computes_the_same(tmp_path, layout, modality, how):
    settings = {"audio_config": {"alibi": "learned"}} if (layout, modality) == ("2.0", "audio") else {}
    model = randomise(Data2VecModel(front_end_config(layout, modality, **settings))).eval()
    inputs = inputs_for(modality)
    with torch.no_grad():
        output = offloaded(model, how, tmp_path).eval()(**inputs)
        torch.testing.assert_close(hidden(output), hidden(model(**inputs)), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore")  # the function is deprecated in favour of torchao
@pytest.mark.parametrize("name", HEADS)
def test_dynamically_quantised_heads_compute_nearly_the_same(name):
    model, inputs = make_head(name), head_inputs(name)
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    with torch.no_grad():
        given, expected = results(quantised(**inputs)), results(model(**inputs))
    for key, right in expected.items():
        assert (given[key] - right).abs().max() <= 0.1 * right.abs().max()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_dynamically_quantised_front_ends_compute_nearly_the_same(front_end):
    model = randomise(Data2VecModel(front_end_config("2.0", front_end))).eval()
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    inputs = inputs_for(FRONT_ENDS[front_end][0])
    with torch.no_grad():
        given, expected = hidden(quantised(**inputs)), hidden(model(**inputs))
    assert (given - expected).abs().max() <= 0.1 * expected.abs().max()


def test_sizes_that_do_not_fit_are_reported(tmp_path, caplog):
    make_head("Data2VecForImageClassification").save_pretrained(tmp_path)
    with pytest.raises(RuntimeError):
        Data2VecForImageClassification.from_pretrained(tmp_path, num_labels=7)
    with caplog.at_level("WARNING", logger="transformers"):
        model, info = Data2VecForImageClassification.from_pretrained(
            tmp_path, num_labels=7, ignore_mismatched_sizes=True, output_loading_info=True
        )
    assert model.classifier.out_features == 7
    assert {key for key, *_ in info["mismatched_keys"]} == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("name", HEADS)
def test_the_first_parameter_of_loading_has_its_usual_name(tmp_path, name):
    model = make_head(name)
    model.save_pretrained(tmp_path)
    state = model.state_dict()
    loaded = head_class(name).from_pretrained(pretrained_model_name_or_path=tmp_path)
    without_file = head_class(name).from_pretrained(None, config=head_config(name), state_dict=state)
    for other in (loaded, without_file):
        assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())
