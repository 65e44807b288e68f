"""Text models of transformers become ours: the same outputs and losses, nothing lost, and clear refusals."""

import pytest
import torch
import transformers
from safetensors.torch import load_file
from text_models import LABELS, MODELS, SMALL, theirs

import modeling_d2v
from modeling_d2v.conversion.hf.load import config_from_transformers, from_transformers
from modeling_d2v.conversion.hf.text import place
from modeling_d2v.conversion.tensors import Place


PER_TOKEN = ("Model", "ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering")
BASE = dict(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)


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
