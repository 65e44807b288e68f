"""The processes of a run: alone they ask nobody, two of them sum, gather and fail together."""

import json
import os
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator

from d2v_train.support.processes import ONE_PROCESS, Processes


PROGRAM = """
import json, sys
import torch
from accelerate import Accelerator
from d2v_train.support.processes import Processes

def fail():
    raise KeyError("main")

accelerator = Accelerator(cpu=True)
processes = Processes.of(accelerator)
own = torch.tensor([1.0, processes.rank])
found = {
    "rank": processes.rank,
    "count": processes.count,
    "main": processes.main,
    "sum": processes.sum(own).tolist(),
    "own": own.tolist(),
    "gather": processes.gather({"rank": processes.rank}),
    "none": processes.first_problem(None),
    "problem": processes.first_problem("full disk" if processes.rank else None),
    "decision": processes.main_decides(lambda: f"by {processes.rank}"),
}
try:
    processes.main_decides(fail)
except KeyError as error:
    found["error"] = str(error)
open(f"{sys.argv[1]}/{processes.rank}.json", "w").write(json.dumps(found))
accelerator.wait_for_everyone()
# A thread of gloo that outlives the interpreter can abort a process that has done its work.
accelerator.end_training()
"""


def test_one_process_answers_itself():
    values = torch.ones(2)
    assert Processes.of(Accelerator(cpu=True)) == ONE_PROCESS and ONE_PROCESS.main
    assert ONE_PROCESS.sum(values) is values and ONE_PROCESS.gather("x") == ["x"]
    assert ONE_PROCESS.first_problem(None) is None and ONE_PROCESS.first_problem("full disk") == "full disk"
    assert ONE_PROCESS.main_decides(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        ONE_PROCESS.main_decides(lambda: 1 / 0)


def test_two_processes_come_to_the_same(tmp_path, project_root):
    (tmp_path / "program.py").write_text(PROGRAM)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    paths = (project_root, project_root / "recipes")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, paths))}
    subprocess.run([*launch, str(tmp_path / "program.py"), str(tmp_path)], env=environment, check=True, timeout=120)
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == {
            "rank": rank,
            "count": 2,
            "main": rank == 0,
            "sum": [2.0, 1.0],
            "own": [1.0, float(rank)],
            "gather": [{"rank": 0}, {"rank": 1}],
            "none": None,
            "problem": "full disk",
            "decision": "by 0",
            "error": "'main'",
        }
