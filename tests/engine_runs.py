"""Runs of the pretraining program one after the other in the processes of one launch, which saves their start.

    python -m torch.distributed.run --nproc_per_node 2 tests/engine_runs.py runs.json

`runs.json` is a list of entries with `arguments` of the program, in which `{rank}` is the number of the process,
`environment`: variables that ask for an engine, `poisoned`: whether a gradient is not finite in one step, and
`refused`: whether the program must refuse to run, and only says why.
"""

import contextlib
import json
import os
import sys
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("", "recipes", "tests")]

from accelerate.state import AcceleratorState, GradientState  # noqa: E402
from engine_scenarios import ENGINES, poison  # noqa: E402

from d2v_train.options.errors import OptionError  # noqa: E402
from d2v_train.programs.pretrain import run_program  # noqa: E402


def run_all(entries: list[dict]) -> None:
    """Runs them in order, each with an engine of its own."""
    for entry in entries:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        for name in {name for environment in ENGINES.values() for name in environment}:
            os.environ.pop(name, None)
        os.environ.update(entry["environment"])
        arguments = [argument.replace("{rank}", os.environ["RANK"]) for argument in entry["arguments"]]
        if entry["refused"]:
            try:
                run_program(arguments)
            except OptionError as error:
                print(error, file=sys.stderr)
                continue
            raise AssertionError(f"not refused: {arguments}")
        with poison() if entry["poisoned"] else contextlib.nullcontext():
            run_program(arguments)


if __name__ == "__main__":
    run_all(json.loads(Path(sys.argv[1]).read_text()))
