"""Any head from any checkpoint: pretraining, plain encoder, another head; and pretraining and encoder from any head.

A head takes what has its name and reports the rest, as every model of transformers does: what it lacks as missing, the
other head's weights as unexpected. The teacher, the decoders and the other front ends are left behind in silence.
"""

import logging
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import transformers
from head_factory import HEADS, PARTS, head_class, head_inputs, head_labels, make_head, objective
from model_factory import HIDE_PACKAGE, MODALITIES, inputs_for, randomise, tiny_config
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForPreTraining

from modeling_d2v import Data2VecForPreTraining, Data2VecModel


POISON = 7.25
TIED = {"lm_head.decoder.weight"}  # the token embedding, which is in every checkpoint
OTHERS = {
    f"{name}-from-{other}": (name, other)
    for name in HEADS
    for other in HEADS
    if name != other and HEADS[name].modality == HEADS[other].modality
}
AUTOS = ["AutoModel", "AutoModelForPreTraining", *(head.auto for head in HEADS.values())]
SOME_AUTOS = ["AutoModelForMaskedLM", "AutoModelForCTC", "AutoModelForImageClassification"]


class Checkpoint(NamedTuple):
    """A folder, and the tensors in it by name."""

    folder: Path
    tensors: dict[str, torch.Tensor]


def save(model: torch.nn.Module, folder: Path) -> Checkpoint:
    model.save_pretrained(folder)
    return Checkpoint(folder, load_file(folder / "model.safetensors"))


def joint_config(**overrides):
    return tiny_config(**{f"{name}_config": part for name, part in PARTS.items()}, num_labels=3, **overrides)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Checkpoint:
    """A joint pretraining checkpoint whose teacher differs from its student."""
    torch.manual_seed(0)
    model = Data2VecForPreTraining(joint_config())
    randomise(model.data2vec)
    return save(model, tmp_path_factory.mktemp("pretrained"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Checkpoint:
    """A joint encoder without anything else."""
    torch.manual_seed(1)
    return save(randomise(Data2VecModel(joint_config())), tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> dict[str, Checkpoint]:
    """A checkpoint of every head."""
    return {name: save(make_head(name), tmp_path_factory.mktemp(name)) for name in HEADS}


@pytest.fixture(autouse=True)
def hub_knows_every_folder(monkeypatch):
    """AutoBackbone asks the Hub for a name that may be a folder as well; here there is no Hub."""
    monkeypatch.setattr("huggingface_hub.HfApi.repo_exists", lambda self, name: True)


@pytest.fixture
def poisoned(monkeypatch):
    """Loading makes tensors with `empty`: this number stays where nothing else is written."""
    plain_empty_like = torch.empty_like

    def empty_like(*args, **kwargs):
        tensor = plain_empty_like(*args, **kwargs)
        return tensor if tensor.is_meta else tensor.fill_(POISON)

    monkeypatch.setattr(torch, "empty_like", empty_like)


def own_names(model: torch.nn.Module) -> set[str]:
    """Names of a head's weights, the encoder left out, that its checkpoints hold."""
    return {key for key in model.state_dict() if not key.startswith("data2vec.")} - TIED


def heads_names(tensors: dict[str, torch.Tensor]) -> set[str]:
    """Names in a checkpoint that belong to a head."""
    plain = ("encoder.", "modality_encoders.")
    rest = {
        name for name in tensors if not name.startswith(("data2vec.", "teacher.", "decoders.", "ema_step", *plain))
    }
    return rest


def encoder_of(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of the encoder in a checkpoint with or without a head, by their name in the encoder."""
    plain = not any(name.startswith("data2vec.") for name in tensors)
    return {name.removeprefix("data2vec."): x for name, x in tensors.items() if plain or name.startswith("data2vec.")}


def assert_encoder_is(model: Data2VecModel, tensors: dict[str, torch.Tensor]) -> None:
    source = encoder_of(tensors)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, source[name]), name


def assert_freshly_initialised(name: str, model: torch.nn.Module, keys: set[str]) -> None:
    """The weights `keys` are drawn as those of a new model are."""
    fresh = head_class(name)(model.config).state_dict()
    for key in keys:
        mine, new = model.state_dict()[key].float(), fresh[key].float()
        assert not (mine == POISON).any() and torch.isfinite(mine).all(), key
        if new.numel() == 1 or new.std() == 0:
            assert torch.equal(mine, new), key
        elif new.numel() >= 32:
            assert 0.6 < mine.std() / new.std() < 1.6 and not torch.equal(mine, new), key


def check_head(name: str, source: Checkpoint, load, **options) -> None:
    """Loads a head and checks encoder, head and report."""
    model, info = load(source.folder, output_loading_info=True, **options)
    own = own_names(model)
    assert type(model) is head_class(name) and model.config.modalities == [HEADS[name].modality]
    assert_encoder_is(model.data2vec, source.tensors)
    state = model.state_dict()
    taken = {key for key in own & source.tensors.keys() if source.tensors[key].shape == state[key].shape}
    assert set(info["missing_keys"]) == own - source.tensors.keys()
    assert {entry[0] for entry in info["mismatched_keys"]} == (own & source.tensors.keys()) - taken
    assert not info["error_msgs"]
    assert set(info["unexpected_keys"]) == heads_names(source.tensors) - own
    assert all(torch.equal(state[key], source.tensors[key]) for key in taken)
    assert_freshly_initialised(name, model, own - taken)
    assert torch.isfinite(objective(model(**head_inputs(name), **head_labels(name))))


# Heads


@pytest.mark.parametrize("name", HEADS)
def test_a_head_from_a_joint_pretraining_checkpoint(name, pretrained, poisoned, caplog):
    transformers.logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        check_head(name, pretrained, getattr(transformers, HEADS[name].auto).from_pretrained)
    transformers.logging.disable_propagation()
    # The report of transformers names what is missing, and nothing else.
    assert "UNEXPECTED" not in caplog.text and "MISMATCH" not in caplog.text
    assert ("MISSING" in caplog.text) == bool(own_names(make_head(name)))


@pytest.mark.parametrize("name", HEADS)
def test_a_head_from_a_joint_encoder(name, encoder, poisoned):
    check_head(name, encoder, getattr(transformers, HEADS[name].auto).from_pretrained)


@pytest.mark.parametrize(("name", "other"), OTHERS.values(), ids=OTHERS)
def test_a_head_from_another_head(name, other, heads, poisoned):
    """Weights of one name and shape are taken over; as in transformers, others need `ignore_mismatched_sizes`."""
    check_head(name, heads[other], head_class(name).from_pretrained, ignore_mismatched_sizes=True)


def test_weights_of_another_shape_are_an_error_unless_they_may_be_left_out(heads):
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        head_class("Data2VecForMultipleChoice").from_pretrained(heads["Data2VecForTokenClassification"].folder)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_from_its_own_checkpoint_with_another_number_of_labels(name, heads):
    source = heads[name]
    options = {"num_labels": 5, "ignore_mismatched_sizes": True}
    model, info = head_class(name).from_pretrained(source.folder, output_loading_info=True, **options)
    assert model.config.num_labels == 5 and not info["missing_keys"] and not info["unexpected_keys"]
    assert_encoder_is(model.data2vec, source.tensors)
    outputs = {entry[0] for entry in info["mismatched_keys"]}
    own = own_names(model)
    assert outputs <= own and bool(outputs) == any(5 in model.state_dict()[key].shape for key in own)


@pytest.mark.parametrize("name", HEADS)
def test_a_modality_that_the_checkpoint_lacks(name, tmp_path):
    present = [modality for modality in MODALITIES if modality != HEADS[name].modality]
    Data2VecForPreTraining(tiny_config(tuple(present))).save_pretrained(tmp_path)
    message = f"{name} works on {HEADS[name].modality} .* has {', '.join(present)} only"
    with pytest.raises(ValueError, match=message):
        getattr(transformers, HEADS[name].auto).from_pretrained(tmp_path)


def test_a_pre_norm_encoder_gives_its_final_norm_to_the_heads_that_read_it(tmp_path):
    model = Data2VecForPreTraining(joint_config(norm_first=True))
    randomise(model.data2vec)
    source = save(model, tmp_path)
    for name in ("Data2VecForTokenClassification", "Data2VecForCTC", "Data2VecForImageClassification"):
        loaded, info = head_class(name).from_pretrained(source.folder, output_loading_info=True)
        assert set(info["missing_keys"]) == own_names(loaded) and not info["unexpected_keys"]
        assert_encoder_is(loaded.data2vec, source.tensors)
        assert ("encoder.norm.weight" in loaded.data2vec.state_dict()) == (HEADS[name].modality != "vision")


# Back from a head


@pytest.mark.parametrize("name", HEADS)
def test_pretraining_goes_on_from_a_head(name, heads, poisoned):
    source = heads[name]
    model, info = AutoModelForPreTraining.from_pretrained(source.folder, output_loading_info=True)
    assert type(model) is Data2VecForPreTraining and model.config.modalities == [HEADS[name].modality]
    assert_encoder_is(model.data2vec, source.tensors)
    for key, parameter in model.teacher.named_parameters():
        assert torch.equal(parameter, model.data2vec.get_parameter(key)), key
    assert model.ema_step == 0 and not any(p.requires_grad for p in model.teacher.parameters())
    assert {key.split(".")[0] for key in info["missing_keys"]} == {"teacher", "decoders", "ema_step"}
    assert set(info["unexpected_keys"]) == heads_names(source.tensors) == own_names(make_head(name))
    assert not any((tensor == POISON).any() for tensor in model.state_dict().values())
    assert torch.isfinite(model(**inputs_for(HEADS[name].modality)).loss)


@pytest.mark.parametrize("name", HEADS)
def test_the_encoder_out_of_a_head(name, heads, poisoned):
    source = heads[name]
    model, info = AutoModel.from_pretrained(source.folder, output_loading_info=True)
    assert type(model) is Data2VecModel and not info["missing_keys"]
    assert set(info["unexpected_keys"]) == heads_names(source.tensors) == own_names(make_head(name))
    assert_encoder_is(model, source.tensors)
    assert model.state_dict().keys() == encoder_of(source.tensors).keys()


# Without the package


ALONE = (
    HIDE_PACKAGE
    + """
import sys, torch
import huggingface_hub, transformers
huggingface_hub.HfApi.repo_exists = lambda self, name: True
again = sys.argv[1]
"""
)
SAVED_AGAIN = """
folder = sys.argv[2]
out = dict()
for auto, inputs in torch.load(again + "/inputs.pt").items():
    auto_class = getattr(transformers, auto)
    model = auto_class.from_pretrained(folder, trust_remote_code=True).eval()
    model.save_pretrained(f"{again}/{auto}")
    model = auto_class.from_pretrained(f"{again}/{auto}", trust_remote_code=True).eval()
    torch.manual_seed(0)
    output = model(**inputs)
    modules = {type(module).__module__ for module in model.modules()}
    out[auto] = dict(name=type(model).__name__, first=output[0], modules=modules)
torch.save(out, again + "/out.pt")
"""


FROM_OTHERS = """
out = dict()
for auto, folder in torch.load(again + "/inputs.pt"):
    load = getattr(transformers, auto).from_pretrained
    model, info = load(folder, trust_remote_code=True, ignore_mismatched_sizes=True, output_loading_info=True)
    report = {kind: sorted(map(str, entries)) for kind, entries in info.items()}
    out[auto, folder] = dict(module=type(model).__module__, report=report, state=dict(model.state_dict()))
torch.save(out, again + "/out.pt")
"""


def run_alone(script: str, folder: Path, *arguments: Path) -> None:
    """Runs a script where the package cannot be imported."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE + script, str(folder), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("autos", [SOME_AUTOS, pytest.param(AUTOS, marks=pytest.mark.slow)], ids=["some", "all"])
def test_auto_classes_where_the_package_is_not_importable(autos, pretrained, tmp_path):
    """In one process: each head from the pretraining checkpoint, saved, loaded again with the code that it carries."""
    batches = {head.auto: head_inputs(name) | head_labels(name) for name, head in HEADS.items()}
    batches |= {"AutoModel": inputs_for("audio"), "AutoModelForPreTraining": inputs_for("vision")}
    batches = {auto: batches[auto] for auto in autos}
    torch.save(batches, tmp_path / "inputs.pt")
    run_alone(SAVED_AGAIN, tmp_path, pretrained.folder)
    out = torch.load(tmp_path / "out.pt", weights_only=True)
    assert out.keys() == batches.keys()
    for auto, batch in batches.items():
        assert not any(module.startswith("modeling_d2v") for module in out[auto]["modules"])
        model = getattr(transformers, auto).from_pretrained(tmp_path / auto).eval()
        assert type(model).__name__ == out[auto]["name"]
        torch.manual_seed(0)
        expected = model(**batch)[0]
        if isinstance(expected, tuple):
            expected, out[auto]["first"] = expected[0], out[auto]["first"][0]
        torch.testing.assert_close(out[auto]["first"], expected, msg=auto)


@pytest.mark.slow
def test_every_head_from_every_other_where_the_package_is_not_importable(heads, tmp_path):
    """The same report and weights of the encoder as with the package, in one process."""
    pairs = {(HEADS[name].auto, str(heads[other].folder)): (name, heads[other]) for name, other in OTHERS.values()}
    torch.save(list(pairs), tmp_path / "inputs.pt")
    run_alone(FROM_OTHERS, tmp_path)
    out = torch.load(tmp_path / "out.pt", weights_only=True)
    assert out.keys() == pairs.keys()
    for pair, (name, source) in pairs.items():
        assert out[pair]["module"].startswith("transformers_modules.")
        model, info = head_class(name).from_pretrained(
            source.folder, ignore_mismatched_sizes=True, output_loading_info=True
        )
        assert out[pair]["report"] == {kind: sorted(map(str, entries)) for kind, entries in info.items()}
        state = out[pair]["state"]
        assert state.keys() == model.state_dict().keys()
        assert all(torch.isfinite(tensor).all() for tensor in state.values())
        encoder = encoder_of(source.tensors)
        assert all(torch.equal(state[f"data2vec.{key}"], encoder[key]) for key in model.data2vec.state_dict())
