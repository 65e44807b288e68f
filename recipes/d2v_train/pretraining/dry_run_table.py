"""The results of a dry run as a human-readable table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from d2v_train.options.run import Options
from d2v_train.support.storage import free_text
from d2v_train.support.text import duration, readable_bytes, table


ADVICE = (
    "Lower micro_batch_size or micro_batch_tokens (without them, raise accumulate), or set "
    "gradient_checkpointing=true or mixed_precision=bf16."
)


def known_table(options: Options, parameters: dict[str, int], sizes: dict[str, int], advice: list[str]) -> str:
    """Return as text what is known before anything is measured.

    Args:
        options: Options of the run.
        parameters: Number of parameters by part.
        sizes: Number of samples in the data, by modality.
        advice: Messages about the options.
    """
    lines = [f"Dry run of {options.output_dir}. Nothing is written there."]
    lines += ["", "Parameters", *_model(parameters)]
    lines += ["", "Samples in the data", *(_row(name, f"{size:,}") for name, size in sizes.items())]
    lines += ["", f"Optimizer steps: {options.max_steps:,}. A few of them are measured now."]
    if advice:
        lines += ["", "Before you start", *(f"  {message}" for message in advice)]
    return "\n".join(lines)


def measured_table(options: Options, facts: dict[str, Any]) -> str:
    """Return as text what was measured.

    Args:
        options: Options of the run.
        facts: Result of `dry_run`.
    """
    lines = ["", "Memory of a process", *_memory(facts["memory"])]
    for name, found in facts["data"].items():
        lines += ["", f"Data: {name}", *_data(found)]
    lines += ["", "Run", *_run(options, facts["run"])]
    return "\n".join(lines)


def _model(counts: dict[str, int]) -> list[str]:
    trained = sum(count for name, count in counts.items() if name != "teacher")
    names = {"teacher": "teacher (an average, not trained)"}
    rows = [_row(names.get(name, name), f"{count:,}") for name, count in counts.items()]
    return [*rows, _row("trained in all", f"{trained:,}")]


def _memory(found: dict[str, Any]) -> list[str]:
    names = {"optimizer": "optimizer (AdamW)", "activations": f"activations of {found['largest']}"}
    rows = [_row(names.get(name, name), readable_bytes(size)) for name, size in found["parts"].items()]
    if found["before"]:
        rows.append(_row("libraries and data", readable_bytes(found["before"])))
    estimate = "estimate" if found["largest"] else "estimate without activations"
    rows.append(_row(estimate, readable_bytes(found["estimate"] + found["before"])))
    if found["measured"] is not None:
        rows.append(_row("measured", readable_bytes(found["measured"])))
    if found["failure"] is not None:
        rows.append(f"  A step does not fit into the memory: {found['failure']}")
        rows.append(f"  {ADVICE}")
    return rows


def _data(found: dict[str, Any]) -> list[str]:
    rows = [
        _row("samples a step", f"{found['samples a step']:,g}"),
        _row("tokens a step", f"{found['tokens a step']:,.0f}"),
        _row("padding", f"{found['padding']:.1%}"),
    ]
    for key, value in found["passes"].items():
        source = key.split("/", 1)[1].removeprefix("epoch").strip("_")
        rows.append(_row(f"passes over {source}" if source else "passes over the data", f"{value:,.4g}"))
    return rows


def _run(options: Options, found: dict[str, Any]) -> list[str]:
    rows = [_row("optimizer steps", f"{found['steps']:,}")]
    if "operations a step" in found:
        rows.append(_row("operations a step", f"{found['operations a step'] / 1e9:,.4g} GFLOP"))
        rows.append(_row("matrix products of the machine", f"{found['matmul rate'] / 1e9:,.4g} GFLOP/s"))
    if "utilisation" in found:
        rows.append(_row("share of them used", f"{found['utilisation']:.0%}"))
    rows.append(_row("reading the data of a step", f"{found['loading a step']:.3g} s"))
    measured = "utilisation" in found or "operations a step" not in found
    if "seconds a step" in found:
        rows.append(_row("seconds a step", f"{found['seconds a step']:.3g}"))
        rows.append(
            _row("expected time" if measured else "expected time, at the very best", duration(found["seconds"]))
        )
    rows.append(_row("a checkpoint", readable_bytes(found["checkpoint"])))
    rows.append(_row(f"disk, for {found['checkpoints']} checkpoints and the model", readable_bytes(found["disk"])))
    return [*rows, f"  In {options.output_dir}, {free_text(Path(options.output_dir))}."]


def _row(name: str, value: str) -> str:
    return "  " + table([(name, value)], align="<>", widths=(46, 16))
