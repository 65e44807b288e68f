"""The card of a fine-tuned model."""

import json

from finetuning_example import make_trainer
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from d2v_train.finetuning.run import run
from d2v_train.publishing.finetuned_card import finetuned_card


def test_the_card_tells_results_data_and_settings(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=2, do_eval=True, layer_decay=0.65)
    trainer.card = {"finetuned_from": "user/model", "tasks": "text-classification", "dataset": "nyu-mll/glue"}
    results = run(trainer)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == "user/model" and card.data.pipeline_tag == "text-classification"
    assert "trained from `user/model` on nyu-mll/glue" in card.text
    assert f"| eval_loss | {results['eval_loss']:.4g} |" in card.text and "runtime" not in card.text
    for line in (
        "| schedule | linear |",
        "| updates | 2 |",
        "| batch size | 4 |",
        "| layer decay | 0.65 |",
        "| learning rate | 0.01 |",
    ):
        assert line in card.text
    stored = json.loads((tmp_path / "all_results.json").read_text())
    assert {stored[name] == results[name] for name in ("train_loss", "eval_loss")} == {True}

    trainer.card |= {"finetuned_from": str(tmp_path), "dataset": str(tmp_path)}
    trainer.create_model_card()
    local = ModelCard.load(tmp_path / "README.md")
    assert local.data.base_model is None and str(tmp_path) not in local.text and f"`{tmp_path.name}`" in local.text


def test_the_card_tells_which_data_it_was_without_paths_of_the_machine():
    source = {"source": "/home/me/secret/words", "fingerprint": "12ab"}
    hours = {"value": 12.345, "unit": "hours", "exact": False}
    data = [
        source | {"part": "training", "split": "train", "samples": 2345, "amount": hours},
        source | {"part": "validation", "split": "held out of train", "samples": 120, "amount": None},
        {**source, "source": "user/words:en", "part": "test", "split": "test", "samples": 9, "amount": None},
    ]
    labels = [f"word {number}" for number in range(30)]
    start = "/home/me/secret/runs/speech/final"
    text = finetuned_card(
        "words", {}, {"seed": 1}, finetuned_from=start, dataset=source["source"], data=data, labels=labels
    )
    assert "secret" not in text.partition("---\n# ")[2]
    for row in ("training | `words` | train | 2,345 | about 12.3 hours | `12ab`",
                "validation | `words` | held out of train | 120 |  | `12ab`",
                "test | `user/words:en` | test | 9 |"):  # fmt: skip
        assert f"| {row}" in text
    assert "30 classes: `word 0`, " in text and "`word 19`, ..." in text and "word 20" not in text
    assert "Data" not in finetuned_card("words", {}, {"seed": 1}).replace("data", "")


def test_names_of_others_are_no_markup():
    name = "run\n\n# heading\n\n<script>alert(1)</script> | `x` ** ---"
    text = finetuned_card(
        name,
        {f"eval_{name}": 0.5},
        {f"setting {name}": f"value {name}"},
        finetuned_from=name,
        tasks="text-classification",
        dataset=name,
        dataset_args=name,
        data=[{"part": name, "source": name, "split": name, "samples": 3, "amount": None, "fingerprint": name}],
        labels=[name],
    )
    metadata, body = text[4:].split("\n---\n", 1)
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    assert len(headings) == 5 and headings[1:] == ["Use", "Data", "Results on the evaluation data", "Training"]
    assert {token.type.split("_")[0] for token in tokens} == {
        "heading", "inline", "paragraph", "fence", "table", "thead", "tbody", "tr", "th", "td"
    }  # fmt: skip
    kinds = {child.type for token in tokens for child in token.children or ()}
    assert kinds <= {"text", "text_special", "code_inline"}
    assert ModelCard(text).data.model_name == name


def test_a_task_without_a_pipeline_has_its_own_example():
    card = finetuned_card("ours", {}, {}, repository="me/ours", tasks="other", use=lambda name: f"load {name}")
    assert "## Use\n\nload me/ours" in card and "pipeline(" not in card
    assert "pipeline_tag: other" in card and "for a task of its own" in card
