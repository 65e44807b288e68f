"""Several runs of one program, one after another, each with its own learning rate, seed and folder."""

from __future__ import annotations

import itertools
import json
import logging
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState

from d2v_train.support.atomic import write_json
from d2v_train.support.text import table


logger = logging.getLogger(__name__)

RESULTS_FILE = "results.json"
SUMMARY_FILE = "sweep.json"
SECRETS = ("--token", "--hub_token")
"""Options whose values are never written to a file."""


def sweep(
    run: Callable[[list[str]], dict[str, float]],
    argv: Sequence[str],
    folder: str | Path,
    learning_rates: Sequence[float],
    seeds: Sequence[int],
    metrics: Sequence[str],
    greater_is_better: bool = True,
) -> dict[str, Any]:
    """Run a program for every learning rate and seed, and summarise the results.

    Finished runs are not repeated; interrupted ones are resumed.

    Args:
        run: Function from a command line to its metrics.
        argv: Command line of all runs; learning rate, seed and folder are added.
        folder: Folder of the sweep, for a sub-folder per run and `sweep.json`.
        learning_rates, seeds: Values to combine.
        metrics: Names of metrics; the first one that a run has is compared.
        greater_is_better: Whether a greater metric is better.

    Returns:
        "runs", the metric of each run (all metrics are in `results.json` of its folder); "learning_rates", median and
        best over the seeds; "best", the folder of the best seed of the learning rate with the best median.

    Raises:
        ValueError: If a run was finished with other arguments, or has none of the metrics.
    """
    others = _without(argv, "--learning_rates", "--seeds", *SECRETS)
    runs = []
    for rate, seed in itertools.product(learning_rates, seeds):
        place = Path(folder) / f"lr{rate:g}_seed{seed}"
        done = place / RESULTS_FILE
        if done.is_file():
            results = json.loads(done.read_text(encoding="utf-8"))
            if results.pop("arguments") != others:
                raise ValueError(
                    f"{place} was run with other arguments, which {done} lists. Choose another --output_dir, or "
                    "remove that folder."
                )
        else:
            logger.info("Run %d of %d: %s", len(runs) + 1, len(learning_rates) * len(seeds), place)
            results = run([*argv, "--learning_rate", repr(rate), "--seed", str(seed), "--output_dir", str(place)])
            PartialState().wait_for_everyone()
            if PartialState().is_main_process:
                write_json(done, {"arguments": others, **results})
        metric = next((name for name in metrics if name in results), None)
        if metric is None:
            raise ValueError(f"The runs have no metric {metrics[0]!r} to compare; they have {', '.join(results)}.")
        runs.append({"folder": str(place), "learning_rate": rate, "seed": seed, metric: results[metric]})
    summary = _sum_up(runs, learning_rates, metric, max if greater_is_better else min)
    if PartialState().is_main_process:
        write_json(Path(folder) / SUMMARY_FILE, summary)
        print(_report(summary, metric))
    return summary


def _without(argv: Sequence[str], *options: str) -> list[str]:
    """Return a command line without some options and their values."""
    kept, keeps = [], True
    for word in argv:
        keeps = word.partition("=")[0] not in options if word.startswith("--") else keeps
        if keeps:
            kept.append(word)
    return kept


def _sum_up(runs: list[dict[str, Any]], rates: Sequence[float], metric: str, better: Callable) -> dict[str, Any]:
    by_rate = []
    for rate in dict.fromkeys(rates):
        own = [run for run in runs if run["learning_rate"] == rate]
        values = [run[metric] for run in own]
        best = better(own, key=lambda run: run[metric])
        by_rate.append(
            {
                "learning_rate": rate,
                "median": statistics.median(values),
                "best": best[metric],
                "spread": statistics.stdev(values) if len(values) > 1 else 0.0,
                "folder": best["folder"],
            }
        )
    chosen = better(by_rate, key=lambda entry: entry["median"])
    return {"metric": metric, "runs": runs, "learning_rates": by_rate, "best": chosen["folder"]}


def _report(summary: dict[str, Any], metric: str) -> str:
    """Return a table of the metric by learning rate and seed."""
    seeds = list(dict.fromkeys(run["seed"] for run in summary["runs"]))
    scale, unit = (1, "") if metric.endswith("loss") else (100, " in %")
    rows = [["learning rate", *(f"seed {seed}" for seed in seeds), "median", "best", "std"]]
    for entry in summary["learning_rates"]:
        own = {run["seed"]: run[metric] for run in summary["runs"] if run["learning_rate"] == entry["learning_rate"]}
        values = [*(own[seed] for seed in seeds), entry["median"], entry["best"], entry["spread"]]
        rows.append([f"{entry['learning_rate']:g}", *(f"{scale * value:.2f}" for value in values)])
    return f"{metric}{unit}, by learning rate and seed\n{table(rows, align='>')}\nbest: {summary['best']}"
