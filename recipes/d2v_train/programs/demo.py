"""Train one small encoder on images, speech and text, and measure what it learned: minutes on two CPU cores.

    make demo
    d2v demo
    d2v demo --seed 1 --output_dir runs/demo_seed1

The data is built in (handwritten digits, spoken digits, prose), so no download is needed. The demo runs `d2v pretrain`
with the configuration tiny_joint, then `d2v probe` on the frozen encoder, the same encoder with random weights, and
simple features. A finished run in the same folder is not trained again.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path

from d2v_train.options.errors import OptionError
from d2v_train.programs.plot import plot_runs
from d2v_train.support.text import table


CONFIG = "tiny_joint"
CONTENT = {
    "vision": ("images", "handwritten digits, images not seen in training", ""),
    "audio": ("speech", "spoken digits, voices not heard in training", ""),
    "text": (
        "text",
        "area that a paragraph of Python's documentation is about, documents not seen in training",
        "Text does not learn in minutes: useful text features take tens of millions of tokens, and this run sees "
        "fewer\nthan a million. It only shows that one encoder trains on all three together.",
    ),
}
"""Name and task of each modality, and a note on its result."""
MAX_PROBE_SAMPLES = 1500
"""Samples of either part; a larger number takes longer and does not change the result for text."""
ROW_NAMES = {
    "pretrained": "pretrained",
    "random": "random weights",
    "pixels": "pixels",
    "mfcc": "MFCC",
    "mfcc_deltas": "MFCC + deltas",
    "tfidf": "TF-IDF",
}


def run_demo(output_dir: str | Path, seed: int = 0, steps: int | None = None, overrides: list[str] = ()) -> dict:
    """Train, probe, plot, and print the results.

    Args:
        output_dir: Folder of the run.
        seed: Seed of weights, sample order, masks and probes.
        steps: Optimizer steps; None for those of the configuration. The teacher's schedule is shortened with them.
        overrides: Further `key=value` options of the run.

    Returns:
        `seconds` of training and probing, and the results of `run_probe` by modality.
    """
    # Imported here so that `--help` need not wait for PyTorch and transformers.
    from transformers import AutoModel

    from d2v_train.options.files import load_options
    from d2v_train.pretraining.session import pretrain
    from d2v_train.probing.run import ProbeSettings, run_probe

    started = time.perf_counter()
    folder = Path(output_dir)
    arguments = [f"output_dir={json.dumps(str(folder))}", f"seed={seed}", *overrides]
    if steps is not None:
        arguments += [f"max_steps={steps}", f"model.ema_anneal_end_step={max(1, steps // 2)}"]
    options = load_options(CONFIG, arguments)
    print(f"Pretraining for {options.max_steps} steps on {', '.join(options.modalities)} into {folder}.", flush=True)
    pretrain(options)
    trained = time.perf_counter()
    print(f"\nTraining took {trained - started:.0f} s. Probing the frozen encoder ...", flush=True)

    final = folder / "final"
    encoder = AutoModel.from_pretrained(final)
    results = {
        modality: run_probe(
            ProbeSettings(model=str(final), modality=modality, random_seed=seed, max_samples=MAX_PROBE_SAMPLES)
        )
        for modality in CONTENT
        if modality in options.modalities
    }
    summary = {
        "seed": seed,
        "steps": options.max_steps,
        "train_seconds": round(trained - started, 1),
        "probe_seconds": round(time.perf_counter() - trained, 1),
        "probes": results,
    }
    (folder / "demo.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")

    print("\n" + format_table(results))
    print("\n" + verdict(results))
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    print(
        f"\nAutoModel.from_pretrained({str(final)!r}) gives a {type(encoder).__name__} of {parameters / 1e6:.1f} M "
        f"parameters.\n{draw(folder)}\n\n{next_commands(folder)}"
    )
    return summary


def format_table(results: dict[str, dict]) -> str:
    """Return the results of `run_probe` by modality as an aligned table."""
    lines = [_row("accuracy in %", "linear", "kNN", "few")]
    for modality, result in results.items():
        name, content, _ = CONTENT[modality]
        lines += ["", f"{name}: {content} ({result['classes']} classes, chance {result['chance']:.0f})"]
        rows = {"pretrained": result["pretrained"], "random": result["random"], **result["simple"]}
        for key, row in rows.items():
            few = f"{row['few']:.1f} ± {row['few_std']:.1f}"
            lines.append(_row(f"  {ROW_NAMES.get(key, key)}", f"{row['linear']:.1f}", f"{row['knn']:.1f}", few))
    some = next(iter(results.values()))
    lines += [
        "",
        f"linear: logistic regression on all training labels; kNN: {some['neighbours']} nearest neighbours by cosine; "
        f"few: logistic\nregression on {some['few_labels']} labels per class, mean and deviation of "
        f"{len(some['seeds'])} draws. Encoders are frozen; a sample is the mean token of\nthe last block.",
    ]
    return "\n".join(lines)


def _row(*cells: str) -> str:
    return table([cells], align="<>", widths=(24, 6, 6, 12))


def verdict(results: dict[str, dict]) -> str:
    """Return the gain of linear accuracy over random weights of each modality, as text."""
    lines = []
    for modality, result in results.items():
        gain = result["pretrained"]["linear"] - result["random"]["linear"]
        name, _, caveat = CONTENT[modality]
        lines += [f"{name}: linear accuracy {gain:+.1f} points over random weights.", *([caveat] if caveat else [])]
    return "\n".join(lines)


def draw(folder: Path) -> str:
    """Plot the curves of the run, and return a sentence with their path."""
    try:
        return f"Loss and standard deviations: {plot_runs([folder], folder / 'curves.png')}"
    except ImportError:
        return "No curves were drawn, because matplotlib is not installed (pip install matplotlib)."


def next_commands(folder: Path) -> str:
    """Return commands to continue with."""
    final = folder / "final"
    return f"""What to do next:
  d2v pretrain tiny_audio                       # speech alone
  d2v pretrain tiny_cifar10 data.vision=FOLDER  # your own images, cropped and resized to 32 x 32
  d2v probe {final} --modality audio --layer 2
  d2v pretrain tiny_joint output_dir=runs/longer max_steps=6000 model.ema_anneal_end_step=3000"""


def main(argv: list[str] | None = None) -> None:
    """Run the demonstration from the command line."""
    parser = argparse.ArgumentParser(
        prog="d2v demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, help="optimizer steps (default: those of the configuration)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (default: %(default)s)")
    parser.add_argument("--output_dir", default="runs/demo", help="folder of the run (default: %(default)s)")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    try:
        run_demo(args.output_dir, args.seed, args.steps)
    except OptionError as error:
        sys.exit(f"d2v demo: {error}")


if __name__ == "__main__":
    sys.exit(main())
