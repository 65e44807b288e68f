"""Files of the released base sizes, full of random numbers, through the command line and back from the disk."""

import shutil

import pytest
import torch
import transformers
from released_layouts import kind_of, released
from released_settings import ON_DISK

from d2v_train.programs.convert import run_program
from modeling_d2v import Data2VecForPreTraining
from modeling_d2v.conversion.fairseq.layouts import translate, walk_state
from modeling_d2v.conversion.tensors import Place, third


HEADS = {
    "ctc": ("AutoModelForCTC", 32),
    "images": ("AutoModelForImageClassification", 1000),
    "texts": ("AutoModelForSequenceClassification", 2),
}


def with_random_numbers(content, seed=0):
    """The content of a file with memory of its own for every tensor."""
    generator = torch.Generator().manual_seed(seed)

    def fill(value):
        if isinstance(value, dict):
            return {name: fill(inner) for name, inner in value.items()}
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return torch.randn(value.shape, generator=generator) * 0.02
        return value.clone() if isinstance(value, torch.Tensor) else value

    return fill(content)


@pytest.fixture
def folder(tmp_path):
    """A folder for files of a gigabyte, emptied afterwards."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("preset", [preset for preset, task in ON_DISK if task == "pretraining"])
def test_a_pretrained_file_of_base_size(preset, folder):
    content = with_random_numbers(released(preset))
    torch.save(content, folder / "source.pt")
    summary = run_program([str(folder / "source.pt"), str(folder / "out"), "--verify"])
    assert summary.size == preset and summary.kind == kind_of(preset)
    (folder / "source.pt").unlink()
    model = Data2VecForPreTraining.from_pretrained(folder / "out")
    found = model.state_dict()
    state = content["model"] | ({"_ema": content["model_ema"]} if "model_ema" in content else {})
    compared = 0
    for name, tensor, teacher in walk_state(state):
        place = translate(name, kind_of(preset), teacher)
        if isinstance(place, Place):
            mine = found[place.name] if place.part is None else third(found[place.name], place.part)
            assert torch.equal(mine.reshape(tensor.shape), tensor), name
            compared += tensor.numel()
    assert compared > 150e6  # student and teacher
    encoder = transformers.AutoModel.from_pretrained(folder / "out")
    assert all(torch.equal(tensor, found[f"data2vec.{name}"]) for name, tensor in encoder.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("preset, task", [key for key in ON_DISK if key[1] != "pretraining"])
def test_a_fine_tuned_file_of_base_size(preset, task, folder):
    head, rows = HEADS[task]
    content = with_random_numbers(released(preset, task))
    torch.save(content, folder / "source.pt")
    summary = run_program([str(folder / "source.pt"), str(folder / "out"), "--verify"])
    assert summary.size == preset
    model = getattr(transformers, head).from_pretrained(folder / "out")
    weights = [
        tensor for name, tensor in content["model"].items() if tensor.shape[:1] == (rows,) and tensor.dim() == 2
    ]
    assert any(torch.equal(tensor, weight) for tensor in model.state_dict().values() for weight in weights)
