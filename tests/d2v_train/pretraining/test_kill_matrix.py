"""Kill matrix: a run that is killed again and again ends with the weights that it would have had without.

Also a program, for more kills than a test should take, with the number of kills and perhaps of processes and data
workers: `python tests/d2v_train/pretraining/test_kill_matrix.py 20 2 0`.
"""

import json
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[3] / folder) for folder in ("", "recipes", "tests")]

from run_server import RunServer
from tiny_run import assert_same_weights, tiny, write_config

from d2v_train.runs.checkpoints import CheckpointFolder, what_is_missing
from d2v_train.support.jsonl import read_log
from d2v_train.support.manifest import MANIFEST


STEPS = 48
TINY = tiny(
    "vision",
    "audio",
    max_steps=STEPS,
    logging={"every": 5},
    checkpoints={"every": 3, "keep_last": 3, "keep_every": 20},
    audio={"batch_size": 2},
    model={"hidden_dropout": 0.1},
)
# The two lines of a run that tell what its steps computed.
COMPUTED = ("loss", "grad_norm", "lr", "std", "samples", "step", "epoch")
# Far more than a checkpoint's changes of files (about 25), so that the next kill may meet the one after.
CHANGES = 60


def computed(folder):
    """What must be the same in the logs of two runs."""
    return [{name: value for name, value in record.items() if name.split("/")[-1].endswith(COMPUTED)}
            for record in read_log(folder / "log.jsonl")]  # fmt: skip


def tear(checkpoint, how, chance):
    """Damages a checkpoint."""
    name = chance.choice(["model.safetensors", "optimizer.pt", "process_0.pt", "progress.json"])
    path = checkpoint / name
    content = bytearray(path.read_bytes())
    if how == "cut short":
        path.write_bytes(content[: chance.randrange(len(content))])
    elif how == "zeros":
        first = chance.randrange(len(content))
        path.write_bytes(content[:first] + bytes(len(content) - first))
    elif how == "flipped bit":
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
    elif how == "missing":
        path.unlink()
    else:
        name, path = MANIFEST, checkpoint / MANIFEST
        path.write_text(json.dumps({"step": 3, "files": {}}) if how == "empty list" else path.read_text()[:50])
    return f"{checkpoint.name}/{name} {how}"


TEARS = ("cut short", "zeros", "flipped bit", "missing", "empty list", "half a list")


class Matrix:
    """Runs one setting to its end without and with kills.

    Args:
        server: starts runs.
        folder: for all runs.
        ranks: processes of the run.
        workers: of the data.
        seed: of the moments.
    """

    def __init__(self, server, folder, ranks, workers, seed):
        self.server, self.folder, self.ranks, self.workers = server, folder, ranks, workers
        self.chance = random.Random(f"{seed}/{ranks}/{workers}")
        self.config = write_config(folder, TINY)
        self.rows = []
        self.starts = 0

    def start(self, run, faults=None):
        self.starts += 1
        return self.server.start(self.config, f"output_dir={run}", f"data.num_workers={self.workers}",
                                 output=self.folder / f"{run.name}_{self.starts}.txt", ranks=self.ranks,
                                 faults=faults)  # fmt: skip

    def whole_run(self):
        """The run that is left alone, and how long it takes."""
        started = time.monotonic()
        running = self.start(self.folder / "whole")
        assert set(running.wait(300)) == {0}, running.text()[-3000:]
        self.seconds = time.monotonic() - started

    def attempt(self, run, kind):
        """One start that is to end badly; returns what happened."""
        place = self.chance.randrange(1, CHANGES)
        faults = {"in a save": {0: {"kill_at": place}}, "full disk": {0: {"full_at": place}}}.get(kind)
        running = self.start(run, faults)
        if kind == "full disk":
            codes = running.wait(120)
            assert set(codes) in ({0}, {1}), running.text()[-3000:]
            told = "No space left on device" in running.text()
            assert told or codes[0] == 0, running.text()[-3000:]
            return f"full disk from change {place}", codes
        if kind == "in a save":
            # As a launcher does: the other processes are told to end when one is gone, and must do so.
            self.end_others(running)
            return f"SIGKILL at change {place} of a file", running.wait(60)
        delay = self.chance.random() * self.seconds
        deadline = time.monotonic() + delay
        while time.monotonic() < deadline and None in running.poll():
            time.sleep(0.01)
        if kind == "one rank":
            rank = self.chance.randrange(self.ranks)
            running.send(signal.SIGKILL, rank)
            self.end_others(running)
            return f"SIGKILL of process {rank} after {delay:.1f} s", running.wait(60)
        running.send(signal.SIGKILL)
        return f"SIGKILL of all after {delay:.1f} s", running.wait(60)

    def end_others(self, running):
        """SIGTERM for the rest once a process has ended, like torchrun; fails if that does not end it."""
        while all(code is None for code in running.poll()):
            time.sleep(0.01)
        running.send(signal.SIGTERM)
        codes = running.wait(30)
        lost = [code for code in codes if code not in (0, -signal.SIGKILL)]
        assert all(code in (1, 75, -signal.SIGTERM) for code in lost), running.text()[-3000:]

    def damage(self, run):
        """Tears checkpoints between two starts, but for one, and files beside them."""
        done = []
        checkpoints = CheckpointFolder(run / "checkpoints")
        whole = [path for path in checkpoints.whole() if not what_is_missing(path, content=True)]
        for path in whole[1:][-self.chance.choice((0, 0, 1, 2)) or len(whole) :]:
            done.append(tear(path, self.chance.choice(TEARS), self.chance))
        if (run / "log.jsonl").exists() and self.chance.random() < 0.3:
            with open(run / "log.jsonl", "ab") as file:
                file.write(b'{"step": 9, "lo')
            done.append("half a line in the log")
        if (run / "run.json").exists() and self.chance.random() < 0.3:
            (run / "run.json").write_text('{"opt')
            done.append("half a run.json")
        return "; ".join(done)

    def play(self, kills):
        """All kills; a run that comes to its end is compared, and another one begun."""
        self.whole_run()
        kinds = ["any moment", "in a save", "in a save"] + ["one rank"] * (self.ranks > 1)
        run, number, done = self.folder / "killed_0", 0, 0
        full_at = self.chance.randrange(1, kills)
        while done < kills:
            kind = "full disk" if done == full_at else self.chance.choice(kinds)
            what, codes = self.attempt(run, kind)
            if set(codes) == {0}:
                self.compare(run)
                number += 1
                run = self.folder / f"killed_{number}"
                self.rows.append((what, "came to its end before: same weights, same log", ""))
                continue
            done += 1
            newest = CheckpointFolder(run / "checkpoints").newest()
            self.rows.append((what, newest.name if newest else "no checkpoint", self.damage(run)))
        running = self.start(run)
        assert set(running.wait(300)) == {0}, running.text()[-3000:]
        self.compare(run)
        self.rows.append(("left alone", "same weights, same log", ""))

    def compare(self, run):
        whole = self.folder / "whole"
        assert computed(run) == computed(whole)
        assert_same_weights(whole, run)
        assert not [path for path in (run / "checkpoints").iterdir() if path.name.startswith(".")]
        kept = {path.name for path in (run / "checkpoints").iterdir()}
        assert {"step_00000020", "step_00000040", f"step_{STEPS:08d}"} <= kept

    def table(self):
        """What was done, as lines."""
        yield f"{self.ranks} process(es), {self.workers} data workers; undisturbed run of {self.seconds:.1f} s"
        for number, row in enumerate(self.rows, start=1):
            yield f"{number:4d}  {row[0]:42}  {row[1]:14}  {row[2]}"


def play(server, folder, ranks, workers, kills, seed=0):
    folder.mkdir()
    matrix = Matrix(server, folder, ranks, workers, seed)
    try:
        matrix.play(kills)
    finally:
        print("\n".join(matrix.table()), flush=True)


@pytest.fixture(scope="module")
def server():
    with RunServer() as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("ranks, workers, kills", [(1, 0, 5), (1, 2, 4), (2, 0, 5)])
def test_killed_run_ends_with_the_weights_it_would_have_had(server, tmp_path, ranks, workers, kills):
    play(server, tmp_path / "runs", ranks, workers, kills)


if __name__ == "__main__":
    import tempfile

    number, *chosen = map(int, sys.argv[1:])
    with RunServer() as program:
        for setting in [chosen] if chosen else ((1, 0), (1, 2), (2, 0)):
            place = Path(tempfile.mkdtemp(prefix="kill_matrix_"))
            play(program, place / "runs", *setting, number)
            shutil.rmtree(place)
