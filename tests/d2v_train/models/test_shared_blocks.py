"""Shared blocks taken from a checkpoint of another modality, and blocks that stay as they are."""

import pytest
import torch
from model_factory import randomise, tiny_config
from tiny_run import DROPOUT, assert_same_run, log, pretrain, stopped_before, tiny, weights, write_config

from d2v_train.models.shared_blocks import freeze_blocks, take_blocks, with_block_fields
from d2v_train.options.errors import OptionError
from modeling_d2v import Data2VecForPreTraining, Data2VecModel


BLOCKS = "data2vec.encoder."


def saved(folder, modalities, **settings):
    """A pretraining checkpoint whose weights all differ, and its student's blocks."""
    model = randomise(Data2VecForPreTraining(tiny_config(modalities, **settings)))
    model.save_pretrained(folder)
    return model.data2vec.encoder.state_dict()


def taken(folder, modalities, **settings):
    model = Data2VecForPreTraining(tiny_config(modalities, **settings))
    front_end = {name: value.clone() for name, value in model.data2vec.modality_encoders.state_dict().items()}
    take_blocks(model, str(folder))
    after = model.data2vec.modality_encoders.state_dict()
    assert all(torch.equal(after[name], value) for name, value in front_end.items())
    for name, value in model.teacher.encoder.state_dict().items():
        assert torch.equal(value, model.data2vec.encoder.state_dict()[name])
    return model.data2vec.encoder.state_dict()


def test_blocks_of_another_modality(tmp_path):
    source = saved(tmp_path, "vision", norm_first=True)
    found = taken(tmp_path, ("audio", "text"), norm_first=True)
    assert found.keys() == source.keys() and all(torch.equal(found[name], source[name]) for name in source)
    encoder = Data2VecModel.from_pretrained(tmp_path)
    encoder.save_pretrained(tmp_path / "encoder")
    found = taken(tmp_path / "encoder", "audio", norm_first=True)
    assert all(torch.equal(found[name], source[name]) for name in source)


def test_shared_parts_become_those_of_every_modality_and_back(tmp_path):
    own = {"norms": "per_modality", "feed_forward": "per_modality"}
    source = saved(tmp_path / "shared", "vision")
    found = taken(tmp_path / "shared", ("audio", "text"), **own)
    for name in ("audio", "text"):
        assert torch.equal(found[f"blocks.1.norm2.{name}.weight"], source["blocks.1.norm2.weight"])
        assert torch.equal(found[f"blocks.0.mlp.{name}.fc1.weight"], source["blocks.0.mlp.fc1.weight"])
    source = saved(tmp_path / "own", "vision", **own)
    found = taken(tmp_path / "own", "audio")
    assert torch.equal(found["blocks.0.mlp.fc2.bias"], source["blocks.0.mlp.vision.fc2.bias"])
    found = taken(tmp_path / "own", "audio", **own)
    assert torch.equal(found["blocks.0.norm1.audio.bias"], source["blocks.0.norm1.vision.bias"])


def test_parts_of_several_modalities_are_not_one(tmp_path, caplog):
    source = saved(tmp_path, ("vision", "text"), norms="per_modality")
    with pytest.raises(OptionError, match="model.norms to per_modality"):
        taken(tmp_path, "audio")
    found = taken(tmp_path, ("audio", "text"), norms="per_modality")
    assert "for audio: these are new" in caplog.text
    assert torch.equal(found["blocks.0.norm1.text.weight"], source["blocks.0.norm1.text.weight"])
    assert (found["blocks.0.norm1.audio.weight"] == 1).all()


def test_sizes_are_those_of_the_checkpoint():
    start = tiny_config("vision", norm_first=True)
    fields = with_block_fields({"modalities": ["audio"], "ema_decay": 0.5}, start, "there")
    assert (fields["hidden_size"], fields["norm_first"], fields["ema_decay"]) == (32, True, 0.5)
    with pytest.raises(OptionError, match="there: hidden_size is 64 instead of 32"):
        with_block_fields({"hidden_size": 64}, start, "there")


def test_what_modalities_have_of_their_own_is_trained():
    model = Data2VecForPreTraining(tiny_config(("vision", "audio"), norms="per_modality"))
    freeze_blocks(model)
    trained = {name for name, value in model.data2vec.encoder.named_parameters() if value.requires_grad}
    assert trained == {name for name, _ in model.data2vec.encoder.named_parameters() if "norm" in name}
    shared = model.data2vec.encoder.shared_parameters()
    assert shared.keys().isdisjoint(trained) and "blocks.1.mlp.fc1.weight" in shared


def test_a_run_over_frozen_blocks(tmp_path):
    """Weight decay does not move them, the teacher has them, and a resumed run is the same."""
    vision = write_config(tmp_path, tiny("vision", max_steps=2))
    pretrain(vision, tmp_path / "vision")
    final = tmp_path / "vision" / "final"
    audio = write_config(tmp_path, tiny("audio", optim={"weight_decay": 0.5}, checkpoints={"every": 2}))
    with pytest.raises(OptionError, match="init_parts=blocks"):
        pretrain(audio, tmp_path / "refused", f"init_from={final}")
    options = [f"init_from={final}", "init_parts=blocks", "freeze=blocks", DROPOUT]
    pretrain(audio, tmp_path / "whole", *options)
    before, after = weights(tmp_path / "vision"), weights(tmp_path / "whole")
    blocks = [name for name in before if name.startswith(BLOCKS)]
    assert len(blocks) > 20 and all(torch.equal(before[name], after[name]) for name in blocks)
    assert all(torch.equal(after[name], after[name.replace("data2vec.", "teacher.", 1)]) for name in blocks)
    assert log(tmp_path / "whole")[-1]["audio/loss"] != log(tmp_path / "whole")[0]["audio/loss"]
    with stopped_before(3):
        pretrain(audio, tmp_path / "resumed", *options)
    pretrain(audio, tmp_path / "resumed", *options)
    assert_same_run(tmp_path / "whole", tmp_path / "resumed")
    with pytest.raises(OptionError, match="freeze"):
        pretrain(audio, tmp_path / "resumed", *options, "freeze=null")


@pytest.mark.parametrize(
    "options, message",
    [
        (["init_parts=blocks"], "Give init_from"),
        (["freeze=blocks", "logging.gradients_every=2"], "freeze=blocks leaves"),
        (["freeze=all"], "freeze is"),
    ],
)
def test_options_that_contradict_each_other(tmp_path, options, message):
    with pytest.raises(OptionError, match=message):
        pretrain(write_config(tmp_path, tiny("audio")), tmp_path / "run", *options)
