"""Text models of transformers become ours: the same outputs and losses, nothing lost, and clear refusals."""

import json
import logging

import pytest
import torch
import transformers
from model_factory import randomise
from safetensors.torch import load_file

import modeling_d2v
from modeling_d2v.conversion.hf.load import config_from_transformers, from_transformers
from modeling_d2v.conversion.hf.text import place
from modeling_d2v.conversion.tensors import Place


MODELS = (
    "Model",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
)
PER_TOKEN = ("Model", "ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering")
LABELS = 3
SMALL = dict(
    vocab_size=60,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=42,
    layer_norm_eps=1e-5,
)
BASE = dict(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)


def theirs(model: str, sizes: dict = SMALL, **overrides) -> torch.nn.Module:
    """A model of transformers whose every tensor is random, those that start at 0 or 1 included."""
    if "id2label" not in overrides:
        overrides["num_labels"] = 2 if model == "ForQuestionAnswering" else LABELS
    config = transformers.Data2VecTextConfig(**{**sizes, **overrides})
    return randomise(getattr(transformers, f"Data2VecText{model}")(config)).eval()


def padded(length: int, model: str, pad: int = 1) -> dict[str, torch.Tensor]:
    """Three texts, the last two padded."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, 59, (3, length), generator=generator)
    real = torch.arange(length) < torch.tensor([[length], [length - 3], [length // 2]])
    batch = {"input_ids": ids.masked_fill(~real, pad), "attention_mask": real.long()}
    if model == "ForMultipleChoice":
        other = torch.where(real, 62 - ids, batch["input_ids"])
        return {
            "input_ids": torch.stack([batch["input_ids"], other], dim=1),
            "attention_mask": real.long()[:, None].repeat(1, 2, 1),
        }
    return batch


def labels(model: str, length: int) -> dict[str, torch.Tensor]:
    if model == "Model":
        return {}
    if model == "ForQuestionAnswering":  # an answer beyond the text is left out
        return {"start_positions": torch.tensor([1, 2, length + 4]), "end_positions": torch.tensor([3, 2, length])}
    if model in PER_TOKEN:
        ids = torch.arange(3 * length).view(3, length) % LABELS
        return {"labels": ids.masked_fill(torch.arange(length) % 3 == 1, -100)}
    return {"labels": torch.tensor([1, 0, 1])}


def check_equal(model: str, source: torch.nn.Module, length: int, tolerance: float) -> None:
    ours, _ = from_transformers(source)
    ours.eval()
    batch = padded(length, model, source.config.pad_token_id)
    alone = {"input_ids": batch["input_ids"][:1]}
    wanted = labels(model, length)
    first = {name: value[:1] for name, value in wanted.items()}
    with torch.no_grad():
        for inputs, targets in ((alone, first), (batch, wanted)):
            # Theirs spreads the probability of an answer over the padding too, ours does not.
            same_loss = "attention_mask" not in inputs or model != "ForQuestionAnswering"
            real = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
            mine, other = ours(**inputs, **targets), source(**inputs, **targets)
            for name in ("last_hidden_state", "logits", "start_logits", "end_logits"):
                assert (name in mine) == (name in other)
                if name in other:
                    rows = real if model in PER_TOKEN else slice(None)
                    torch.testing.assert_close(mine[name][rows], other[name][rows], atol=tolerance, rtol=tolerance)
            if targets and same_loss:
                torch.testing.assert_close(mine.loss, other.loss, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("model", MODELS)
def test_small_models_are_equal(model):
    check_equal(model, theirs(model), 20, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_models_of_base_size_are_equal(model):
    check_equal(model, theirs(model, BASE), 100, 1e-5)


def test_other_settings_are_equal():
    sizes = SMALL | {"hidden_act": "relu", "layer_norm_eps": 1e-12, "pad_token_id": 3, "max_position_embeddings": 24}
    check_equal("ForMaskedLM", theirs("ForMaskedLM", sizes, tie_word_embeddings=False), 20, 1e-5)
    for problem, wanted in (("regression", torch.randn(3, 3)), ("multi_label_classification", torch.eye(3))):
        source = theirs("ForSequenceClassification", problem_type=problem)
        ours, _ = from_transformers(source)
        batch = padded(20, "ForSequenceClassification")
        torch.testing.assert_close(ours(**batch, labels=wanted).loss, source(**batch, labels=wanted).loss)


def test_longest_text_is_the_same():
    source = theirs("Model")
    ours, _ = from_transformers(source)
    longest = ours.config.text_config.max_position_embeddings
    assert longest == 40
    ids = torch.full((1, longest), 5)
    torch.testing.assert_close(ours(ids)[0], source(ids)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_gradients_are_equal(model):
    """The loss reaches every weight as it does there: joined and renamed tensors have the gradients of their parts."""
    source = theirs(model)
    ours, _ = from_transformers(source)
    batch, wanted = padded(20, model), labels(model, 20)
    alone = {name: value[:1] for name, value in (batch | wanted).items() if name != "attention_mask"}
    for each in (ours, source):
        output = each(**alone)
        (output.loss if wanted else output.last_hidden_state.square().mean()).backward()
    gradients = {name: p.grad for name, p in ours.named_parameters()}
    compared = 0
    for name, parameter in source.named_parameters():
        spot = place(name if model != "Model" else f"data2vec_text.{name}")
        mine = gradients.get(spot.name.removeprefix("data2vec.") if model == "Model" else spot.name)
        if isinstance(spot, Place) and mine is not None and spot.part != "+" and parameter.grad is not None:
            mine = mine if spot.part is None else mine.chunk(3)["qkv".index(spot.part)]
            torch.testing.assert_close(mine, parameter.grad, atol=1e-5, rtol=1e-4, msg=name)
            compared += 1
    assert compared >= len(gradients)


# Files


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


def test_the_encoder_can_be_taken_out_of_a_model_with_a_head(folders):
    models, paths = folders
    for model in ("ForMaskedLM", "ForSequenceClassification", "ForMultipleChoice"):
        encoder, unused = from_transformers(paths[model], architecture="Data2VecTextModel")
        assert type(encoder) is modeling_d2v.Data2VecModel
        named = {entry.name for entry in unused}
        heads = {name for name in load_file(paths[model] / "model.safetensors") if "data2vec_text." not in name}
        assert heads and named - {f"data2vec_text.pooler.dense.{end}" for end in ("weight", "bias")} == heads
        ids = torch.arange(4, 12)[None]
        torch.testing.assert_close(encoder(ids)[0], models[model].data2vec_text(ids)[0], atol=1e-5, rtol=1e-5)


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


def test_the_result_saves_loads_and_goes_on_pretraining(folders, tmp_path):
    ours, _ = from_transformers(folders[1]["ForMaskedLM"])
    ours.save_pretrained(tmp_path)
    again = modeling_d2v.Data2VecForMaskedLM.from_pretrained(tmp_path)
    ids = torch.arange(4, 24)[None]
    assert torch.equal(again(ids).logits, ours(ids).logits)
    pretraining = modeling_d2v.Data2VecForPreTraining.from_pretrained(tmp_path)
    assert torch.isfinite(pretraining(ids).loss)
    name = "encoder.blocks.1.attention.qkv.weight"
    assert torch.equal(pretraining.teacher.get_parameter(name), ours.data2vec.get_parameter(name))


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


# Settings


def test_settings_become_ours():
    source = dict(
        transformers.Data2VecTextConfig(
            **BASE,
            hidden_dropout_prob=0.2,
            attention_probs_dropout_prob=0.3,
            classifier_dropout=0.4,
            initializer_range=0.01,
            id2label={0: "a", 1: "b", 2: "c"},
            eos_token_id=[2, 5],
        ).to_dict()
    )
    config = config_from_transformers(source)
    text = config.text_config
    assert (config.hidden_dropout, config.mlp_dropout, config.attention_dropout) == (0.2, 0.2, 0.3)
    assert (text.classifier_dropout, text.embedding_dropout, config.initializer_range) == (0.4, 0.2, 0.01)
    assert (text.max_position_embeddings, text.mask_token_id, text.eos_token_id) == (512, 50264, 2)
    assert config.num_labels == 3 and config.label2id == {"a": 0, "b": 1, "c": 2}
    assert (config.layer_norm_eps, text.local_norm_eps, config.masked_tokens) == (1e-5, 1e-5, "replaced")
    published = modeling_d2v.Data2VecConfig.preset("text-base-v1")
    for field in ("mask_prob", "mask_sampler", "average_top_k_layers", "layer_target_norm", "ema_copied"):
        assert getattr(text, field) == getattr(published.text_config, field)


def test_a_configuration_file_may_leave_defaults_out():
    config = config_from_transformers({"model_type": "data2vec-text", "vocab_size": 99})
    assert config.text_config.vocab_size == 99 and config.hidden_size == 768


# Refusals


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
