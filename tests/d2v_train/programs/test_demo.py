"""The demonstration and the plots of a run."""

import json

import pytest
from PIL import Image

from d2v_train.programs import demo


SMALL = [
    "text=null",
    "audio=null",
    "model.text_config=null",
    "model.audio_config=null",
    "vision.batch_size=4",
    "logging.every=1",
    "model.vision_config.num_masks=2",
]


def row(linear, knn=50.0, few=40.0):
    return {"linear": linear, "knn": knn, "few": few, "few_std": 1.25}


RESULT = {
    "pretrained": row(95.4), "random": row(82.2), "simple": {"pixels": row(97.2, 95.0)}, "classes": 10,
    "chance": 10.1, "neighbours": 20, "few_labels": 10, "seeds": [0, 1],
}  # fmt: skip


def test_table_is_aligned_and_holds_every_row():
    table = demo.format_table({"vision": RESULT, "text": RESULT | {"simple": {"tfidf": row(74.2)}}})
    rows = [line for line in table.splitlines() if line.startswith("  ")]
    assert [line[2:22].strip() for line in rows] == [
        "pretrained", "random weights", "pixels", "pretrained", "random weights", "TF-IDF",
    ]  # fmt: skip
    assert len({len(line) for line in rows}) == 1
    assert rows[0].split() == ["pretrained", "95.4", "50.0", "40.0", "±", "1.2"]
    header = table.splitlines()[0]
    assert header.index("linear") + len("linear") == rows[0].index("95.4") + len("95.4")


def test_verdict_states_gains_and_that_text_does_not_learn():
    words = demo.verdict({"vision": RESULT, "text": RESULT | {"pretrained": row(81.2)}})
    assert "images: linear accuracy +13.2 points" in words and "text: linear accuracy -1.0 points" in words
    assert "Text does not learn in minutes" in words
    assert "Text" not in demo.verdict({"vision": RESULT})


def test_demo_trains_probes_and_plots(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "MAX_PROBE_SAMPLES", 150)
    summary = demo.run_demo(tmp_path / "run", steps=3, overrides=SMALL)
    printed = capsys.readouterr().out
    assert "AutoModel.from_pretrained" in printed and "Data2VecModel" in printed
    assert "images:" in printed and "speech:" not in printed
    assert summary["steps"] == 3 and summary["probes"]["vision"]["test_samples"] == 150
    assert json.loads((tmp_path / "run" / "demo.json").read_text()) == json.loads(json.dumps(summary))
    assert Image.open(tmp_path / "run" / "curves.png").width > 500
    assert str(tmp_path / "run" / "final") in printed


@pytest.mark.slow
def test_demo_runs_on_all_modalities(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "MAX_PROBE_SAMPLES", 150)
    summary = demo.run_demo(tmp_path / "run", steps=6, overrides=["logging.every=2"])
    assert set(summary["probes"]) == {"vision", "audio", "text"}
    assert "Text does not learn in minutes" in capsys.readouterr().out
