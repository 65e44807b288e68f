"""Text heads: losses and their labels, answers, the vocabulary, extra tokens, errors.

What text heads share with all others is in `test_heads_common.py`, equality with transformers in
`test_transformers_text.py`.
"""

import pytest
import torch
from head_factory import head_inputs, head_labels, make_head, padded_head_inputs, results
from model_factory import inputs_for, padded_inputs, randomise, tiny_config
from torch.nn import functional as F
from transformers import AutoModelForMaskedLM

import modeling_d2v
from modeling_d2v import Data2VecConfig, Data2VecForMaskedLM, Data2VecForPreTraining, Data2VecModel


HEADS = ("MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice")
TABLE = "data2vec.modality_encoders.text.local_encoder.token_embeddings.weight"


def make(head: str, **overrides) -> torch.nn.Module:
    return make_head(f"Data2VecFor{head}", **overrides)


def inputs(head: str) -> dict[str, torch.Tensor]:
    return head_inputs(f"Data2VecFor{head}")


def targets(head: str) -> dict[str, torch.Tensor]:
    return head_labels(f"Data2VecFor{head}")


# Answers


def test_an_answer_is_never_in_the_padding_and_its_loss_does_not_see_it():
    """The second text is cut off before its answer, alone as in the batch, where this place is padding."""
    model = make("QuestionAnswering")
    batch, singles = padded_inputs("text")
    wanted = {"start_positions": torch.tensor([1, 12, 2]), "end_positions": torch.tensor([3, 25, 4])}
    together = model(**batch, **wanted)
    assert (together.start_logits.argmax(1) < batch["attention_mask"].sum(1)).all()
    alone = [
        model(**single, **{name: value[i : i + 1] for name, value in wanted.items()}).loss
        for i, single in enumerate(singles)
    ]
    assert alone[1] == 0
    torch.testing.assert_close(together.loss, (alone[0] + alone[2]) / 2, atol=1e-5, rtol=1e-5)


def test_the_loss_of_an_answer_is_that_of_its_two_ends():
    model, batch, wanted = make("QuestionAnswering"), inputs("QuestionAnswering"), targets("QuestionAnswering")
    output = model(**batch, **wanted)
    start = F.cross_entropy(output.start_logits, wanted["start_positions"])
    end = F.cross_entropy(output.end_logits, wanted["end_positions"])
    torch.testing.assert_close(output.loss, (start + end) / 2)
    columns = {name: value[:, None] for name, value in wanted.items()}
    torch.testing.assert_close(model(**batch, **columns).loss, output.loss)


# Losses


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16])
def test_labels_of_any_integer_type(head, dtype):
    wanted = {name: value.clamp(min=0) for name, value in targets(head).items()}
    model, batch = make(head), inputs(head)
    expected = model(**batch, **wanted).loss
    actual = model(**batch, **{name: value.to(dtype) for name, value in wanted.items()}).loss
    assert torch.equal(actual, expected)


def test_the_kind_of_problem_is_remembered_with_the_model(tmp_path):
    model, batch = make("SequenceClassification"), inputs("SequenceClassification")
    assert model.config.problem_type is None
    model(**batch, labels=torch.eye(3))
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert again.config.problem_type == "multi_label_classification"
    flags = torch.eye(3).long()
    torch.testing.assert_close(again(**batch, labels=flags).loss, model(**batch, labels=flags.float()).loss)


def test_regression_and_several_labels():
    batch = inputs("SequenceClassification")
    model = make("SequenceClassification", num_labels=1)
    numbers = torch.tensor([0.5, -1.0, 4.0])
    output = model(**batch, labels=numbers)
    torch.testing.assert_close(output.loss, F.mse_loss(output.logits[:, 0], numbers))
    assert model.config.problem_type == "regression"
    whole = torch.tensor([0, 2, 4])
    torch.testing.assert_close(model(**batch, labels=whole).loss, model(**batch, labels=whole.float()).loss)

    model = make("SequenceClassification")
    flags = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    output = model(**batch, labels=flags)
    torch.testing.assert_close(output.loss, F.binary_cross_entropy_with_logits(output.logits, flags))
    assert model.config.problem_type == "multi_label_classification"
    torch.testing.assert_close(model(**batch, labels=flags.long()).loss, output.loss)


@pytest.mark.parametrize(
    "labels", [torch.tensor([0, 2, 1]), torch.tensor([0.5, -1.0, 4.0]), torch.eye(3)], ids=["ids", "numbers", "flags"]
)
def test_accumulated_batches_give_the_loss_of_the_whole(labels):
    model = make("SequenceClassification", num_labels=1 if labels.dim() == 1 and labels.is_floating_point() else 3)
    batch = inputs("SequenceClassification")
    whole = model(**batch, labels=labels).loss
    count = labels.ne(-100).sum()
    parts = [
        model(input_ids=batch["input_ids"][rows], labels=labels[rows], num_items_in_batch=count).loss
        for rows in (slice(0, 1), slice(1, 3))
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_a_batch_without_labels_costs_nothing():
    model = make("TokenClassification")
    loss = model(**inputs("TokenClassification"), labels=torch.full((3, 20), -100)).loss
    loss.backward()
    assert loss == 0 and torch.isfinite(model.classifier.weight.grad).all()


# Vocabulary


def test_the_output_matrix_is_the_embedding_and_stays_it(tmp_path):
    model = make("MaskedLM")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert again.lm_head.decoder.weight is again.get_parameter(TABLE)
    untied = Data2VecForMaskedLM(tiny_config("text", tie_word_embeddings=False))
    assert untied.lm_head.decoder.weight is not untied.get_parameter(TABLE)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("size", [61, 50, 55])
def test_resizing_keeps_what_was_known(size, tied, tmp_path):
    model = randomise(
        Data2VecForMaskedLM(tiny_config("text", tie_word_embeddings=tied, text_config={"vocab_size": 58}))
    )
    model.config.text_config.mask_token_id = 49
    model.eval()
    batch = inputs("MaskedLM")
    before = model(**batch).logits
    model.resize_token_embeddings(size)
    after = model(**batch).logits
    kept = min(size, 58)
    assert after.shape[-1] == size == model.config.text_config.vocab_size == model.lm_head.decoder.out_features
    torch.testing.assert_close(after[..., :kept], before[..., :kept])
    assert model.config.text_config.mask_token_id == 49
    assert (model.lm_head.decoder.weight is model.get_parameter(TABLE)) == tied
    model.save_pretrained(tmp_path)
    assert torch.equal(Data2VecForMaskedLM.from_pretrained(tmp_path).eval()(**batch).logits, after)


def test_a_joint_encoder_resizes_its_text_part(tmp_path):
    model = Data2VecModel(tiny_config())
    model.resize_token_embeddings(64)
    assert model.modality_encoders["text"].config.vocab_size == model.config.text_config.vocab_size == 64
    model.save_pretrained(tmp_path)
    again = Data2VecModel.from_pretrained(tmp_path)
    assert again(input_ids=torch.tensor([[0, 63, 2]])).last_hidden_state.shape == (1, 3, 32)


@pytest.mark.parametrize("model", [Data2VecModel, Data2VecForMaskedLM, Data2VecForPreTraining])
def test_resizing_keeps_the_special_tokens(model):
    model = model(tiny_config("text"))  # the mask token is 49
    with pytest.raises(ValueError, match="`mask_token_id`.*49.*49"):
        model.resize_token_embeddings(49)
    assert len(model.get_input_embeddings().weight) == model.config.text_config.vocab_size == 50


def test_only_text_is_resized():
    with pytest.raises(ValueError, match="'text'"):
        Data2VecModel(tiny_config("vision")).resize_token_embeddings(60)


def test_dropout_of_the_head():
    assert make("SequenceClassification", hidden_dropout=0.2).dropout.p == 0.2
    assert make("TokenClassification", text_config={"classifier_dropout": 0.0}, hidden_dropout=0.2).dropout.p == 0.0
    with pytest.raises(ValueError, match="classifier_dropout"):
        tiny_config("text", text_config={"classifier_dropout": 1.0})
    config = tiny_config("text", text_config={"classifier_dropout": 0.3})
    assert Data2VecConfig.from_dict(config.to_dict()).text_config.classifier_dropout == 0.3


# Extra tokens


@pytest.mark.parametrize("head", HEADS)
def test_extra_tokens_are_no_words(head):
    """They stand before the text: logits and places are those of the words, the summary is that of the first one."""
    model = make(head, text_config={"num_extra_tokens": 2})
    name = f"Data2VecFor{head}"
    batch, singles = padded_head_inputs(name, "left")
    together = results(model(**batch))
    plain = results(make(head)(**batch))
    assert {key: x.shape for key, x in together.items()} == {key: x.shape for key, x in plain.items()}
    real = batch["attention_mask"].bool()
    for i, single in enumerate(singles):
        for key, alone in results(model(**single)).items():
            mine = together[key][i]
            mine = mine[real[i]] if head in ("MaskedLM", "TokenClassification", "QuestionAnswering") else mine
            torch.testing.assert_close(mine, alone[0], atol=1e-5, rtol=1e-5)
    if head == "SequenceClassification":
        summary = model.data2vec(**batch).last_hidden_state[:, 0]
        assert torch.equal(together["logits"], model.classifier(summary))


# Mistakes


@pytest.mark.parametrize("head", ["SequenceClassification", "TokenClassification", "MaskedLM", "MultipleChoice"])
@pytest.mark.parametrize("wrong", [-1, 50])
def test_class_ids_out_of_range(head, wrong):
    labels = targets(head)["labels"]
    labels.view(-1)[0] = wrong
    with pytest.raises(ValueError, match=rf"`labels` holds {wrong}; class ids go from 0 to (1|2|49)"):
        make(head)(**inputs(head), labels=labels)


def test_labels_of_another_problem():
    batch = inputs("SequenceClassification")
    with pytest.raises(ValueError, match=r"\(3, 3\).*`problem_type`"):
        make("SequenceClassification")(**batch, labels=torch.eye(3).long())
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        make("SequenceClassification", problem_type="multi_label_classification")(**batch, labels=torch.ones(3))
    with pytest.raises(ValueError, match="torch.float32"):
        make("TokenClassification")(**batch, labels=torch.ones(3, 20))


@pytest.mark.parametrize(
    ("settings", "labels", "message"),
    [
        ({}, [[1.0, 0.0, 5.0], [0.0] * 3, [0.0] * 3], "holds 5.0"),
        ({"problem_type": "multi_label_classification"}, [[0, 1, 0], [0, -1, 0], [1, 1, 1]], "holds -1"),
        ({"num_labels": 1}, [0.5, float("nan"), 1.0], "regression"),
    ],
)
def test_numbers_that_are_no_labels_are_refused_and_decide_nothing(settings, labels, message):
    model = make("SequenceClassification", **settings)
    before = model.config.problem_type
    with pytest.raises(ValueError, match=message):
        model(**inputs("SequenceClassification"), labels=torch.tensor(labels))
    assert model.config.problem_type == before


def test_answers_beyond_the_text_are_left_out_and_negative_ones_are_not():
    model, batch = make("QuestionAnswering"), inputs("QuestionAnswering")
    cut = model(**batch, start_positions=torch.tensor([1, 25, 20]), end_positions=torch.tensor([2, 30, 20])).loss
    first = model(input_ids=batch["input_ids"][:1], start_positions=torch.tensor([1]), end_positions=torch.tensor([2]))
    torch.testing.assert_close(cut, first.loss)
    with pytest.raises(ValueError, match="`start_positions`.*`end_positions`.*-1"):
        model(**batch, start_positions=torch.tensor([1, -1, 2]), end_positions=torch.tensor([1, 1, 2]))
    with pytest.raises(ValueError, match="belong"):
        model(**batch, start_positions=torch.tensor([1, 1, 2]))


def test_inputs_that_do_not_fit():
    model = make("SequenceClassification")
    with pytest.raises(ValueError, match="`inputs_embeds`"):
        model(inputs_embeds=torch.randn(1, 4, 32))
    with pytest.raises(ValueError, match="41 tokens"):
        model(input_ids=torch.full((1, 41), 5))
    with pytest.raises(ValueError, match="choices"):
        make("MultipleChoice")(**inputs_for("text"))
    with pytest.raises(ValueError, match="SequenceClassification"):
        modeling_d2v.Data2VecForSequenceClassification(tiny_config("vision"))
    segments = torch.ones(2, 20, dtype=torch.long)
    batch = inputs_for("text")
    assert torch.equal(model(**batch, token_type_ids=segments).logits, model(**batch).logits)


@pytest.mark.parametrize(
    "labels",
    [
        [[0, 1, 0], [-100] * 3, [1, 1, 1]],
        [[0, -100, 1], [1, 0, 0], [-100, 1, 1]],
        [[-100] * 3, [-100] * 3, [0, 0, 1]],
    ],
)
def test_flags_of_classes_that_are_not_known_are_left_out(labels):
    model, batch = (
        make("SequenceClassification", problem_type="multi_label_classification"),
        inputs("SequenceClassification"),
    )
    labels = torch.tensor(labels).float()
    output = model(**batch, labels=labels)
    known = labels != -100
    expected = torch.nn.functional.binary_cross_entropy_with_logits(output.logits[known], labels[known])
    torch.testing.assert_close(output.loss, expected)
    step = model(**batch, labels=labels, num_items_in_batch=2 * known.sum()).loss
    torch.testing.assert_close(step, expected / 2)
    assert model(**batch, labels=torch.full((3, 3), -100.0)).loss == 0
