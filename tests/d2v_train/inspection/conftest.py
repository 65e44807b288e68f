"""Models and items that the tests of this room share."""

import numpy as np
import pytest
import torch
from model_factory import inputs_for, randomise, tiny_config

from d2v_train.inspection.activations import ConceptItems
from modeling_d2v import Data2VecModel


@pytest.fixture
def joint_model():
    """A tiny encoder of text, images and speech with random weights."""
    return randomise(Data2VecModel(tiny_config())).eval()


@pytest.fixture
def joint_items():
    """By modality, six items of three concepts; texts and recordings differ in length."""
    parts = {}
    for modality in ("text", "vision", "audio"):
        items = []
        for number in range(6):
            size = None if modality == "vision" else (8 + number if modality == "text" else 2000 + 320 * number)
            ((name, values),) = inputs_for(modality, batch=1, seed=number, size=size).items()
            items.append({name: values[0]})
        parts[modality] = ConceptItems(modality, items, np.arange(6) % 3)
    return parts


@pytest.fixture
def one(joint_items):
    """By modality, the inputs of the model for one sample."""
    found = {}
    for modality, part in joint_items.items():
        found[modality] = {name: value[None] for name, value in part.items[0].items()}
    return found


@pytest.fixture
def direction():
    """A direction in the space of the states."""
    return torch.randn(32, generator=torch.Generator().manual_seed(1)).numpy()
