"""Probe accuracies of the front end that knows no modality beside the usual one, at equal steps.

    python benchmarks/agnostic_front_end.py cifar10 path/to/cifar10
    python benchmarks/agnostic_front_end.py fsdd path/to/fsdd --seeds 0 1 2
    python benchmarks/agnostic_front_end.py bytes builtin:digits --designs groups

For each seed and design an encoder is pretrained by the configuration of the task, and probed beside the same network
with random weights and beside features without training. `usual` is the front end of the modality (patches,
convolutions, embeddings), `groups` and `global` are the groupings of the perceiver front end, `global` with targets
standardised per position. Recordings are probed on a speaker that pretraining did not hear.

Finished runs and probes are kept in the output folder: the same command continues, and one with more seeds or designs
adds theirs. It writes `results.md`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))

from d2v_train.support.atomic import write_json


ROOT = Path(__file__).resolve().parents[1]


DESIGNS = ("usual", "groups", "global")
MEASURES = {"linear": "linear", "knn": "kNN", "few": "10 labels"}
"""Probes and their headings."""


@dataclass(frozen=True)
class Task:
    """A data set, and the configurations that are compared on it.

    Args:
        modality: Modality of the data.
        recipes: Configuration of the usual front end, and of the perceiver's.
        held_out: Groups that pretraining leaves out and the probe is measured on.
    """

    modality: str
    recipes: tuple[str, str]
    held_out: tuple[str, ...] = ()


TASKS = {
    "cifar10": Task("vision", ("tiny_cifar10", "tiny_cifar10_perceiver")),
    "fsdd": Task("audio", ("tiny_fsdd", "tiny_fsdd_perceiver"), ("george",)),
    "bytes": Task("text", ("tiny_text", "tiny_text_bytes")),
}


def pretraining_command(task: Task, design: str, data: str, seed: int, steps: int | None, folder: Path) -> list[str]:
    """Return the command that trains a design with a seed into `folder`."""
    recipe = task.recipes[0 if design == "usual" else 1]
    words = [f"data.{task.modality}={data}", f"output_dir={folder}", f"seed={seed}", "cpu=true"]
    if design == "global":
        settings = {"grouping": "global", "layer_target_norm": "layer", "mean_target_norm": "running"}
        words += [f"model.{task.modality}_config.{name}={value}" for name, value in settings.items()]
    if steps is not None:
        words += [f"max_steps={steps}", f"model.ema_anneal_end_step={max(1, steps // 2)}"]
    return [sys.executable, str(ROOT / "recipes" / "pretrain.py"), recipe, *words]


def probe_command(task: Task, data: str, seed: int, final: Path) -> list[str]:
    """Return the command that probes an encoder."""
    words = ["--modality", task.modality, "--random_seed", str(seed)]
    words += [] if data == "builtin" else ["--data", data]
    if task.held_out:
        # All recordings of a speaker that pretraining left out, not only those of the test split.
        words += ["--test_split", "train+test", "--test_groups", *task.held_out]
    return [sys.executable, str(ROOT / "recipes" / "probe.py"), str(final), *words]


def measure(task: Task, design: str, data: str, seed: int, steps: int | None, output: Path) -> dict[str, Any]:
    """Train and probe a design with a seed, unless that is done; return the probe's result."""
    folder = output / f"{design}_{seed}"
    path = output / f"{design}_{seed}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    output.mkdir(parents=True, exist_ok=True)
    with open(output / f"{design}_{seed}.log", "a", encoding="utf-8") as log:
        if not (folder / "final" / "config.json").is_file():
            command = pretraining_command(task, design, data, seed, steps, folder)
            subprocess.run(command, check=True, stdout=log, stderr=log)
        command = probe_command(task, data, seed, folder / "final")
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=log, text=True).stdout
    result = json.loads(found.strip().splitlines()[-1])
    write_json(path, result, "The probe")
    return result


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the accuracies as a table in Markdown: mean and standard deviation over seeds.

    Args:
        results: Probes of each design, one for each seed.
    """
    lines = ["| encoder | " + " | ".join(MEASURES.values()) + " | seeds |", "|---" * (len(MEASURES) + 2) + "|"]
    for design, probes in results.items():
        for row, name in (("pretrained", design), ("random", f"{design}, untrained")):
            lines.append(_row(name, [probe[row] for probe in probes]))
    first = next(iter(results.values()))
    for name in first[0].get("simple", {}):
        lines.append(_row(name, [probe["simple"][name] for probe in first[:1]]))
    return "\n".join(lines) + "\n"


def _row(name: str, values: list[dict[str, float]]) -> str:
    cells = []
    for measure_name in MEASURES:
        scores = [value[measure_name] for value in values]
        spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
        cells.append(f"{statistics.mean(scores):.1f}{spread}")
    return f"| {name} | " + " | ".join(cells) + f" | {len(values)} |"


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("data", help="source of the data set, with labels")
    parser.add_argument("--designs", nargs="+", choices=DESIGNS, default=["usual", "groups"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, help="steps of every design; default: those of each configuration")
    parser.add_argument("--output", type=Path, help="folder of runs and results; default: runs/agnostic_TASK")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Train and probe every design with every seed, and print the table."""
    args = build_parser().parse_args(argv)
    task, output = TASKS[args.task], args.output or Path("runs") / f"agnostic_{args.task}"
    settings = {"data": str(args.data), "steps": args.steps}
    path = output / "settings.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != settings:
        sys.exit(f"{output} holds runs with other settings ({path}); name another --output.")
    output.mkdir(parents=True, exist_ok=True)
    write_json(path, settings, "The settings")
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in args.seeds:
        for design in args.designs:
            results.setdefault(design, []).append(measure(task, design, args.data, seed, args.steps, output))
            print(f"{design}, seed {seed}: {results[design][-1]['pretrained']}", flush=True)
    (output / "results.md").write_text(table(results), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
