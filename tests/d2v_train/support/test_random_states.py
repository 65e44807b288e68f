"""Random generators go on where they were."""

import random

import numpy as np
import torch

from d2v_train.support.random_states import random_states, restore_random_states


def draws():
    # Odd numbers of normal ones: Python and NumPy keep the second of a pair.
    return [random.random(), random.gauss(0, 1), np.random.normal(), np.random.rand(), torch.randn(3).tolist()]


def test_draws_after_a_restart_are_those_that_would_have_come(tmp_path):
    draws()
    torch.save(random_states(), tmp_path / "states.pt")
    expected = [draws(), draws()]
    random.seed(9), np.random.seed(9), torch.manual_seed(9)
    assert draws() not in expected
    # As a checkpoint is read: nothing in it may need code.
    restore_random_states(torch.load(tmp_path / "states.pt", weights_only=True))
    assert [draws(), draws()] == expected
