"""Probe accuracies of one encoder for several modalities, beside encoders for one modality trained for as many steps.

    python benchmarks/joint_learning.py --output runs/joint_learning --seeds 0 1 2

For each seed, encoders are trained on the built-in data by the configuration `joint_digits`: on pictures and spoken
words with a related partner (sentences about digits) and with an unrelated one (prose); on each modality alone, for as
many steps of it; on spoken words alone, for all steps of the joint run; and on pictures or spoken words over frozen
blocks, of the other modality or random. Every encoder is probed beside one with random weights and beside features
without training. Finished runs and probes are kept in the output folder: the same command continues, and one with more
seeds adds theirs. It writes `results.json` and `results.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))

from d2v_train.measuring.gradients import COSINE
from d2v_train.support.atomic import write_json
from d2v_train.support.jsonl import read_log


ROOT = Path(__file__).resolve().parents[1]
CONFIG = "joint_digits"
RATIOS = {"vision": 10, "audio": 3, "text": 2}
"""Shares of the steps in the configuration."""
TEXTS = {
    "sentences": {"source": "builtin:digits", "overrides": []},
    "prose": {
        "source": "builtin",
        "overrides": ["text.transform.pack=true", "text.transform.max_length=64", "text.batch_size=4",
                      "model.text_config.vocab_size=2000"],
    },
}  # fmt: skip
MEASURES = {"linear": "linear", "knn": "kNN", "ten": "10 labels", "one": "1 label"}
"""Probes and their headings: all labels, 20 nearest neighbours, ten labels or one label of each class."""
DRAWS = 10
"""Draws of the few labels."""
COMPARISONS = 6
"""Comparisons of the modalities' gradients in a joint run."""
PARTS = {
    "vision": "Pictures of digits",
    "audio": "Spoken digits",
    "sentences": "Sentences about digits",
    "prose": "Prose",
}
"""What is probed, and its heading."""


@dataclass(frozen=True)
class Setup:
    """An encoder to train.

    Args:
        title: Row of the table.
        parts: What it is trained on, out of `PARTS`.
        frozen: Name of the set-up whose blocks it takes and keeps frozen; "random" for new ones.
        long: Train for all steps of the joint run instead of its steps of the modality.
    """

    title: str
    parts: tuple[str, ...]
    frozen: str | None = None
    long: bool = False

    @property
    def modalities(self) -> list[str]:
        """Names of its modalities."""
        return [_modality(part) for part in self.parts]

    @property
    def text(self) -> str | None:
        """What its text is, None without text."""
        return next((part for part in self.parts if part in TEXTS), None)


SETUPS = {
    "joint_related": Setup("joint, related text", ("vision", "audio", "sentences")),
    "joint_unrelated": Setup("joint, unrelated text", ("vision", "audio", "prose")),
    "vision": Setup("alone", ("vision",)),
    "audio": Setup("alone", ("audio",)),
    "sentences": Setup("alone", ("sentences",)),
    "prose": Setup("alone", ("prose",)),
    "audio_long": Setup("alone, all steps of the joint run", ("audio",), long=True),
    "audio_on_vision": Setup("over frozen blocks of the other", ("audio",), "vision"),
    "audio_on_random": Setup("over frozen random blocks", ("audio",), "random"),
    "vision_on_audio": Setup("over frozen blocks of the other", ("vision",), "audio"),
    "vision_on_random": Setup("over frozen random blocks", ("vision",), "random"),
}
UNTRAINED, SIMPLE = "untrained", "simple features"


def _modality(part: str) -> str:
    return "text" if part in TEXTS else part


def steps_of(modalities: Iterable[str], joint_steps: int) -> int:
    """Return the steps of a run, so that each modality gets as many as in the joint run."""
    return round(joint_steps * sum(RATIOS[name] for name in modalities) / sum(RATIOS.values()))


def overrides(setup: Setup, seed: int, joint_steps: int, folder: Path) -> list[str]:
    """Return the options of the run of a set-up.

    Args:
        setup: The set-up.
        seed: Seed of the run.
        joint_steps: Steps of a joint run.
        folder: Folder of the runs of the seed.
    """
    steps = joint_steps if setup.long else steps_of(setup.modalities, joint_steps)
    changes = [f"seed={seed}", f"max_steps={steps}", f"model.ema_anneal_end_step={steps // 2}", "cpu=true",
               "checkpoints.every=200", "health.collapse=warn"]  # fmt: skip
    for name in RATIOS:
        if name not in setup.modalities:
            changes += [f"{name}=null", f"data.{name}=null", f"model.{name}_config=null"]
    if len(setup.modalities) > 1:
        changes.append(f"logging.gradients_every={max(1, steps // COMPARISONS)}")
    if setup.text is not None:
        changes += [f"data.text={TEXTS[setup.text]['source']}", *TEXTS[setup.text]["overrides"]]
    if setup.frozen is not None:
        changes.append("freeze=blocks")
        if setup.frozen != "random":
            changes += [f"init_from={folder / setup.frozen / 'final'}", "init_parts=blocks"]
    return changes


def train(setup: Setup, folder: Path, seed: int, joint_steps: int) -> None:
    """Run or continue the pretraining of a set-up into `folder`, unless it is finished."""
    if (folder / "final").is_dir():
        return
    command = [sys.executable, str(ROOT / "recipes" / "pretrain.py"), CONFIG, f"output_dir={folder}"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".log"), "a", encoding="utf-8") as log:
        subprocess.run(
            [*command, *overrides(setup, seed, joint_steps, folder.parent)], check=True, stdout=log, stderr=log
        )


def probe(final: Path, part: str, seed: int, compared: bool) -> dict[str, dict[str, float]]:
    """Return accuracies in percent of an encoder on a part of the data.

    Args:
        final: Folder of the encoder.
        part: What is probed, of `PARTS`.
        seed: Seed of random weights and of held-out samples.
        compared: Also measure random weights and simple features.

    Returns:
        Accuracies by measure, under "trained" and, if compared, `UNTRAINED` and `SIMPLE`.
    """
    import torch

    from d2v_train.inputs.modalities import DATA_KINDS
    from d2v_train.models.encoders import load_encoder, random_encoder
    from d2v_train.options.sections import ProbeDataOptions
    from d2v_train.probing.features import extract
    from d2v_train.probing.run import load_transform, read_probed_config
    from d2v_train.probing.simple_features import simple_features
    from d2v_train.probing.splits import open_parts

    modality = _modality(part)
    source = TEXTS[part]["source"] if part in TEXTS else None
    config = read_probed_config(str(final), modality)
    train_part, test_part, _ = open_parts(modality, config, ProbeDataOptions(data=source), account=False)
    transform = load_transform(str(final), modality, config)

    def features(model: torch.nn.Module) -> list[Any]:
        how = {"batch_size": DATA_KINDS[modality].probe_batch_size, "device": torch.device("cpu")}
        return [extract(model, records, transform, **how) for records in (train_part, test_part)]

    trained = features(load_encoder(str(final), config))
    found = {"trained": accuracies(*trained, seed)}
    if compared:
        torch.manual_seed(seed)
        found[UNTRAINED] = accuracies(*features(random_encoder(config)), seed)
        shape = config.modality_config(modality)
        matrices = next(iter(simple_features(modality, train_part, test_part, shape).values()))
        labels = [(each.labels, each.groups) for each in trained]
        found[SIMPLE] = _accuracies(matrices, labels, seed)
    return found


def accuracies(train_set: Any, test_set: Any, seed: int) -> dict[str, float]:
    """Return the accuracies in percent of every measure for features with labels."""
    pairs = [(part.labels, part.groups) for part in (train_set, test_set)]
    return _accuracies((train_set.features, test_set.features), pairs, seed)


def _accuracies(matrices: Any, labels: Any, seed: int) -> dict[str, float]:
    from d2v_train.probing.classifiers import few_label_accuracy, knn_accuracy, linear_accuracy

    (train_labels, groups), (test_labels, _) = labels
    data = (matrices[0], train_labels, matrices[1], test_labels)
    draws = [seed * DRAWS + draw for draw in range(DRAWS)]
    values = {
        "linear": linear_accuracy(*data, groups=groups, seed=seed),
        "knn": knn_accuracy(*data),
        "ten": few_label_accuracy(*data, per_class=10, seeds=draws).mean,
        "one": few_label_accuracy(*data, per_class=1, seeds=draws).mean,
    }
    return {name: round(value, 2) for name, value in values.items()}


def results_of(folder: Path, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return the finished probes of a seed: accuracies by row of the table and part of the data."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, setup in SETUPS.items():
        for part in setup.parts:
            path = folder / f"seed{seed}" / f"{name}.{part}.json"
            if path.is_file():
                for row, values in json.loads(path.read_text(encoding="utf-8")).items():
                    found.setdefault(setup.title if row == "trained" else row, {})[part] = values
    return found


def cosines_of(folder: Path) -> dict[str, float]:
    """Return the cosines of gradients in the log of a run, averaged over its comparisons after the start.

    Args:
        folder: Folder of the run.

    Returns:
        Cosines by pair, such as "audio vision", and within a modality by its name. Empty without comparisons.
    """
    path = folder / "log.jsonl"
    found: dict[str, list[float]] = {}
    for line in read_log(path) if path.is_file() else []:
        for name, value in line.items():
            if COSINE in name and line["step"]:
                pair = name.removesuffix(f"/{COSINE}").removeprefix(f"{COSINE}/").replace("_", " ")
                found.setdefault(pair, []).append(value)
    return {pair: round(statistics.mean(values), 4) for pair, values in sorted(found.items())}


def cosine_table(folder: Path, seeds: Iterable[int]) -> dict[str, dict[str, dict[str, float]]]:
    """Return mean and standard deviation over the seeds of `cosines_of`, by set-up and pair."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for name, setup in SETUPS.items():
        runs = [cosines_of(folder / f"seed{seed}" / name) for seed in seeds if len(setup.parts) > 1]
        for pair in dict.fromkeys(pair for run in runs for pair in run):
            values = [run[pair] for run in runs if pair in run]
            cell = {"mean": round(statistics.mean(values), 3), "std": _spread(values, 3), "seeds": len(values)}
            table.setdefault(setup.title, {})[pair] = cell
    return table


def summary(results: Mapping[int, Mapping[str, Mapping[str, Mapping[str, float]]]]) -> dict[str, Any]:
    """Return mean and standard deviation over the seeds, and those of the differences from the encoder alone.

    Args:
        results: Seed -> row -> part -> measure -> accuracy in percent.

    Returns:
        Part -> row -> measure -> {"mean", "std", "seeds"}, with "difference" and "difference_std" (of the pairs of
        one seed) where both were measured. A single seed has a standard deviation of 0.
    """
    rows = list(dict.fromkeys(row for result in results.values() for row in result))
    table: dict[str, Any] = {}
    for part in PARTS:
        for row in rows:
            for measure in MEASURES:
                values = {seed: result[row][part][measure] for seed, result in results.items()
                          if part in result.get(row, {})}  # fmt: skip
                if not values:
                    continue
                cell = {"mean": _mean(values.values()), "std": _spread(values.values()), "seeds": len(values)}
                paired = [value - results[seed]["alone"][part][measure] for seed, value in values.items()
                          if part in results[seed].get("alone", {})]  # fmt: skip
                if paired and row != "alone":
                    cell |= {"difference": _mean(paired), "difference_std": _spread(paired)}
                table.setdefault(part, {}).setdefault(row, {})[measure] = cell
    return table


def _mean(values: Iterable[float]) -> float:
    return round(statistics.mean(values), 2)


def _spread(values: Iterable[float], digits: int = 2) -> float:
    values = list(values)
    return round(statistics.stdev(values), digits) if len(values) > 1 else 0.0


def markdown(table: Mapping[str, Any], cosines: Mapping[str, Any]) -> str:
    """Return the tables of `summary`, one for each part of the data, and that of `cosine_table`."""
    lines = []
    for part, rows in table.items():
        lines += [f"**{PARTS[part]}**", "", "| encoder | " + " | ".join(MEASURES.values()) + " | linear - alone |",
                  "|---" * (len(MEASURES) + 2) + "|"]  # fmt: skip
        for row, cells in rows.items():
            shown = [_with_spread(cells[measure], "mean", "std", ".1f") for measure in MEASURES]
            linear = cells["linear"]
            apart = _with_spread(linear, "difference", "difference_std", "+.1f") if "difference" in linear else ""
            lines.append(f"| {row} | " + " | ".join(shown) + f" | {apart} |")
        lines.append("")
    pairs = list(dict.fromkeys(pair for row in cosines.values() for pair in row))
    if pairs:
        lines += ["**Cosines of gradients in the shared blocks**", "", "| encoder | " + " | ".join(pairs) + " |",
                  "|---" * (len(pairs) + 1) + "|"]  # fmt: skip
    for row, cells in cosines.items():
        shown = [_with_spread(cells[pair], "mean", "std", "+.2f") if pair in cells else "" for pair in pairs]
        lines.append(f"| {row} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def _with_spread(cell: Mapping[str, float], value: str, spread: str, form: str) -> str:
    """Return a mean with its standard deviation, which a single seed does not have."""
    shown = format(cell[value], form)
    return shown if cell["seeds"] == 1 else f"{shown} ± {format(cell[spread], form.lstrip('+'))}"


def write_results(folder: Path, joint_steps: int) -> dict[str, Any]:
    """Write `results.json` and `results.md` from the finished probes of all seeds, and return the table."""
    seeds = sorted(int(path.name.removeprefix("seed")) for path in folder.glob("seed*") if path.is_dir())
    results = {seed: results_of(folder, seed) for seed in seeds}
    table = summary({seed: result for seed, result in results.items() if result})
    cosines = cosine_table(folder, results)
    content = {"joint_steps": joint_steps, "table": table, "cosines": cosines, "results": results}
    write_json(folder / "results.json", content, "The results")
    (folder / "results.md").write_text(markdown(table, cosines), encoding="utf-8")
    return table


def main(argv: list[str] | None = None) -> None:
    """Train and probe every set-up of every seed, one after the other, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/joint_learning"), help="folder of runs and results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=900, help="steps of a joint run (900); the others follow from it")
    parser.add_argument("--only", nargs="+", choices=SETUPS, default=list(SETUPS), help="encoders to train")
    args = parser.parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    settings = args.output / "settings.json"
    args.output.mkdir(parents=True, exist_ok=True)
    if settings.is_file() and json.loads(settings.read_text(encoding="utf-8")) != {"steps": args.steps}:
        sys.exit(f"{args.output} holds runs of another number of steps ({settings}); name another --output.")
    write_json(settings, {"steps": args.steps}, "The settings")
    for seed in args.seeds:
        folder = args.output / f"seed{seed}"
        for name in args.only:
            setup, started = SETUPS[name], time.perf_counter()
            train(setup, folder / name, seed, args.steps)
            for part in setup.parts:
                path = folder / f"{name}.{part}.json"
                if not path.is_file():
                    compared = name == ("joint_unrelated" if part == "prose" else "joint_related")
                    found = probe(folder / name / "final", part, seed, compared)
                    write_json(path, found, "The accuracies")
            print(f"seed {seed}, {name}: {time.perf_counter() - started:.0f} s", flush=True)
            write_results(args.output, args.steps)
    print((args.output / "results.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
