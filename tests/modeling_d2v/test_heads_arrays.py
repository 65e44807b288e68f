"""Classifier of arrays: logits, losses, padding, saving."""

import pytest
import torch
from model_factory import inputs_for, padded_inputs, randomise, tiny_config

from modeling_d2v import (
    AutoModelForArrayClassification,
    Data2VecArrayFeatureExtractor,
    Data2VecForArrayClassification,
    Data2VecForPreTraining,
    Data2VecProcessor,
)


def head(modalities="arrays", **settings):
    return randomise(Data2VecForArrayClassification(tiny_config(modalities, num_labels=3, **settings))).eval()


def test_logits_and_losses():
    model, inputs = head(), inputs_for("arrays")
    output = model(**inputs, labels=torch.tensor([0, 2]))
    assert output.logits.shape == (2, 3)
    expected = torch.nn.functional.cross_entropy(output.logits, torch.tensor([0, 2]))
    torch.testing.assert_close(output.loss, expected)
    with pytest.raises(ValueError, match="`labels` holds 3"):
        model(**inputs, labels=torch.tensor([0, 3]))


def test_padding_changes_no_logit():
    model = head()
    batch, alone = padded_inputs("arrays")
    expected = torch.cat([model(**inputs).logits for inputs in alone])
    torch.testing.assert_close(model(**batch).logits, expected)


def test_it_starts_from_a_pretrained_joint_model(tmp_path):
    pretrained = randomise(Data2VecForPreTraining(tiny_config(("vision", "arrays"))))
    pretrained.save_pretrained(tmp_path)
    model = AutoModelForArrayClassification.from_pretrained(tmp_path, num_labels=3, classifier_dropout=0.1)
    assert type(model) is Data2VecForArrayClassification and model.config.modalities == ["arrays"]
    assert model.dropout.p == 0.1
    own = dict(model.data2vec.named_parameters())
    assert own and all(torch.equal(p, pretrained.data2vec.get_parameter(name)) for name, p in own.items())


def test_a_saved_checkpoint_takes_raw_arrays(tmp_path):
    model = head()
    model.save_pretrained(tmp_path)
    extractor = Data2VecArrayFeatureExtractor(num_channels=3, mean=1.0, std=2.0)
    Data2VecProcessor(array_feature_extractor=extractor).save_pretrained(tmp_path)
    processor = Data2VecProcessor.from_pretrained(tmp_path)
    again = AutoModelForArrayClassification.from_pretrained(tmp_path).eval()
    series = [torch.randn(40, 3).numpy(), torch.randn(70, 3).numpy()]
    for inputs in (processor(series, return_tensors="pt"), processor(arrays=series, return_tensors="pt")):
        torch.testing.assert_close(again(**inputs).logits, model(**extractor(series, return_tensors="pt")).logits)


def test_another_modality_is_refused():
    with pytest.raises(ValueError, match="works on arrays"):
        Data2VecForArrayClassification(tiny_config("vision"))
