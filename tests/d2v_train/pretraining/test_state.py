"""What a continued run takes over besides weights, optimizer and random states."""

import json

from d2v_train.health.ledger import BadSampleLedger
from d2v_train.health.non_finite import NonFinitePolicy
from d2v_train.measuring.step_meter import StepMeter
from d2v_train.options.sections import HealthOptions
from d2v_train.pretraining.state import states_by_name
from d2v_train.support.jsonl import RunLog
from d2v_train.support.processes import ONE_PROCESS


FLAT = """{
 "step": 7, "skipped": 5, "bad_in_a_row": 2, "bad_steps": 3, "seconds": 1.1514736639999796, "samples": 32, "logged": 5,
 "draws": {"text": [5735, 0], "vision": [40, 4], "audio": [20, 0]},
 "processes": 1,
 "data": {"vision": {"records": 1433, "names": "2fe1c9fb6cd7ce9df7d4274c20fafa74", "samples": 1433}}
}"""
"""`progress.json` of a checkpoint in which the values of all parts lay side by side."""


def parts(folder):
    """Those of a run, which know nothing yet."""
    return {
        "log": RunLog(folder / "log.jsonl"),
        "meter": StepMeter(ONE_PROCESS, None),
        "non_finite": NonFinitePolicy(HealthOptions()),
        "bad_samples": BadSampleLedger(folder / "bad_samples.jsonl", 0.1, ONE_PROCESS),
    }


def load(made, progress):
    states = states_by_name(json.loads(json.dumps(progress)))
    assert states.keys() == made.keys()
    for name, part in made.items():
        part.load_state_dict(states[name])


def test_checkpoint_in_which_all_values_lay_side_by_side_goes_on(tmp_path, caplog):
    made = parts(tmp_path)
    load(made, json.loads(FLAT))
    finite, ledger = made["non_finite"], made["bad_samples"]
    assert (finite.skipped, finite.in_a_row, finite.counted) == (5, 2, 3)
    assert made["meter"].samples == 32
    assert ledger.draws == {"text": 5735, "vision": 40, "audio": 20} and ledger.bad_draws["vision"] == 4
    made["log"].open(7)
    assert "ends at step 0, the checkpoint knew of step 5" in caplog.text


def test_parts_take_what_they_gave(tmp_path):
    first, second = parts(tmp_path), parts(tmp_path)
    load(first, json.loads(FLAT))
    first["log"].write({"step": 6})
    load(second, {"step": 7, "state": {name: part.state_dict() for name, part in first.items()}})
    second["log"].open(7)
    assert {name: part.state_dict() for name, part in second.items()} == {
        name: part.state_dict() for name, part in first.items()
    }
    assert second["bad_samples"].state_dict() == {"text": [5735, 0], "vision": [40, 4], "audio": [20, 0]}
