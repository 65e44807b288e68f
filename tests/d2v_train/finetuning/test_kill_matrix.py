"""Kill matrix of fine-tuning: a run that is killed again and again ends like one that was left alone.

Also a program, for more kills than a test should take, with the number of kills of each of the four programs:
`python tests/d2v_train/finetuning/test_kill_matrix.py 20`.
"""

import csv
import json
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[3] / folder) for folder in ("", "recipes", "tests")]

from model_factory import tiny_config
from recordings import texts_of, write_checkpoint, write_recordings
from run_server import RunServer
from safetensors.torch import load_file

from d2v_train.inputs.processors import image_processor
from d2v_train.inputs.tokenizer import build_tokenizer
from d2v_train.inputs.vision import VisionTransform
from modeling_d2v import Data2VecForPreTraining


UPDATES = 17
"""Not a multiple of the updates of an epoch, of the log or of the checkpoints."""
CHANGES = 120
"""More than the changes of files in two checkpoints and the end of a run."""
TIMES = ("_runtime", "_per_second", "_preparation_time")


def write_inputs(folder):
    """Writes data and a pretrained checkpoint for each program; returns the arguments that name them, by program."""
    folder.mkdir()
    torch.manual_seed(0)
    config = tiny_config("vision")
    Data2VecForPreTraining(config).save_pretrained(folder / "vision")
    image_processor(config, VisionTransform(32)).save_pretrained(folder / "vision")
    rng = np.random.default_rng(0)
    for number in range(24):
        path = folder / "pictures" / ("train" if number < 18 else "validation") / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(100 * (number % 2), 150 + 100 * (number % 2), (32, 32, 3), dtype=np.uint8)).save(
            path
        )
    sentences = [f"the {word} is number {number}" for number in range(12) for word in ("sun", "rain")]
    text = tiny_config("text", text_config={"vocab_size": 320, "max_position_embeddings": 24})
    Data2VecForPreTraining(text).save_pretrained(folder / "text")
    build_tokenizer(sentences, vocab_size=320).save_pretrained(folder / "text")
    for part, rows in (("train", sentences[:18]), ("validation", sentences[18:])):
        with open(folder / f"{part}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["sentence", "label"], *((row, "sun" in row) for row in rows)])
    write_checkpoint(folder / "audio")
    texts = texts_of(18)
    write_recordings(folder / "recordings" / "train", texts, speaker=["high", "low"] * 9)
    write_recordings(folder / "recordings" / "validation", texts[:6], speaker=["high", "low"] * 3)
    recordings = ["--dataset_name", folder / "recordings", "--model_name_or_path", folder / "audio"]
    return {
        "glue": ["--train_file", folder / "train.csv", "--validation_file", folder / "validation.csv",
                 "--model_name_or_path", folder / "text"],
        "image_classification": ["--dataset_name", folder / "pictures", "--model_name_or_path", folder / "vision"],
        "ctc": recordings,
        "audio_classification": [*recordings, "--label_column", "speaker"],
    }  # fmt: skip


COMMON = (
    f"--do_train --do_eval --max_steps {UPDATES} --per_device_train_batch_size 4 --logging_steps 5 "
    "--save_strategy steps --save_steps 3 --save_total_limit 2 --eval_strategy steps --eval_steps 3 "
    "--weights_ema_decay 0.9 --use_cpu --disable_tqdm true --learning_rate 1e-3"
).split()


def outcome(folder):
    """What must be the same in two runs: weights, history and results but for times."""
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    results = json.loads((folder / "all_results.json").read_text())
    parts = [*history, results]
    return [{name: value for name, value in part.items() if not name.endswith(TIMES)} for part in parts]


def attempt(server, program, arguments, run, output, chance, seconds):
    """Starts a run and kills it, at a change of a file or after some time; returns whether it had ended before."""
    by_change = chance.random() < 0.6
    faults = {0: {"kill_at": chance.randrange(1, CHANGES), "below": str(run)}} if by_change else None
    running = server.start(*arguments, "--output_dir", run, output=output, faults=faults, program=program)
    if not by_change:
        deadline = time.monotonic() + chance.random() * seconds
        while time.monotonic() < deadline and None in running.poll():
            time.sleep(0.01)
        running.send(signal.SIGKILL)
    (code,) = running.wait(120)
    assert code in (0, -signal.SIGKILL), running.text()[-3000:]
    return code == 0


def kill_matrix(server, folder, kills, seed=0):
    """Runs each program without and with kills; returns a row of figures for each."""
    rows = []
    for name, inputs in write_inputs(folder / "inputs").items():
        program, arguments = f"recipes/finetune_{name}.py", [*inputs, *COMMON]
        chance = random.Random(f"{seed}/{name}")
        started = time.monotonic()
        running = server.start(*arguments, "--output_dir", folder / name / "whole", output=folder / f"{name}.txt",
                               program=program)  # fmt: skip
        assert running.wait(300) == [0], running.text()[-3000:]
        seconds = time.monotonic() - started
        killed = runs = 0
        while killed < kills:
            run, done = folder / name / f"killed_{runs}", False
            while killed < kills and not done:
                done = attempt(server, program, arguments, run, folder / f"{name}_{runs}.txt", chance, seconds)
                killed += not done
            if not done:
                last = server.start(*arguments, "--output_dir", run, output=folder / f"{name}_{runs}.txt",
                                    program=program)  # fmt: skip
                assert last.wait(300) == [0], last.text()[-3000:]
            one, two = (load_file(folder / name / each / "model.safetensors") for each in ("whole", run.name))
            assert [key for key in one if not torch.equal(one[key], two[key])] == []
            pairs = zip(outcome(run), outcome(folder / name / "whole"), strict=True)
            different = [pair for pair in pairs if pair[0] != pair[1]]
            assert different == [], f"{program}: {different}"
            runs += 1
        rows.append((name, killed, runs, round(seconds, 1)))
    return rows


@pytest.mark.slow
def test_killed_runs_end_like_one_that_was_left_alone(tmp_path):
    with RunServer() as server:
        rows = kill_matrix(server, tmp_path, kills=4)
    assert [row[1] for row in rows] == [4] * 4


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as place, RunServer() as server:
        for row in kill_matrix(server, Path(place), int(sys.argv[1])):
            print("{}: {} kills in {} runs, all equal to the whole run of {} s".format(*row))
