"""LoRA of every head: what is trained, what is saved, and that merging changes nothing."""

import warnings

import pytest
import torch
from head_factory import HEADS, head_class, head_inputs, head_labels, make_head, objective, results
from model_factory import inputs_for, tiny_config
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from modeling_d2v import Data2VecForPreTraining, Data2VecModel
from modeling_d2v.modeling_data2vec import LORA_TARGETS


def adapted(name):
    """A head with LoRA whose updates are not zero."""
    base = make_head(name)
    torch.manual_seed(0)
    return get_peft_model(base, LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, **base.lora_settings())).eval()


def outputs(model, name):
    with torch.no_grad():
        return results(model(**head_inputs(name)))


def assert_close(first, second, tolerance=1e-5):
    assert first.keys() == second.keys()
    for key in first:
        torch.testing.assert_close(first[key], second[key], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", HEADS)
def test_only_lora_and_the_head_are_trained(name):
    model, plain = adapted(name), make_head(name)
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    head = {key for key, _ in plain.named_parameters() if not key.startswith("data2vec.")}
    head -= set(plain.all_tied_weights_keys)
    if name == "Data2VecForMaskedLM":
        head.remove("lm_head.decoder.bias")  # beside the tied matrix
    own = (key.replace(".modules_to_save.default", "") for key in trained if ".lora_" not in key)
    assert {key.removeprefix("base_model.model.") for key in own} == head
    blocks = plain.config.num_hidden_layers + plain.config.modality_config(HEADS[name].modality).prenet_depth
    assert len({key for key in trained if ".lora_A." in key}) == len(LORA_TARGETS) * blocks
    assert not any("local_encoder" in key for key in trained)

    before = {key: value.clone() for key, value in model.state_dict().items()}
    old = outputs(model, name)
    model.train()
    objective(model(**head_inputs(name), **head_labels(name))).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    moved = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert moved <= trained and {key for key in trained if ".lora_" in key} <= moved
    new = outputs(model.eval(), name)
    assert any(not torch.allclose(old[key], new[key], atol=1e-6) for key in old)


@pytest.mark.parametrize("name", HEADS)
def test_adapters_are_small_files_that_load_onto_the_same_base(tmp_path, name):
    model = adapted(name)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "modules_to_save" in key:
                parameter.add_(0.01)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    buffers = sum(b.numel() for key, b in model.named_buffers() if "modules_to_save" in key)
    assert sum(tensor.numel() for tensor in saved.values()) == trained + buffers
    again = PeftModel.from_pretrained(make_head(name), tmp_path).eval()
    assert_close(outputs(model, name), outputs(again, name), tolerance=0)


@pytest.mark.parametrize("name", HEADS)
def test_merged_weights_compute_the_same(tmp_path, name):
    model = adapted(name)
    expected = outputs(model, name)
    plain = outputs(make_head(name), name)
    assert any(not torch.allclose(plain[key], expected[key], atol=1e-3) for key in plain)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Input and output embeddings")
        merged = model.merge_and_unload()
    assert type(merged) is head_class(name) and merged.config.tie_word_embeddings
    assert merged.state_dict().keys() == make_head(name).state_dict().keys()
    assert_close(outputs(merged, name), expected)
    merged.save_pretrained(tmp_path)
    assert_close(outputs(head_class(name).from_pretrained(tmp_path), name), expected)


def test_encoders_and_pretraining_models_have_no_head_to_save():
    for model in (Data2VecModel(tiny_config("audio")), Data2VecForPreTraining(tiny_config("audio"))):
        settings = model.lora_settings()
        assert settings["modules_to_save"] is None
        adapted = get_peft_model(model, LoraConfig(r=2, **settings))
        trained = [key for key, parameter in adapted.named_parameters() if parameter.requires_grad]
        ends = {key.rpartition(".lora_")[0].split(".", 2)[2] for key in trained}
        assert {".".join(end.split(".")[-2:]) for end in ends} == set(LORA_TARGETS)
        assert torch.isfinite(adapted(**inputs_for("audio"))[0]).all()
