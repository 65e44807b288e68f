"""The card of a run: how the model was made, without paths of the machine."""

import json
import re

import yaml
from huggingface_hub import ModelCard
from model_factory import tiny_config
from uploaded_run import section

from d2v_train.publishing.run_card import run_card
from d2v_train.runs.record import read_record
from modeling_d2v.model_card import license_in


def test_the_card_tells_how_the_model_was_made(finished, hub):
    card = hub.files("user/digits")["README.md"].decode()
    assert 'AutoModel.from_pretrained("user/digits", trust_remote_code=True)' in card
    data, recorded = section(card, "Training data"), read_record(finished)["data"]["vision"]
    assert "| vision | `built-in data` | train |" in data
    assert f"| vision | 1,433 | `{recorded['names']}` |" in data
    training = section(card, "Training")
    assert "| steps | 3 |" in training and "| seed | 5 |" in training and "random weights" in training
    assert "| samples in the data | 1,433 (vision) |" in training
    assert re.search(r"\| time \| \d+ s \|\n\| speed \| .* samples/s, \d+% of", training)
    losses = [json.loads(line)["vision/loss"] for line in (finished / "log.jsonl").read_text().splitlines()]
    rows = section(card, "Loss").splitlines()
    assert [row.split(" | ")[1] for row in rows if row[:3] in ("| 1", "| 2", "| 3")] == [f"{x:.4g}" for x in losses]
    code = section(card, "Code")
    (entry,) = read_record(finished)["starts"]
    for name in ("commit", "torch", "transformers", "python", "device"):
        assert entry[name] is None or f"| {name} | {entry[name]} |" in code
    assert "    patch_size: " in code and "## Results" not in card
    assert license_in(card) == "apache-2.0"


def test_the_card_lies_beside_the_exported_model(finished):
    card = (finished / "final" / "README.md").read_text()
    assert 'AutoModelForPreTraining.from_pretrained("digits"' in card and license_in(card) == "apache-2.0"


def change_options(run, data, start, **others):
    options = yaml.safe_load((run / "run.yaml").read_text())
    options["data"]["vision"], options["init_from"] = data, start
    options |= others
    (run / "run.yaml").write_text(yaml.safe_dump(options))


def test_the_card_tells_samples_and_fingerprint_of_each_of_several_sources(run):
    record = json.loads((run / "run.json").read_text())
    found = {"/data/a samples": 1200, "/data/a names": "12ab", "b/c samples": 7, "b/c names": "34cd"}
    (run / "run.json").write_text(json.dumps(record | {"data": {"vision": found}}))
    change_options(run, ["/data/a", {"source": "b/c", "split": "extra"}], None)
    data = section(run_card(run, tiny_config("vision"), "me/x"), "Training data")
    for row in ("vision | `a` | train", "vision | `b/c` | extra", "vision, `a` | 1,200 | `12ab`",
                "vision, `b/c` | 7 | `34cd`"):  # fmt: skip
        assert f"| {row} |" in data
    assert "/data" not in data


def test_the_card_tells_how_much_data_there_was(run, finished):
    """As the run has recorded it."""
    recorded = read_record(finished)["amounts"]
    assert recorded == {"vision": {"value": 1433, "unit": "pictures", "exact": True}}
    assert "In all: 1,433 pictures (vision)." in section(
        (finished / "final" / "README.md").read_text(), "Training data"
    )
    path = run / "run.json"
    record = json.loads(path.read_text())
    for amount, text in [
        ((3.14159, "hours", True), "3.14 hours"),
        ((0.0196875, "hours", True), "1.18 minutes"),
        ((960.9, "hours", False), "about 961 hours"),
        ((1234567, "tokens", True), "1,234,567 tokens"),
        ((1234567, "tokens", False), "about 1,200,000"),
    ]:
        found = dict(zip(("value", "unit", "exact"), amount, strict=True))
        path.write_text(json.dumps(record | {"amounts": {"vision": found}}))
        assert f"In all: {text}" in run_card(run, tiny_config("vision"), "me/x")
    path.write_text(json.dumps({key: value for key, value in record.items() if key != "amounts"}))
    assert "In all" not in run_card(run, tiny_config("vision"), "me/x")  # of a run before there were any


def test_the_card_tells_the_course_of_the_learning_rate(run):
    path = run / "run.yaml"
    options = yaml.safe_load(path.read_text())
    assert "then cosine to 0" in run_card(run, tiny_config("vision"), "me/x")
    options["optim"] |= {"hold": 0.4, "curve": "exponential", "min_lr": 1e-5}
    path.write_text(yaml.safe_dump(options))
    assert ", held 0.4, then exponential to 1e-05" in run_card(run, tiny_config("vision"), "me/x")


def test_paths_of_the_machine_stay_out_of_the_card(run):
    change_options(run, "/data/mine/digits", "/models/old/final")
    card = run_card(run, tiny_config("vision"), "me/x")
    assert "/data" not in card and "/models" not in card and str(run.parent) not in card
    assert "| vision | `digits` |" in card and "| started from | `old/final` |" in card


def test_the_card_tells_which_parts_were_taken_and_not_trained(run):
    assert "frozen" not in run_card(run, tiny_config("vision"), "me/x")
    change_options(run, "builtin:digits", "/models/speech", init_parts="blocks", freeze="blocks")
    card = run_card(run, tiny_config("vision"), "me/x")
    assert "| started from | the shared blocks of `speech` |" in card and "| frozen | what the" in card
    assert "built-in data" in card


def test_data_and_start_on_the_hub_are_linked(run):
    change_options(run, "user/pictures:small", "user/start")
    card = ModelCard(run_card(run, tiny_config("vision"), "me/x", license="mit"))
    assert card.data.datasets == ["user/pictures"] and card.data.base_model == "user/start"
