"""push_to_hub of models, configurations and processors."""

import torch
from head_factory import make_head

from modeling_d2v import Data2VecForSequenceClassification
from modeling_d2v.remote_code import TRAVELLING_FILES


def test_configuration_and_save_pretrained_push_too(hub, tmp_path):
    head = make_head("Data2VecForSequenceClassification")
    head.config.push_to_hub("user/config")
    assert set(TRAVELLING_FILES) <= set(hub.files("user/config"))
    head.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id="user/saved")
    assert {"model.safetensors", *TRAVELLING_FILES} <= set(hub.files("user/saved"))
    again = Data2VecForSequenceClassification.from_pretrained("user/saved")
    assert torch.equal(again.classifier.dense.weight, head.classifier.dense.weight)
