"""Accuracy from 1 % of the labels of a series: after pretraining on all series without labels, and from scratch.

    python benchmarks/own_series.py --output_dir runs/own_series

The data is the built-in one of `tiny_series`, or --data. For each seed a model is pretrained (recipe `tiny_series`),
then fine-tuned on 1 % of the labels, drawn with the seed, and trained from random weights on the same ones with the
same settings. The learning rate of each start is that of --learning_rates with the highest mean accuracy over seeds on
series of the training split, most of which neither start has labels of; the test split is used for the reported
accuracies alone. Beside them stand linear probes of the hand-made features of each channel and of an encoder with
random weights, on all labels.

Finished parts are kept in `results.json`: the same command resumes. The table is written to `results.md`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import sys
from pathlib import Path
from typing import Any


ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "recipes"), str(ROOT)]

STARTS = {"pretrained": [], "from scratch": ["--from_scratch"]}


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/own_series"))
    parser.add_argument("--data", default="builtin", help="Source of the series, with splits train and test.")
    parser.add_argument("--recipe", default="tiny_series", help="Configuration of the pretraining.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--learning_rates", type=float, nargs="+", default=[3e-4, 1e-3, 3e-3])
    parser.add_argument("--train_fraction", type=float, default=0.01, help="Share of the labels.")
    parser.add_argument("--updates", type=int, default=150, help="Updates of 16 series when a classifier is trained.")
    parser.add_argument("overrides", nargs="*", help="Further options of the pretraining, such as max_steps=100.")
    return parser


def pretrained(args: argparse.Namespace, seed: int) -> Path:
    """Return the folder of the model pretrained with a seed; a finished run is not repeated."""
    from d2v_train.programs.pretrain import main as pretrain

    folder = args.output_dir / f"pretraining_{seed}"
    if not (folder / "final" / "config.json").is_file():
        names = [f"output_dir={folder}", f"seed={seed}", f"data.arrays={args.data}", *args.overrides]
        status = pretrain([args.recipe, *names])
        if status:
            raise RuntimeError(f"Pretraining with seed {seed} ended with status {status}.")
    return folder / "final"


def finetuned(args: argparse.Namespace, seed: int, start: str, rate: float) -> dict[str, float]:
    """Train a classifier and return its accuracy on series of the training split and on the test split, in percent."""
    from d2v_train.programs.finetune_array_classification import run_program

    folder = args.output_dir / f"{start.replace(' ', '_')}_{seed}_{rate:g}"
    options = {
        "model_name_or_path": pretrained(args, seed),
        "dataset_name": args.data,
        "output_dir": folder,
        "seed": seed,
        "train_fraction": args.train_fraction,
        "learning_rate": rate,
        "max_steps": args.updates,
        "per_device_train_batch_size": 16,
        "validation_split": "train",
        "max_eval_samples": 400,
        "test_split": "test",
        "logging_steps": args.updates,
        "save_strategy": "no",
        "report_to": "none",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with contextlib.redirect_stdout(io.StringIO()):
        found = run_program([*words, "--do_train", "--do_eval", "--do_predict", *STARTS[start]])
    return {"selection": 100 * found["eval_accuracy"], "test": 100 * found["test_accuracy"]}


def probed(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Return the linear probes, on all labels, of hand-made features, random weights and the pretrained encoder."""
    from d2v_train.probing.run import ProbeSettings, run_probe

    found = run_probe(ProbeSettings(model=pretrained(args, seed), modality="arrays", data=args.data, random_seed=seed))
    simple = {name: values["linear"] for name, values in found["simple"].items()}
    return {"chance": found["chance"], "random": found["random"]["linear"], **simple,
            "pretrained": found["pretrained"]["linear"]}  # fmt: skip


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Return all results, after every part of which they are saved."""
    path = args.output_dir / "results.json"
    settings = {
        name: value for name, value in vars(args).items() if name not in ("output_dir", "seeds", "learning_rates")
    }
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"settings": settings}
    if results["settings"] != settings:
        raise SystemExit(f"{path} holds results with other settings: {results['settings']}. Name another folder.")
    parts = [(f"probe {seed}", lambda seed=seed: probed(args, seed)) for seed in args.seeds]
    parts += [
        (f"{start} {seed} {rate:g}", lambda seed=seed, start=start, rate=rate: finetuned(args, seed, start, rate))
        for seed in args.seeds
        for rate in args.learning_rates
        for start in STARTS
    ]
    for name, measure in parts:
        if name not in results:
            results[name] = measure()
            print(f"{name}: {results[name]}", flush=True)
            args.output_dir.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


def summary(args: argparse.Namespace, results: dict[str, Any]) -> str:
    """Return the results as a table in Markdown."""
    lines = ["| | learning rate | accuracy, each seed | mean |", "|---|---|---|---|"]
    for start in STARTS:
        means = {
            rate: statistics.mean(results[f"{start} {seed} {rate:g}"]["selection"] for seed in args.seeds)
            for rate in args.learning_rates
        }
        rate = max(means, key=means.get)
        scores = [results[f"{start} {seed} {rate:g}"]["test"] for seed in args.seeds]
        lines.append(_row(f"{start}, {100 * args.train_fraction:g} % of the labels", f"{rate:g}", scores))
    for name in results[f"probe {args.seeds[0]}"]:
        scores = [results[f"probe {seed}"][name] for seed in args.seeds]
        lines.append(_row(name if name == "chance" else f"linear probe of {name}, all labels", "", scores))
    return "\n".join(lines) + "\n"


def _row(name: str, rate: str, scores: list[float]) -> str:
    shown = ", ".join(f"{score:.1f}" for score in scores)
    return f"| {name} | {rate} | {shown} | {statistics.mean(scores):.1f} |"


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    args = build_parser().parse_args(argv)
    table = summary(args, measured(args))
    (args.output_dir / "results.md").write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
