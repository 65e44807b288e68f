"""Tasks of GLUE: classes, published settings and the files that its server takes."""

import dataclasses

import numpy as np
from model_factory import tiny_config

from d2v_train.finetuning.run import write_predictions
from d2v_train.finetuning.texts.glue import CLASSES, SCORES, TASKS, decide_task


def test_classes_of_a_model_in_another_order_keep_it():
    config = tiny_config("text")
    config.id2label = {0: "contradiction", 1: "entailment", 2: "neutral"}
    assert decide_task("mnli", config, None).labels == ("contradiction", "entailment", "neutral")
    assert decide_task("rte", config, None) is TASKS["rte"]
    assert decide_task(None, config, None) == dataclasses.replace(CLASSES, labels=tuple(config.id2label.values()))
    config.problem_type = "regression"
    assert decide_task(None, config, None) is SCORES


def test_what_the_server_of_glue_takes(tmp_path):
    path = tmp_path / "new" / "RTE.tsv"
    write_predictions(path, {"index": np.array([0, 2]), "prediction": TASKS["rte"].shown(np.array([1, 0]))})
    assert path.read_text() == "index\tprediction\n0\tnot_entailment\n2\tentailment\n"
    assert TASKS["cola"].shown(np.array([1])) == [1]
    assert TASKS["stsb"].shown(np.array([1.23456])) == ["1.235"]
