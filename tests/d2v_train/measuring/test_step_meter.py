"""What is told of the steps of a window, for people and for the log."""

import json

import torch

from d2v_train.measuring.step_meter import MetricsWindow, one_line


def test_a_line_for_people_tells_speed_and_time_left():
    record = {"step": 40, "lr": 1e-3, "vision/loss": 0.51234, "samples_per_s": 120.04, "utilisation": 0.417,
              "data_wait": 0.2, "step_seconds": 0.5}  # fmt: skip
    assert one_line(record, 240) == (
        "step 40/240  vision 0.5123  lr 1.00e-03  120.0 samples/s  use 42%  waiting for data 20%  left 2 min"
    )
    assert "waiting" not in one_line({**record, "data_wait": 0.01}, 240)
    compared = {"vision/shared_gradient_cosine": 0.5, "shared_gradient_cosine/audio_vision": -0.034}
    assert "lr 1.00e-03  cosines audio_vision -0.03  120.0" in one_line(record | compared, 240)


def test_window_averages_by_weight_and_survives_a_checkpoint():
    window = MetricsWindow()
    window.add("loss", torch.tensor(1.0))
    window.add("loss", 0.5, 0)  # a second micro-batch of the same step
    copy = MetricsWindow()
    copy.load_state_dict(json.loads(json.dumps(window.state_dict())))
    for each in (window, copy):
        each.add("loss", 2.5)
        assert each.means() == {"loss": 2.0}


def test_window_sums_over_processes():
    window = MetricsWindow()
    window.add("loss", 3.0)
    assert window.means(lambda sums: sums + torch.tensor([[1.0], [1.0]])) == {"loss": 2.0}


def test_what_was_counted_nowhere_is_left_out():
    window = MetricsWindow()
    for value in ("nan", 0.25, 0.75):
        window.add_if_known("share", torch.tensor(float(value)))
    window.add_if_known("unknown", torch.tensor(float("nan")))
    copy = MetricsWindow()
    copy.load_state_dict(json.loads(json.dumps(window.state_dict())))
    assert window.means() == copy.means() == {"share": 0.5}
    # Another process knows the second value, too, and nothing of the first.
    other = torch.tensor([[0.0, 3.0], [0.0, 1.0]])
    assert window.means(lambda sums: sums + other) == {"share": 0.5, "unknown": 3.0}
