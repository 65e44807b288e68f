"""Models of transformers: found, read safely, every tensor used or listed."""

import json
import logging

import pytest
import torch
import transformers
from safetensors.torch import load_file
from text_models import MODELS, SMALL, theirs

import modeling_d2v
from modeling_d2v.conversion.hf.load import config_from_transformers, from_transformers


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each class of transformers, saved from a model with random weights."""
    models = {model: theirs(model, id2label={0: "no", 1: "yes"}) for model in MODELS}
    folders = {model: tmp_path_factory.mktemp(model) for model in MODELS}
    for model, source in models.items():
        source.save_pretrained(folders[model])
    return models, folders


@pytest.mark.parametrize("model", MODELS)
def test_a_folder_gives_what_the_model_in_memory_gives(folders, model):
    models, paths = folders
    memory, _ = from_transformers(models[model])
    file, unused = from_transformers(paths[model])
    assert type(file) is type(memory) is getattr(modeling_d2v, f"Data2Vec{model}")
    assert not file.training and file.config.id2label == {0: "no", 1: "yes"}
    mine, other = file.state_dict(), memory.state_dict()
    assert mine.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in mine.items())
    assert {entry.name for entry in unused} == (
        {"pooler.dense.weight", "pooler.dense.bias"} if model == "Model" else set()
    )


def test_every_source_tensor_is_used_or_listed(folders):
    models, _ = folders
    for source in models.values():
        _, unused = from_transformers(source)
        assert {entry.name for entry in unused} <= source.state_dict().keys()
        assert all(entry.reason for entry in unused)


@pytest.mark.parametrize("form", ["shards", "bin", "old"])
def test_other_forms_of_weight_files(folders, form, tmp_path):
    models, _ = folders
    source = models["ForMaskedLM"]
    source.save_pretrained(tmp_path, max_shard_size="20KB" if form == "shards" else "1GB")
    if form == "shards":
        assert (tmp_path / "model.safetensors.index.json").is_file()
    else:
        state = source.state_dict()
        if form == "old":  # earlier releases stored this buffer
            state["data2vec_text.embeddings.position_ids"] = torch.arange(42)[None]
        (tmp_path / "model.safetensors").unlink()
        torch.save(state, tmp_path / "pytorch_model.bin")
    ours, _ = from_transformers(tmp_path)
    ids = torch.arange(4, 12)[None]
    torch.testing.assert_close(ours(ids).logits, source(ids).logits, atol=1e-5, rtol=1e-5)


def test_the_result_has_memory_of_its_own(folders):
    models, paths = folders
    for source in (models["Model"], paths["Model"]):
        ours, _ = from_transformers(source)
        with torch.no_grad():
            for parameter in ours.parameters():
                parameter.zero_()
    assert all(p.any() for p in models["Model"].parameters())
    assert all(tensor.any() for tensor in load_file(paths["Model"] / "model.safetensors").values())


def test_the_type_of_numbers_is_kept(folders, tmp_path):
    source = theirs("ForTokenClassification").bfloat16()
    source.save_pretrained(tmp_path)
    for each in (source, tmp_path):
        assert from_transformers(each)[0].dtype == torch.bfloat16


def test_nothing_is_logged(folders, caplog):
    transformers.logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        from_transformers(folders[1]["ForMultipleChoice"])
    transformers.logging.disable_propagation()
    assert not caplog.records


def test_what_cannot_be_converted_is_an_error(folders, tmp_path):
    bert = transformers.BertModel(transformers.BertConfig(**SMALL))
    with pytest.raises(ValueError, match="'bert'"):
        from_transformers(bert)
    with pytest.raises(ValueError, match="Data2VecTextForCausalLM"):
        from_transformers(folders[0]["ForMaskedLM"], architecture="Data2VecTextForCausalLM")
    with pytest.raises(ValueError, match="decoder"):
        config_from_transformers({"model_type": "data2vec-text", "is_decoder": True})
    folders[0]["Model"].config.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors.*pytorch_model\.bin"):
        from_transformers(tmp_path, architecture="Data2VecTextModel")
    folders[0]["Model"].save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"architectures": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="`architecture`"):
        from_transformers(tmp_path)


def test_tensors_that_do_not_fit_are_named(folders, tmp_path):
    source = folders[0]["ForTokenClassification"]
    source.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    state = source.state_dict()
    state["data2vec_text.encoder.layer.0.extra.weight"] = torch.ones(2)
    del state["data2vec_text.encoder.layer.1.attention.self.key.bias"]
    state["classifier.weight"] = torch.ones(5, 32)
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"data2vec-text \(Data2VecTextForTokenClassification\)") as caught:
        from_transformers(tmp_path)
    for problem in (
        "data2vec_text.encoder.layer.0.extra.weight would become",
        "data2vec.encoder.blocks.1.attention.qkv.bias is made of query, key and value, of which only",
        "classifier.weight has shape (5, 32) instead of (2, 32)",
    ):
        assert problem in str(caught.value)
