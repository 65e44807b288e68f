"""What a file of the reference holds."""

import copy
import sys
import types

import pytest
import torch

from modeling_d2v import (
    Data2VecForPreTraining,
)
from modeling_d2v.conversion.fairseq.convert import convert_checkpoint
from tests.modeling_d2v.reference_fixtures import V1, load_reference, relative_error
from tests.modeling_d2v.source_checkpoints import (
    content_of,
    write,
)


def convert(content, tmp_path, **options):
    # Not the same file twice: the tensors of an earlier one are mapped into memory.
    return convert_checkpoint(write(content, tmp_path / f"{len(list(tmp_path.iterdir()))}.pt"), **options)


def without_settings(content):
    content["cfg"] = None


def without_weights(content):
    del content["model"]


def with_unknown_setting(content):
    content["cfg"]["model"]["brand_new"] = 3


def with_missing_tensor(content):
    del content["model"]["blocks.0.norm1.weight"]


def with_extra_tensor(content):
    content["model"]["blocks.0.extra"] = torch.ones(1)


def with_other_shape(content):
    content["model"]["blocks.0.norm1.weight"] = torch.ones(5)


def with_whole_numbers(content):
    content["model"]["blocks.0.norm1.weight"] = content["model"]["blocks.0.norm1.weight"].int()


def with_number_as_name(content):
    content["model"][5] = torch.ones(1)


def with_list_as_teacher(content):
    content["model"]["_ema"] = [1]


def with_nameless_tensor_of_the_teacher(content):
    content["model"]["_ema"][""] = torch.ones(1)


@pytest.mark.parametrize("record", [5, [5], [{"num_updates": "many"}], []])
def test_records_that_tell_nothing_of_the_model_do_not_stop_it(record, tmp_path):
    content = content_of("d2v2_text_base") | {"optimizer_history": record}
    converted = convert(content | {"task_state": {"source_dictionary": {"symbols": 5}}}, tmp_path)
    assert converted.source.step == 0 and converted.source.symbols is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_settings, r"data2vec \(fairseq-v2\)"),
        (without_weights, "`model`"),
        (with_unknown_setting, "brand_new.*ignore_settings"),
        (with_missing_tensor, r"data2vec\.encoder\.blocks\.0\.norm1\.weight"),
        (with_extra_tensor, r"blocks\.0\.extra"),
        (with_other_shape, r"norm1\.weight.*\(5,\).*\(32,\)"),
        (with_whole_numbers, r"norm1\.weight.*torch\.int32"),
        (with_number_as_name, "5.*`model`"),
        (with_list_as_teacher, "'_ema'"),
        (with_nameless_tensor_of_the_teacher, r"teacher\."),
        (lambda content: content.update(cfg="text"), "'cfg'"),
        (lambda content: content["cfg"].update(model=[1]), "'model'"),
        (lambda content: content["cfg"]["model"].update(modalities=3), "'modalities'"),
    ],
)
def test_sources_that_do_not_fit(change, message, tmp_path):
    content = copy.deepcopy(content_of("d2v2_text_base"))
    change(content)
    with pytest.raises(ValueError, match=message):
        convert(content, tmp_path)


def test_settings_can_be_given_and_left_out(tmp_path):
    content = copy.deepcopy(content_of("d2v2_text_base"))
    settings = content["cfg"]
    settings["model"] |= {"brand_new": 3, "switched_off": False}
    content["cfg"] = None
    for given in (settings, settings["model"]):
        converted = convert(content, tmp_path, settings=given, ignore_settings=["brand_new"])
        assert any("switched_off=False: unknown here" in note for note in converted.notes)
        assert converted.model_class is Data2VecForPreTraining


def renamed(state, change):
    """A state dict under other names, the teacher's included."""
    return {
        change(name): {change(inner): tensor for inner, tensor in value.items()} if isinstance(value, dict) else value
        for name, value in state.items()
    }


WRAPPERS = {
    "DistributedDataParallel": lambda name: f"module.{name}",
    "two of them": lambda name: f"module.module.{name}",
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "compiled and distributed": lambda name: f"module._orig_mod.{name}",
    "FSDP": lambda name: "_fsdp_wrapped_module." + name.replace("blocks.0.", "blocks.0._fsdp_wrapped_module."),
    "checkpointed activations": lambda name: name.replace("s.0.", "s.0._checkpoint_wrapped_module."),
    "Lightning": lambda name: f"model.{name}",
}


@pytest.mark.parametrize("bare_teacher", [False, True], ids=["", "bare teacher"])
@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("name", ["d2v1_audio_base", "d2v1_text_base", "d2v1_image_base", "d2v2_text_base"])
def test_names_of_wrappers_are_taken_away(name, wrapper, bare_teacher, tmp_path):
    content = content_of(name)
    state = renamed(content["model"], wrapper)
    # A wrapper around a student does not reach into the dictionary of its teacher.
    for key in [key for key in state if key.endswith("_ema")]:
        own, teacher = next(item for item in content["model"].items() if item[0].endswith("_ema"))
        del state[key]
        state[own if bare_teacher else key] = teacher
    expected, converted = convert(content, tmp_path), convert(content | {"model": state}, tmp_path)
    assert set(converted.tensors) == set(expected.tensors) and converted.unused == expected.unused
    assert all(torch.equal(tensor, expected.tensors[key]) for key, tensor in converted.tensors.items())


@pytest.mark.parametrize("key", ["module", "state_dict", "model_state_dict", "net", "weights"])
def test_weights_under_other_keys(key, tmp_path):
    content = content_of("d2v1_text_base")
    content[key] = content.pop("model")
    assert len(convert(content, tmp_path).tensors) == len(convert(content_of("d2v1_text_base"), tmp_path).tensors)


@pytest.mark.parametrize("name", V1)
def test_bare_state_dicts_with_settings(name, tmp_path):
    content = content_of(name)
    expected = convert(content, tmp_path)
    converted = convert(content["model"], tmp_path, settings=content["cfg"])
    assert converted.config.to_dict() == expected.config.to_dict() and set(converted.tensors) == set(expected.tensors)


def test_bare_state_dicts_without_settings(tmp_path):
    """Images tell their heads; of the others, the published width does."""
    name = "d2v1_image_base"
    state = content_of(name)["model"]
    with pytest.raises(ValueError, match="no settings.*`kind`.*fairseq-v1-vision"):
        convert(state, tmp_path)
    with pytest.raises(ValueError, match="'fairseq-v1-vision' by the names of its tensors, not 'fairseq-v2'"):
        convert(state, tmp_path, kind="fairseq-v2")
    with pytest.raises(ValueError, match="Known kinds: fairseq-v2"):
        convert(state, tmp_path, kind="v1")
    converted = convert(state, tmp_path, kind="fairseq-v1-vision")
    assert any("no settings" in note and "as published" in note for note in converted.notes)
    with torch.no_grad():
        output = converted.build().data2vec(pixel_values=load_reference(name).tensors["in.source"])
    assert relative_error(output.last_hidden_state[:, 1:], load_reference(name).tensors["out.features.x"]) < 1e-5


@pytest.mark.parametrize(("name", "example"), [("audio", "encoder_attention_heads"), ("text", "attention_heads")])
def test_heads_that_nothing_tells_are_asked_for(name, example, tmp_path):
    content = content_of(f"d2v1_{name}_base")
    with pytest.raises(ValueError, match=f"heads.*{example}"):
        convert(content["model"], tmp_path, kind=f"fairseq-v1-{name}")


def test_whole_modules_are_read_as_their_tensors(tmp_path):
    """A model that was pickled as an object, whose classes do not exist here."""

    def module(state):
        inner = {}
        own = {name: value for name, value in state.items() if "." not in name}
        for name, value in state.items():
            if "." in name:
                inner.setdefault(name.partition(".")[0], {})[name.partition(".")[2]] = value
        children = {name: module(part) for name, part in inner.items()}
        return {"training": True, "_parameters": {"bias": None} | own, "_buffers": {}, "_modules": children}

    content = content_of("d2v1_image_base")
    student = {name: value for name, value in content["model"].items() if name != "_ema"}
    expected = convert(content | {"model": student}, tmp_path)
    converted = convert(content | {"model": module(student)}, tmp_path)
    assert all(torch.equal(tensor, expected.tensors[key]) for key, tensor in converted.tensors.items())


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"state": {0: {}}, "param_groups": [{"lr": 1.0}]}, "state of an optimizer"),
        ({"base_lrs": [1.0], "last_epoch": 3}, "learning rate schedule"),
        ({"scale": 1.0, "growth_factor": 2.0, "backoff_factor": 0.5}, "gradient scaler"),
        ({"python": [], "numpy": [], "cpu": torch.ones(2)}, "random number generators"),
        ({"epoch": 3, "loss": 1.0}, "no weights under `model`"),
    ],
)
def test_files_that_are_no_models_are_named(content, what, tmp_path):
    with pytest.raises(ValueError, match=what):
        convert(content, tmp_path)


def test_unknown_classes_are_noted(tmp_path, monkeypatch):
    module = types.ModuleType("mylab")
    monkeypatch.setitem(sys.modules, "mylab", module)
    module.Options = type("Options", (), {"__module__": "mylab", "__qualname__": "Options"})
    path = write(content_of("d2v1_text_base") | {"extra_state": module.Options()}, tmp_path / "source.pt")
    monkeypatch.delitem(sys.modules, "mylab")
    assert any("mylab.Options" in note for note in convert_checkpoint(path).notes)


@pytest.mark.parametrize(
    ("names", "settings", "what"),
    [
        (["quantizer.vars", "encoder.pos_conv.0.weight_g", "mask_emb"], {"_name": "wav2vec2"}, "wav2vec 2.0"),
        (["encoder.pos_conv.0.weight_v", "mask_emb"], {}, "wav2vec 2.0, HuBERT or WavLM"),
        (["label_embs_concat", "mask_emb"], {}, "HuBERT"),
        (["w2v_encoder.w2v_model.mask_emb", "w2v_encoder.proj.weight"], {"w2v_args": {"model": {"_name": "wav2vec2"}}},
         "wav2vec 2.0"),
        (["encoder.sentence_encoder.embed_tokens.weight", "encoder.lm_head.dense.weight"], {}, "RoBERTa"),
        (["encoder.sentence_encoder.embed_tokens.weight"], {"_name": "roberta"}, "RoBERTa"),
        (["data2vec_audio.encoder.layer_norm.weight"], {}, "transformers"),
        (["decoder_pos_embed", "patch_embed.proj.weight"], {}, "MAE"),
    ],
)  # fmt: skip
def test_other_models_are_named(names, settings, what, tmp_path):
    content = {"model": {name: torch.ones(2, 2) for name in names}, "cfg": {"model": settings}}
    with pytest.raises(ValueError, match=f"{what}.*data2vec") as caught:
        convert(content, tmp_path)
    assert "\n" not in str(caught.value)


def test_something_else_entirely(tmp_path):
    with pytest.raises(ValueError, match="converted"):
        convert({"model": {"conv1.weight": torch.ones(2)}}, tmp_path)
