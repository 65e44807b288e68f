"""Run pretraining configurations for a few steps at reduced size, and print the result of each.

    d2v smoke                              # all configurations, on the CPU, in a few minutes
    d2v smoke audio_base_ls960 my_run.yaml

A run is the program `d2v pretrain` itself, with the overrides of `d2v_train/pretraining/reduced.py`: it reads the
built-in data, trains, saves and exports, and its model is loaded again. It tests that a configuration runs, not what
it learns.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from d2v_train.options.errors import OptionError
from d2v_train.programs.pretrain import run_program as pretrain
from d2v_train.support.jsonl import read_log
from d2v_train.support.text import table


def smoke(config: str, steps: int, folder: Path) -> dict[str, Any]:
    """Run one configuration.

    Args:
        config: Name or path of the configuration.
        steps: Optimizer steps; with a `batch_scale` the nearest possible number.
        folder: Empty folder for the run.

    Returns:
        A row of the table: `name`, `preset`, `parameters` of the student and its decoders at full size, in millions,
        `steps`, `first loss` and `last loss` (of every modality, first and last log line), `seconds`.

    Raises:
        RuntimeError: If a loss is not finite, or steps were skipped.
    """
    # Imported here so that `--help` need not wait for PyTorch and transformers.
    from transformers import AutoModel

    from d2v_train.models.build import build_config
    from d2v_train.options.files import load_options
    from d2v_train.pretraining.reduced import reduced_overrides
    from d2v_train.pretraining.scaling import scale_batch

    options = load_options(config)
    overrides = reduced_overrides(options, steps, str(folder))
    wanted = scale_batch(load_options(config, overrides)).max_steps
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        summary = pretrain([config, *overrides])
    seconds = time.perf_counter() - started
    losses = {name: [record[f"{name}/loss"] for record in read_log(folder / "log.jsonl") if f"{name}/loss" in record]
              for name in options.modalities}  # fmt: skip
    if not all(values and all(map(math.isfinite, values)) for values in losses.values()):
        raise RuntimeError(f"{config} has a loss that is not finite, or a modality without one: {losses}.")
    if summary["steps"] != wanted or summary["skipped_steps"]:
        skipped = summary["skipped_steps"]
        raise RuntimeError(f"{config} took {summary['steps']} steps of {wanted} and skipped {skipped}.")
    AutoModel.from_pretrained(folder / "final")
    return {
        "name": Path(config).stem,
        "preset": options.model.get("preset") or "-",
        "parameters": f"{parameters(build_config(options)) / 1e6:.1f} M",
        "steps": summary["steps"],
        "first loss": " ".join(f"{values[0]:.4g}" for values in losses.values()),
        "last loss": " ".join(f"{values[-1]:.4g}" for values in losses.values()),
        "seconds": f"{seconds:.1f}",
    }


def parameters(config: Any) -> int:
    """Count the trained parameters of a run, student and decoders, without allocating them."""
    import torch

    from modeling_d2v import Data2VecForPreTraining

    with torch.device("meta"):
        model = Data2VecForPreTraining(config)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def run_program(argv: list[str]) -> list[dict[str, Any]]:
    """Run configurations one after another, print the table and return its rows."""
    parser = argparse.ArgumentParser(
        prog="d2v smoke", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", nargs="*", help="names or files (default: every one of pretraining)")
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps of each (default: %(default)s)")
    args = parser.parse_args(argv)
    from tqdm.auto import tqdm
    from transformers.utils import logging as transformers_logging

    from d2v_train.options.files import find_config, pretraining_configs

    logging.disable(logging.WARNING)  # short runs cause warnings
    transformers_logging.disable_progress_bar()
    configs = args.configs or [path.stem for path in pretraining_configs()]
    for config in configs:
        find_config(config)
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = [
                smoke(config, args.steps, Path(folder) / Path(config).stem) for config in tqdm(configs, unit="run")
            ]
    finally:
        logging.disable(logging.NOTSET)
    print(table([list(rows[0]), *(row.values() for row in rows)], align="<<>"))
    return rows


def main(argv: list[str] | None = None) -> int | str:
    """Run the program as a process; `argv` is None for the command line."""
    try:
        run_program(sys.argv[1:] if argv is None else argv)
    except OptionError as error:
        return f"d2v smoke: {error}"
    return 0


if __name__ == "__main__":
    sys.exit(main())
