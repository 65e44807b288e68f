"""Every task head over the perceiver front end: results of each element or frame, gradients, padding, saving."""

import pytest
import torch
from head_factory import HEADS, head_class, head_config, head_inputs, make_head, objective, padded_head_inputs, results
from model_factory import FRONT_ENDS


SETTINGS = dict(FRONT_ENDS[f"{name} perceiver"] for name in ("text", "vision", "audio"))
FIRST = {"text": 20, "audio": 19, "vision": 64}


def overrides(name):
    modality = HEADS[name].modality
    return {f"{modality}_config": SETTINGS[modality]}


def labels(name):
    modality = HEADS[name].modality
    # Frames are groups of 320 samples, the last of which is not full.
    return HEADS[name].labels(3, FIRST[modality])


@pytest.mark.parametrize("name", HEADS)
def test_results_losses_and_gradients(name):
    model = make_head(name, **overrides(name)).train()
    output = model(**head_inputs(name), **labels(name))
    assert objective(output).isfinite()
    if HEADS[name].per_token:
        lengths = {x.shape[1] for x in results(output).values()}
        assert lengths == {FIRST[HEADS[name].modality]}, "bytes of a text, frames of a recording"
    objective(output).backward()
    own = [p for key, p in model.named_parameters() if key.startswith(("element_states", "classifier.weight"))]
    assert all(p.grad is not None for p in own)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", [name for name in HEADS if HEADS[name].modality == "text"])
def test_padding_changes_no_result_of_a_text(name, side):
    model = make_head(name, **overrides(name))
    batch, singles = padded_head_inputs(name, side)
    found = results(model(**batch))
    for i, single in enumerate(singles):
        for key, alone in results(model(**single)).items():
            whole = found[key][i]
            if HEADS[name].per_token:
                whole = whole[batch["attention_mask"][i].bool()]
            torch.testing.assert_close(whole, alone[0], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in HEADS if HEADS[name].modality == "audio"])
def test_padding_changes_no_result_of_a_recording(name):
    model = make_head(name, **overrides(name))
    batch, singles = padded_head_inputs(name)
    found = results(model(**batch))
    for i, single in enumerate(singles):
        for key, alone in results(model(**single)).items():
            whole = found[key][i][: alone.shape[1]] if HEADS[name].per_token else found[key][i]
            torch.testing.assert_close(whole, alone[0], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_a_saved_head_gives_the_same(name, tmp_path):
    model = make_head(name, **overrides(name))
    model.save_pretrained(tmp_path)
    again = head_class(name).from_pretrained(tmp_path).eval()
    inputs = head_inputs(name)
    for key, value in results(model(**inputs)).items():
        torch.testing.assert_close(results(again(**inputs))[key], value, atol=1e-7, rtol=1e-6)


def test_a_byte_reads_its_own_group_and_the_others():
    model = make_head("Data2VecForTokenClassification", **overrides("Data2VecForTokenClassification"))
    ids = head_inputs("Data2VecForTokenClassification", 1)["input_ids"]
    logits = model(input_ids=ids).logits
    changed = ids.clone()
    changed[0, 0] = 51 - ids[0, 0]
    moved = (model(input_ids=changed).logits - logits).abs().amax(dim=-1)[0]
    assert (moved > 0).all() and moved[:4].mean() > moved[4:].mean()
    assert (torch.cdist(logits[0], logits[0])[:4, :4] + torch.eye(4) > 1e-4).all(), "bytes of a group differ"


def test_segmentation_needs_tokens_in_rows():
    config = head_config(
        "Data2VecForImageClassification",
        vision_config={**SETTINGS["vision"], "group_size": 24, "mask_sampler": "random"},
    )
    model = head_class("Data2VecForSemanticSegmentation")(config).eval()
    with pytest.raises(ValueError, match="form a line, not rows and columns"):
        model(pixel_values=torch.zeros(2, 3, 32, 32))


def test_the_table_of_bytes_keeps_its_size():
    model = make_head("Data2VecForSequenceClassification", **overrides("Data2VecForSequenceClassification"))
    size = model.config.text_config.vocab_size
    assert model.resize_token_embeddings(size) is not None
    with pytest.raises(ValueError, match="cannot be resized"):
        model.resize_token_embeddings(size + 8)
