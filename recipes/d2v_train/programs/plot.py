"""Plot the log of one or several pretraining runs: loss, standard deviations, online probe and gradients by modality.

    d2v plot runs/demo  # writes runs/demo/curves.png
    d2v plot runs/a runs/b runs/c --output docs/seeds.png

Each modality has a row of panels: loss, standard deviation of targets and predictions, and the accuracy of the online
probe if a run has one. A standard deviation that goes to zero is a collapse; a stable one with a falling loss does not
prove that anything was learned, which probes measure. A joint run with `logging.gradients_every` has one more row: the
norms of the modalities' gradients in the shared blocks, and the cosines between them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from d2v_train.support.jsonl import read_log


CURVES_FILE = "curves.png"
PROBES = ("knn", "linear")
GRADIENT_NORM, GRADIENT_COSINE = "shared_gradient_norm", "shared_gradient_cosine"
STYLES = ("-", "--", ":", "-.")
"""Line styles of modalities and pairs of them, where colours tell the runs apart."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito's colour-blind safe colours, one per run."""


def find_log(run: str | Path) -> Path:
    """Return the path of the log of a run, given the run's folder or the log itself.

    Raises:
        FileNotFoundError: If there is none.
    """
    path = Path(run)
    path = path / "log.jsonl" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{run} is neither a log nor the folder of a run with a log.jsonl inside.")
    return path


def default_output(runs: Sequence[str | Path]) -> Path:
    """Return where the curves go: into the folder of a single run, else into the current folder.

    Raises:
        FileNotFoundError: If the single run has no log.
    """
    folder = find_log(runs[0]).parent if len(runs) == 1 else Path()
    return folder / CURVES_FILE


def plot_runs(runs: Sequence[str | Path], output: str | Path) -> Path:
    """Draw the curves of several runs on top of each other.

    Args:
        runs: Folders of runs, or their log files.
        output: Image to write; the suffix determines its format.

    Returns:
        `output`.

    Raises:
        FileNotFoundError: If a run has no log.
        ValueError: If no log contains the loss of a modality.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    paths = [find_log(run) for run in runs]
    logs = [read_log(path) for path in paths]
    names = [path.parent.name if path.name == "log.jsonl" else path.stem for path in paths]
    keys = dict.fromkeys(key for log in logs for record in log for key in record)
    shown = [key.removesuffix("/loss") for key in keys if key.endswith("/loss")]
    if not shown:
        raise ValueError(f"No loss was found in {', '.join(map(str, paths))}; the run may have stopped too early.")
    probes = [f"{modality}/probe_{kind}" for modality in shown for kind in PROBES]
    probed = any(key in record for log in logs for record in log for key in probes)
    columns = 3 if probed else 2
    rows = len(shown) + any(GRADIENT_COSINE in key for key in keys)
    figure, axes = plt.subplots(rows, columns, figsize=(4.5 * columns, 2.4 * rows + 0.6), squeeze=False, sharex="row")
    for row, modality in zip(axes, shown, strict=False):
        for log, name, colour in zip(logs, names, COLOURS * len(logs), strict=False):
            # A line through one point shows nothing.
            style = {"color": colour, "linewidth": 1.5, "marker": "o" if len(log) < 5 else None}
            row[0].plot(*_series(log, f"{modality}/loss"), label=name, **style)
            row[1].plot(*_series(log, f"{modality}/target_std"), **style)
            row[1].plot(*_series(log, f"{modality}/prediction_std"), linestyle="--", **style)
            if probed:
                _plot_probe(row[2], log, modality, style)
        row[0].set_ylabel(modality, fontsize=12)
        for panel in row:
            panel.grid(alpha=0.3)
            panel.set_ylim(bottom=0)
            panel.spines[["top", "right"]].set_visible(False)
    if rows > len(shown):
        _plot_gradients(axes[-1], logs, list(keys), shown)
    axes[0, 0].set_title("loss")
    axes[0, 1].set_title("standard deviation: targets (solid), predictions (dashed)", fontsize=10)
    if probed:
        axes[0, 2].set_title("accuracy of the probe in %, chance dotted", fontsize=10)
    for panel in axes[-1][: len(axes[0]) if rows == len(shown) else 2]:
        panel.set_xlabel("step")
    if len(logs) > 1:
        axes[0, 0].legend(frameon=False, fontsize=9)
    figure.tight_layout()
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)
    plt.close(figure)
    return output


def _plot_probe(panel, log: list[dict], modality: str, style: dict) -> None:
    """Draw the accuracies of the online probe, with those of random weights and of chance."""
    for kind, marker in zip(PROBES, "os", strict=True):
        steps, values = _series(log, f"{modality}/probe_{kind}")
        panel.plot(steps, values, **{**style, "marker": marker, "markersize": 3})
        for compared in (f"{modality}/probe_{kind}_random", f"{modality}/probe_chance"):
            for value in _series(log, compared)[1][:1] if steps else []:
                panel.axhline(value, color=style["color"], linewidth=1, linestyle=":")


def _plot_gradients(panels, logs: list[list[dict]], keys: list[str], modalities: list[str]) -> None:
    """Draw the norms of gradients in the shared blocks and the cosines between modalities; the rest stays empty."""
    pairs = sorted(key for key in keys if key.startswith(f"{GRADIENT_COSINE}/"))
    curves = [
        {name: f"{name}/{GRADIENT_NORM}" for name in modalities},
        {key.partition("/")[2].replace("_", " and "): key for key in pairs}
        | {f"within {name}": f"{name}/{GRADIENT_COSINE}" for name in modalities},
    ]
    titles = ("norm of the gradient in the shared blocks", "cosines of gradients (thin: two batches of one modality)")
    for panel, entries, title in zip(panels, curves, titles, strict=False):
        for log, colour in zip(logs, COLOURS * len(logs), strict=False):
            for place, (name, key) in enumerate(entries.items()):
                points = _series(log, key)
                if points[0]:
                    style = {"linestyle": STYLES[place % len(STYLES)], "linewidth": 0.7 if "within" in name else 1.5}
                    panel.plot(*points, color=colour, label=name, **style)
        labels = dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
        panel.legend(labels.values(), labels.keys(), frameon=False, fontsize=7)
        panel.set_title(title, fontsize=9)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylim(bottom=0)
    panels[1].axhline(0, color="grey", linewidth=0.8)
    for panel in panels[2:]:
        panel.set_axis_off()


def _series(log: list[dict], key: str) -> tuple[list[int], list[float]]:
    """Return steps and values of the lines with `key`; a joint run need not log every modality in every line."""
    points = [(record["step"], record[key]) for record in log if record.get(key) is not None]
    return [step for step, _ in points], [value for _, value in points]


def main(argv: list[str] | None = None) -> None:
    """Plot from the command line."""
    parser = argparse.ArgumentParser(
        prog="d2v plot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", help="folders of runs, or log.jsonl files")
    parser.add_argument(
        "--output", help=f"image to write (default: {CURVES_FILE} in the folder of a single run, else here)"
    )
    args = parser.parse_args(argv)
    try:
        print(plot_runs(args.runs, args.output or default_output(args.runs)))
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"d2v plot: {error}")


if __name__ == "__main__":
    sys.exit(main())
