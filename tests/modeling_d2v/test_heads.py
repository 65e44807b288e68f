"""What every task head must do, over the table of `head_factory.py`. Loading across classes: see
`test_heads_from_checkpoints.py`."""

import copy
import inspect

import pytest
import torch
import transformers
from head_factory import (
    HEADS,
    LABELS,
    PARTS,
    head_class,
    head_config,
    head_inputs,
    head_labels,
    make_head,
    objective,
    padded_head_inputs,
    results,
)
from model_factory import tiny_config

from modeling_d2v import Data2VecConfig


TEXT = [name for name, head in HEADS.items() if head.modality == "text"]
WITH_LOSS = [name for name in HEADS if head_labels(name)]
EAGER = dict(attn_implementation="eager")


def with_attention(name: str, implementation: str, **overrides) -> torch.nn.Module:
    model = make_head(name, **overrides)
    model.set_attn_implementation(implementation)
    return model


def assert_same(mine: dict, other: dict, tolerance: float = 0.0) -> None:
    assert mine.keys() == other.keys()
    for name, tensor in mine.items():
        torch.testing.assert_close(
            tensor, other[name], atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_the_table_holds_every_head():
    registered = {
        name for name in dir(__import__("modeling_d2v")) if name.startswith(("Data2VecFor", "Data2VecBackb"))
    }
    # The head of arrays, which transformers has no class for, has a test file of its own.
    apart = {"Data2VecForPreTraining", "Data2VecForPreTrainingOutput", "Data2VecForArrayClassification"}
    assert registered - apart == set(HEADS)


# Saving and loading


@pytest.mark.parametrize("name", HEADS)
def test_save_and_load(name, tmp_path, monkeypatch):
    model = make_head(name)
    model.save_pretrained(tmp_path)
    again, info = head_class(name).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    assert not again.training
    assert_same(again.state_dict(), model.state_dict())
    assert_same(dict(again.named_buffers()), dict(model.named_buffers()))
    assert_same(results(again(**head_inputs(name))), results(model(**head_inputs(name))), 1e-6)

    # AutoBackbone asks the Hub for a name that may be a folder as well; here there is no Hub.
    monkeypatch.setattr("huggingface_hub.HfApi.repo_exists", lambda self, name: True)
    auto = getattr(transformers, HEADS[name].auto).from_pretrained(tmp_path)
    assert type(auto) is head_class(name)
    assert_same(auto.state_dict(), model.state_dict())


@pytest.mark.parametrize("name", HEADS)
def test_configuration_round_trip(name, tmp_path):
    config = make_head(name, id2label={0: "a", 1: "b", 2: "c"}).config
    assert config.modalities == [HEADS[name].modality]
    config.save_pretrained(tmp_path)
    again = Data2VecConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict() and again.own_fields() == config.own_fields()
    assert again.id2label == {0: "a", 1: "b", 2: "c"} and again.num_labels == LABELS
    own = getattr(again, f"{HEADS[name].modality}_config")
    settings = PARTS[HEADS[name].modality] | HEADS[name].settings
    assert {key: getattr(own, key) for key in settings} == settings


@pytest.mark.parametrize("name", HEADS)
def test_the_given_configuration_is_left_as_it_is(name):
    config = head_config(name, ("text", "vision", "audio"))
    before = copy.deepcopy(config.to_dict())
    model = head_class(name)(config)
    if head_labels(name):
        model(**head_inputs(name), **head_labels(name))
    assert config.to_dict() == before
    assert list(model.data2vec.modality_encoders) == model.config.modalities == [HEADS[name].modality]


@pytest.mark.parametrize("name", HEADS)
def test_nothing_is_left_uninitialised_after_loading(name, tmp_path, monkeypatch):
    """From the bare encoder: what it lacks is made with `empty`, and poisoned here."""
    model = make_head(name)
    model.data2vec.save_pretrained(tmp_path)
    plain_empty_like = torch.empty_like

    def poisoned(*args, **kwargs):
        tensor = plain_empty_like(*args, **kwargs)
        return tensor.fill_(float("nan")) if tensor.is_floating_point() and not tensor.is_meta else tensor

    monkeypatch.setattr(torch, "empty_like", poisoned)
    again = head_class(name).from_pretrained(tmp_path)
    tensors = dict(again.named_parameters()) | dict(again.named_buffers())
    assert not [key for key, tensor in tensors.items() if tensor.is_meta or not torch.isfinite(tensor).all()]
    fresh = dict(model.named_buffers())
    for key, buffer in again.named_buffers():
        torch.testing.assert_close(buffer, fresh[key], msg=key)
    assert torch.isfinite(objective(again(**head_inputs(name), **head_labels(name))))


@pytest.mark.parametrize("name", HEADS)
def test_other_types_of_numbers(name, tmp_path):
    model = make_head(name)
    model.save_pretrained(tmp_path)
    half = head_class(name).from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    output = half(**head_inputs(name), **head_labels(name))
    assert {x.dtype for x in results(output).values()} == {torch.bfloat16}
    for key, mine in results(output).items():
        other = results(model(**head_inputs(name)))[key]
        assert (mine.float() - other).abs().max() < 0.05 * other.abs().max() + 0.05, key
    if head_labels(name):
        assert output.loss.dtype == torch.float32
        expected = model(**head_inputs(name), **head_labels(name)).loss
        torch.testing.assert_close(output.loss, expected, atol=0.02, rtol=0.05)
    half.train()
    objective(half(**head_inputs(name), **head_labels(name))).backward()
    assert all(torch.isfinite(grad).all() for grad in gradients(half).values())


# Training


@pytest.mark.parametrize("name", HEADS)
def test_gradients_reach_every_parameter(name):
    model = make_head(name).train()
    objective(model(**head_inputs(name), **head_labels(name))).backward()
    found = gradients(model)
    assert found.keys() == {key for key, _ in model.named_parameters()}
    weak = {key for key, grad in found.items() if not grad.abs().max() > 1e-7}
    assert weak == set(HEADS[name].cancels)


@pytest.mark.parametrize("name", HEADS)
def test_gradient_checkpointing_changes_nothing(name):
    batch = head_inputs(name) | head_labels(name)
    runs = []
    for checkpointing in (False, True):
        model = make_head(name).train()
        if checkpointing:
            model.activation_checkpointing_enable()
            assert all(block.gradient_checkpointing for block in model.data2vec.encoder.blocks)
        loss = objective(model(**batch))
        loss.backward()
        runs.append({"loss": loss.detach(), **gradients(model)})
    assert_same(runs[1], runs[0], 1e-6)


@pytest.mark.parametrize("name", HEADS)
def test_the_encoder_can_be_frozen_as_a_whole_or_in_front(name):
    model = make_head(name).train()
    model.freeze_feature_encoder()
    front = f"data2vec.modality_encoders.{HEADS[name].modality}.local_encoder."
    frozen = {key for key, p in model.named_parameters() if not p.requires_grad}
    assert frozen and all(key.startswith(front) for key in frozen)
    model.freeze_base_model()
    own = {key for key, _ in model.named_parameters() if not key.startswith("data2vec.")}
    assert {key for key, p in model.named_parameters() if p.requires_grad} == own
    if own:
        objective(model(**head_inputs(name), **head_labels(name))).backward()
        assert gradients(model).keys() == own


@pytest.mark.parametrize("name", HEADS)
def test_runs_repeat_themselves(name):
    """Twice the same in evaluation, and in training from the same state of the generator, dropout included."""
    drops = {key: 0.2 for key in ("hidden_dropout", "mlp_dropout", "attention_dropout", "drop_path_rate", "layerdrop")}
    model, batch = make_head(name, **drops), head_inputs(name) | head_labels(name)
    assert_same(results(model(**batch)), results(model(**batch)))
    model.train()
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(objective(model(**batch)).detach())
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("name", WITH_LOSS)
def test_a_few_steps_lower_the_loss(name):
    model = make_head(name).train()
    batch = head_inputs(name) | head_labels(name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


# Outputs


@pytest.mark.parametrize("name", HEADS)
def test_hidden_states_and_attentions_on_request(name):
    model, batch = with_attention(name, "eager"), head_inputs(name)
    plain = model(**batch)
    assert plain.hidden_states is None and plain.attentions is None
    output = model(**batch, output_hidden_states=True, output_attentions=True)
    layers = model.config.num_hidden_layers
    assert len(output.hidden_states) == layers + 1 and len(output.attentions) == layers
    rows, length, width = output.hidden_states[0].shape
    assert width == model.config.hidden_size
    assert output.attentions[-1].shape == (rows, model.config.num_attention_heads, length, length)
    torch.testing.assert_close(output.attentions[0].sum(dim=-1), torch.ones_like(output.attentions[0][..., 0]))
    assert_same(results(output), results(plain))
    encoded = model.data2vec(**{key: x.flatten(0, 1) if x.dim() == 3 else x for key, x in batch.items()})
    assert torch.equal(output.hidden_states[-1], encoded.last_hidden_state)


@pytest.mark.parametrize("name", HEADS)
def test_output_as_a_tuple(name):
    model, batch = make_head(name), head_inputs(name) | head_labels(name)
    named, plain = model(**batch), model(**batch, return_dict=False)
    assert type(plain) is tuple and len(plain) == len(named.to_tuple())
    model.config.return_dict = False
    assert type(model(**batch)) is tuple and type(model(**batch, return_dict=True)) is type(named)
    if head_labels(name):
        assert torch.equal(plain[0], named.loss)
    assert torch.equal(plain[-1] if name != "Data2VecBackbone" else plain[0][-1], list(results(named).values())[-1])


# Attention and padding


@pytest.mark.parametrize("name", HEADS)
def test_eager_and_sdpa_are_equal(name):
    batch, _ = padded_head_inputs(name)
    runs = []
    for implementation in ("eager", "sdpa"):
        model = with_attention(name, implementation).train()
        output = model(**batch, **head_labels(name))
        objective(output).backward()
        runs.append(gradients(model) | {"loss": objective(output).detach()})
    assert_same(runs[0], runs[1], 1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_attention_is_chosen_on_loading_and_later(name, tmp_path):
    make_head(name).save_pretrained(tmp_path)
    model = head_class(name).from_pretrained(tmp_path, attn_implementation="eager")
    part = getattr(model.config, f"{HEADS[name].modality}_config")
    configs = (model.config, model.data2vec.config, part, model.data2vec.encoder.blocks[0].attention.config)
    assert {config._attn_implementation for config in configs} == {"eager"}
    batch = head_inputs(name)
    assert model(**batch, output_attentions=True).attentions[0] is not None
    model.set_attn_implementation("sdpa")
    assert {config._attn_implementation for config in configs} == {"sdpa"}
    assert head_class(name).from_pretrained(tmp_path).config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("name", "side"),
    [
        (name, side)
        for name in HEADS
        for side in ("right", "left")
        if side == "right" or HEADS[name].modality != "vision"
    ],
)
def test_a_sample_gives_the_same_alone_and_in_a_batch(name, side):
    model = make_head(name)
    batch, singles = padded_head_inputs(name, side)
    together = results(model(**batch))
    if HEADS[name].per_token:
        real = model.data2vec(**batch).attention_mask.bool()
        together = {key: [row[mine] for row, mine in zip(x, real, strict=True)] for key, x in together.items()}
    for i, single in enumerate(singles):
        assert_same(
            {key: x[i] for key, x in together.items()}, {k: x[0] for k, x in results(model(**single)).items()}, 1e-5
        )


# Vocabulary, labels and mistakes


@pytest.mark.parametrize("name", TEXT)
def test_the_vocabulary_can_grow(name, tmp_path):
    model, batch = make_head(name), head_inputs(name)
    before = results(model(**batch))
    model.resize_token_embeddings(64)
    assert model.config.text_config.vocab_size == 64 and len(model.get_input_embeddings().weight) == 64
    after = results(model(**batch))
    if name == "Data2VecForMaskedLM":
        after["logits"] = after["logits"][..., :50]
    assert_same(after, before, 1e-6)
    model.save_pretrained(tmp_path)
    again = head_class(name).from_pretrained(tmp_path)
    assert_same(again.state_dict(), model.state_dict())
    new_words = {key: x.clamp(min=60) for key, x in batch.items()}
    assert all(torch.isfinite(x).all() for x in results(again(**new_words)).values())


@pytest.mark.parametrize("name", [name for name in HEADS if name not in TEXT])
def test_only_text_has_a_vocabulary_of_inputs(name):
    with pytest.raises(ValueError, match="'text'"):
        make_head(name).resize_token_embeddings(64)


@pytest.mark.parametrize("name", WITH_LOSS)
def test_the_loss_of_accumulated_batches_is_that_of_the_whole(name):
    """With the count of labels of the step, as Trainer gives it where a head takes it."""
    head, model = HEADS[name], make_head(name)
    batch, wanted = head_inputs(name), head_labels(name)
    if "labels" not in wanted or getattr(model, "accepts_loss_kwargs", True) is False:
        count = None  # Trainer averages over the batches, which are of one size here
    else:
        count = (wanted["labels"] != -100).sum()
    parts = [
        model(
            **{key: x[i : i + 1] for key, x in (batch | wanted).items()},
            **({} if count is None else {"num_items_in_batch": count}),
        ).loss
        for i in range(3)
    ]
    total = sum(parts) / (3 if count is None else 1)
    whole = model(**batch, **wanted, **({} if count is None else {"num_items_in_batch": count})).loss
    torch.testing.assert_close(total, whole, atol=1e-5, rtol=1e-5)
    assert head.modality in ("text", "audio", "vision") and torch.isfinite(whole)


@pytest.mark.parametrize("name", HEADS)
def test_another_modality_is_refused_in_a_sentence(name):
    other = next(m for m in ("text", "vision", "audio") if m != HEADS[name].modality)
    with pytest.raises(ValueError, match=f"{name}.*{HEADS[name].modality}.*{other}"):
        head_class(name)(tiny_config(other))
    with pytest.raises((ValueError, TypeError)):
        make_head(name)()


@pytest.mark.parametrize("name", HEADS)
def test_a_misspelt_argument_is_named_and_what_any_model_is_given_passes(name):
    model, batch = make_head(name), head_inputs(name)
    with pytest.raises(TypeError, match=f"^{name} has no argument `label`; the nearest one is `") as e:
        model(**batch, label=torch.zeros(3))
    assert "`labels`." in str(e.value) or "labels" not in inspect.signature(model.forward).parameters
    given = dict(inputs_embeds=None, head_mask=None, output_attentions=False, use_cache=False, num_items_in_batch=3)
    assert_same(results(model(**batch, **given)), results(model(**batch)))


@pytest.mark.parametrize("name", HEADS)
def test_chosen_hidden_states_are_those_of_all(name):
    model, inputs = make_head(name), head_inputs(name)
    states = model(**inputs, output_hidden_states=True).hidden_states
    assert len(states) == 3 and all(state is not None for state in states)
    for asked, chosen in ((1, {1}), ([0, -1], {0, 2})):
        given = model(**inputs, output_hidden_states=asked).hidden_states
        assert [state is not None for state in given] == [i in chosen for i in range(3)]
        assert all(torch.equal(given[i], states[i]) for i in chosen)
    assert model(**inputs).hidden_states is None
