"""Image heads: pooling, losses, soft labels, pyramids of several patch sizes, image sizes, backbone maps, errors."""

import pytest
import torch
from model_factory import inputs_for, randomise, tiny_config, version_config
from torch.nn import functional as F
from transformers import (
    AutoBackbone,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from modeling_d2v import (
    Data2VecBackbone,
    Data2VecConfig,
    Data2VecForImageClassification,
    Data2VecForPreTraining,
    Data2VecForSemanticSegmentation,
    Data2VecModel,
)


LABELS = 3
SMALL = {"auxiliary_channels": 8, "pool_scales": [1, 2]}


def classifier(version: str = "2.0", **overrides) -> Data2VecForImageClassification:
    values = {"num_labels": LABELS} | overrides
    return randomise(Data2VecForImageClassification(version_config(version, "vision", **values))).eval()


def segmenter(**overrides) -> Data2VecForSemanticSegmentation:
    vision = SMALL | overrides.pop("vision_config", {})
    values = {"num_labels": LABELS, "num_hidden_layers": 4} | overrides
    return randomise(Data2VecForSemanticSegmentation(tiny_config("vision", vision_config=vision, **values))).eval()


def pixel_labels(batch: int = 2, height: int = 32, width: int = 32) -> torch.Tensor:
    labels = torch.randint(0, LABELS, (batch, height, width), generator=torch.Generator().manual_seed(1))
    labels[:, :5] = 255
    return labels


# Classification


@pytest.mark.parametrize("version", ["2.0", "2.0 pre-norm", "1.0"])
def test_the_mean_of_the_patches_is_normalised_after_pooling(version):
    model = classifier(version)
    output = model(**inputs_for("vision"), output_hidden_states=True)
    patches = output.hidden_states[-1][:, 1:]  # as the last block gives them: a pre-norm encoder has no final norm
    torch.testing.assert_close(output.logits, model.classifier(model.fc_norm(patches.mean(dim=1))))
    assert not any("encoder.norm" in name for name in model.state_dict())


@pytest.mark.parametrize("version", ["2.0", "2.0 pre-norm"])
def test_the_last_extra_token_can_be_classified_instead(version):
    model = classifier(version, vision_config={"use_mean_pooling": False, "num_extra_tokens": 2})
    output = model.data2vec(**inputs_for("vision"))
    torch.testing.assert_close(
        model(**inputs_for("vision")).logits, model.classifier(output.last_hidden_state[:, 1]), rtol=0, atol=0
    )
    assert ("data2vec.encoder.norm.weight" in model.state_dict()) == (version == "2.0 pre-norm")
    with pytest.raises(ValueError, match="`num_extra_tokens`.*1"):
        classifier(vision_config={"use_mean_pooling": False, "num_extra_tokens": 0, "cls_loss_weight": 0.0})


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("version", ["2.0", "2.0 pre-norm", "1.0"])
@pytest.mark.parametrize("head", [Data2VecForImageClassification, Data2VecForSemanticSegmentation, Data2VecBackbone])
def test_a_pretraining_checkpoint_lacks_the_head_alone(tmp_path, version, extra, head):
    vision = {"num_extra_tokens": extra, "cls_loss_weight": 0.0}
    pretrained = Data2VecForPreTraining(version_config(version, "vision", vision_config=vision))
    randomise(pretrained.data2vec).save_pretrained(tmp_path)
    model, info = head.from_pretrained(tmp_path, output_loading_info=True)
    own = {name for name in model.state_dict() if not name.startswith("data2vec.")}
    assert set(info["missing_keys"]) == own
    assert not info["unexpected_keys"]
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    images = inputs_for("vision")
    expected = pretrained.data2vec.eval()(**images, output_hidden_states=True).hidden_states[-1]
    actual = model.data2vec.eval()(**images, output_hidden_states=True).hidden_states[-1]
    assert torch.equal(actual, expected)


def test_new_weights_of_a_head_start_right(tmp_path, monkeypatch):
    """Loading makes tensors with `empty`; poisoned ones must all be overwritten, statistics of batch norm too."""
    Data2VecModel(tiny_config("vision", vision_config=SMALL)).save_pretrained(tmp_path)
    plain = torch.empty_like

    def poisoned(*args, **kwargs):
        tensor = plain(*args, **kwargs)
        return tensor if tensor.is_meta else tensor.fill_(77)

    monkeypatch.setattr(torch, "empty_like", poisoned)
    model = Data2VecForSemanticSegmentation.from_pretrained(tmp_path)
    for name, tensor in model.state_dict().items():
        assert (tensor != 77).all(), name
        if name.endswith("running_var"):
            assert (tensor == 1).all()
        elif name.endswith(("running_mean", "num_batches_tracked")):
            assert (tensor == 0).all()
    start = Data2VecForImageClassification.from_pretrained(tmp_path)
    assert (start.fc_norm.weight == 1).all() and (start.classifier.bias == 0).all()
    assert 0.01 < start.classifier.weight.std() < 0.03


def test_soft_labels_are_probabilities_where_the_problem_says_so():
    images = inputs_for("vision")
    soft = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.5, 0.5]])
    model = classifier(problem_type="single_label_classification")
    output = model(**images, labels=soft)
    torch.testing.assert_close(output.loss, -(soft * output.logits.log_softmax(dim=1)).sum(dim=1).mean())
    hard = torch.tensor([2, 0])
    one_hot = F.one_hot(hard, LABELS).float()
    torch.testing.assert_close(model(**images, labels=one_hot).loss, model(**images, labels=hard).loss)
    assert torch.isfinite(model(**images, labels=one_hot.bfloat16()).loss)

    flags = classifier()
    output = flags(**images, labels=one_hot)
    torch.testing.assert_close(output.loss, F.binary_cross_entropy_with_logits(output.logits, one_hot))
    assert flags.config.problem_type == "multi_label_classification"


@pytest.mark.parametrize("row", [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.5, -0.5, 0.0]])
def test_soft_labels_that_are_no_distribution(row):
    model = classifier(problem_type="single_label_classification")
    with pytest.raises(ValueError, match="multi_label_classification"):
        model(**inputs_for("vision"), labels=torch.tensor([[1.0, 0.0, 0.0], row]))


@pytest.mark.parametrize("soft", [True, False])
def test_accumulated_batches_give_the_loss_of_the_whole(soft):
    model = classifier(problem_type="single_label_classification")
    images, labels = inputs_for("vision", batch=3)["pixel_values"], torch.tensor([0, 2, 1])
    labels = F.one_hot(labels, LABELS) * 0.7 + 0.1 if soft else labels
    count = labels.ne(-100).sum()  # as `Trainer` counts
    parts = [
        model(pixel_values=images[rows], labels=labels[rows], num_items_in_batch=count).loss
        for rows in (slice(0, 1), slice(1, 3))
    ]
    torch.testing.assert_close(sum(parts), model(pixel_values=images, labels=labels).loss)


def test_dropout_of_the_classifier():
    model = classifier(vision_config={"classifier_dropout": 0.5}).train()
    images = inputs_for("vision")
    assert not torch.equal(model(**images).logits, model(**images).logits)
    with pytest.raises(ValueError, match="classifier_dropout"):
        classifier(vision_config={"classifier_dropout": 1.0})


# Segmentation


def test_other_mistakes():
    with pytest.raises(ValueError, match="`num_labels`.*2"):
        segmenter(num_labels=1)(**inputs_for("vision"), labels=pixel_labels().clamp(max=0))
    with pytest.raises(ValueError, match="1 x 1.*4 x 4"):
        segmenter()(**inputs_for("vision", size=8))
    with pytest.raises(ValueError, match="one image"):
        segmenter().train()(**inputs_for("vision", batch=1))
    for field, wrong in [("pool_scales", []), ("auxiliary_num_convs", 0), ("auxiliary_loss_weight", -1)]:
        with pytest.raises(ValueError, match=field):
            tiny_config("vision", vision_config={field: wrong})
    for head in (Data2VecForImageClassification, Data2VecForSemanticSegmentation, Data2VecBackbone):
        with pytest.raises(ValueError, match="vision"):
            head(tiny_config("text"))
        with pytest.raises(ValueError, match="`pixel_values`"):
            head(tiny_config("vision", vision_config=SMALL))(pixel_values=None)


# All of them


@pytest.mark.parametrize("concat", [True, False])
def test_gradients_reach_every_parameter(concat):
    segmentation = segmenter(vision_config={"auxiliary_concat_input": concat, "auxiliary_num_convs": 2})
    for model, labels in [(classifier(), torch.tensor([0, 2])), (segmentation, pixel_labels())]:
        model.train()(**inputs_for("vision"), labels=labels).loss.backward()
        without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
        assert not without
        model.zero_grad(set_to_none=True)
        model.freeze_base_model()
        model(**inputs_for("vision"), labels=labels).loss.backward()
        trained = {name for name, p in model.named_parameters() if p.grad is not None}
        assert trained and not any(name.startswith("data2vec.") for name in trained)


@pytest.mark.parametrize("version", ["2.0", "1.0"])
@pytest.mark.parametrize("height, width", [(48, 32), (32, 64), (40, 40)])
def test_images_of_other_sizes(version, height, width):
    pixels = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    assert classifier(version)(pixel_values=pixels, interpolate_pos_encoding=True).logits.shape == (2, LABELS)
    config = version_config(version, "vision", num_labels=LABELS, vision_config=SMALL)
    labels = pixel_labels(2, height, width)
    output = Data2VecForSemanticSegmentation(config)(pixel_values=pixels, labels=labels)
    assert output.logits.shape == (2, LABELS, height // 4, width // 4)
    (features,) = Data2VecBackbone(config)(pixels).feature_maps
    assert features.shape == (2, 32, height // 8, width // 8)
    with pytest.raises(ValueError, match="multiples of 8"):
        classifier(version)(pixel_values=pixels[..., :-1])


@pytest.mark.parametrize(
    "auto, head",
    [
        (AutoModelForImageClassification, Data2VecForImageClassification),
        (AutoModelForSemanticSegmentation, Data2VecForSemanticSegmentation),
    ],
)
def test_auto_classes(auto, head, tmp_path):
    config = tiny_config(vision_config=SMALL, id2label={0: "sky", 1: "sea"}, label2id={"sky": 0, "sea": 1})
    model = randomise(head(config)).eval()
    model.save_pretrained(tmp_path)
    again = auto.from_pretrained(tmp_path).eval()
    assert type(again) is head and again.config.id2label == {0: "sky", 1: "sea"}
    # Weights lie elsewhere in memory after loading, where convolutions may round in another way.
    torch.testing.assert_close(again(**inputs_for("vision")).logits, model(**inputs_for("vision")).logits)


# Backbone


def test_maps_are_the_hidden_states_in_their_places():
    config = tiny_config("vision", num_hidden_layers=4, out_features=["stem", "stage2", "stage4"])
    model = randomise(Data2VecBackbone(config)).eval()
    assert model.out_indices == [0, 2, 4] and model.channels == [32] * 3
    output = model(torch.randn(2, 3, 40, 32), output_hidden_states=True)
    assert len(output.hidden_states) == 5
    for number, features in zip((0, 2, 4), output.feature_maps, strict=True):
        assert features.shape == (2, 32, 5, 4)
        assert torch.equal(features[:, :, 3, 1], output.hidden_states[number][:, 1 + 3 * 4 + 1])
    assert model(**inputs_for("vision")).hidden_states is None
    assert isinstance(model(**inputs_for("vision"), return_dict=False), tuple)


def test_levels_are_part_of_the_configuration(tmp_path, monkeypatch):
    Data2VecForPreTraining(tiny_config("vision")).save_pretrained(tmp_path)
    model = Data2VecBackbone.from_pretrained(tmp_path)
    assert model.out_features == ["stage2"] and model.config.out_indices == [2]
    # transformers asks the Hub for a name that may be a folder as well; here there is no Hub.
    monkeypatch.setattr("huggingface_hub.HfApi.repo_exists", lambda self, name: True)
    model = AutoBackbone.from_pretrained(tmp_path, out_indices=[0, 1])
    assert type(model) is Data2VecBackbone and model.out_features == ["stem", "stage1"]
    model.save_pretrained(tmp_path / "again")
    again = Data2VecConfig.from_pretrained(tmp_path / "again")
    assert again.out_indices == [0, 1] and again.out_features == ["stem", "stage1"]
    assert len(AutoBackbone.from_pretrained(tmp_path / "again")(**inputs_for("vision")).feature_maps) == 2
    with pytest.raises(ValueError, match="out_features"):
        tiny_config("vision", out_features=["stage3"])
    with pytest.raises(ValueError, match="out_indices"):
        tiny_config("vision", out_indices=[3])


def test_a_framework_of_transformers_takes_the_backbone(tmp_path):
    backbone = tiny_config("vision", num_hidden_layers=4, out_indices=[1, 2, 3, 4])
    config = UperNetConfig(
        backbone_config=backbone, hidden_size=16, auxiliary_in_channels=32, auxiliary_channels=8, num_labels=LABELS
    )
    model = randomise(UperNetForSemanticSegmentation(config))
    assert type(model.backbone) is Data2VecBackbone
    model.train()(**inputs_for("vision"), labels=pixel_labels()).loss.backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if name.startswith("backbone."))
    model.eval().save_pretrained(tmp_path)
    again = UperNetForSemanticSegmentation.from_pretrained(tmp_path).eval()
    logits = again(**inputs_for("vision")).logits
    assert logits.shape == (2, LABELS, 32, 32)
    torch.testing.assert_close(logits, model(**inputs_for("vision")).logits)
