"""The model card of a pretraining run, made from its options, log, record and probes.

Paths describe a machine, not a model: the card shows only the last part of a local folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from d2v_train.options.files import RUN_FILE, read_run_options, read_yaml
from d2v_train.runs.record import read_record
from d2v_train.support.jsonl import read_log
from d2v_train.support.text import duration, lines_of
from modeling_d2v import Data2VecConfig
from modeling_d2v.markdown import Markdown, code, code_block, escape, facts_table, markdown_table
from modeling_d2v.modalities import MODALITIES
from modeling_d2v.model_card import CARD, choose_license, model_card, read_license
from modeling_d2v.sharing.places import PLAIN_FOLDER


LOG_FILE = "log.jsonl"
GENERATED = (
    "<!-- Made from the record of the run, and made again by recipes/publish.py; without this line it is kept. -->"
)
LOSS_ROWS = 8
_COLUMNS = ("loss", "target_std", "prediction_std", "explained_by_prediction", "explained_by_position")
_OF_THE_START = ("command", "end", "step")
# Options that describe a machine or an account.
_HIDDEN = ("output_dir", "hub", "logging.report_to")


def find_run(checkpoint: Path) -> Path | None:
    """Return the pretraining run of a checkpoint: the folder itself, or that around `final` or `checkpoints`."""
    checkpoint = Path(checkpoint).resolve()
    places = [checkpoint, checkpoint.parent, checkpoint.parent.parent]
    return next((place for place in places if (place / RUN_FILE).is_file()), None)


def inherited_license(source: str | None) -> str | None:
    """Return the licence of the weights that a run starts from, following the chain of sources.

    Args:
        source: Folder or name on the Hub; `None` for random weights.

    Returns:
        The licence, or `None` if it is unknown or, for random weights, nobody chose one.
    """
    if source is None:
        return None
    stated = read_license(source)
    run = find_run(Path(source)) if stated is None and Path(source).is_dir() else None
    if run is None:
        return stated
    options = read_yaml(run / RUN_FILE)
    return inherited_license(options.get("init_from") or options.get("backbone"))


def run_card(
    run: Path,
    config: Data2VecConfig,
    name: str,
    *,
    weights: str = "student",
    license: str | None = None,
    probes: Sequence[Path] = (),
    pictures: Sequence[Path] = (),
) -> str:
    """Return the text of the card.

    Args:
        run: Folder of the run.
        config: Configuration of its model.
        name: Name of the repository, for the example.
        weights: Published weights: the encoder of the "student" or the "teacher", or "all".
        license: Licence of the weights. Default: inherited from `init_from`.
        probes: Files with the output of `recipes/probe.py`.
        pictures: Pictures of the curves, to be uploaded beside the card.

    Raises:
        ValueError: A report is invalid, or the source of the weights does not allow the licence.
    """
    start = read_yaml(run / RUN_FILE).get("init_from")
    inherited = inherited_license(start)
    sections, published = training_sections(run, config.modalities, weights, probes, pictures)
    card = model_card(
        config,
        "Data2VecForPreTraining" if weights == "all" else "Data2VecModel",
        name,
        license=choose_license(license, inherited) if license or inherited else None,
        base_model=start if start and is_hub_name(start) else None,
        datasets=published or None,
        sections=sections,
    )
    return f"{card}\n{GENERATED}\n"


def training_sections(
    run: Path,
    modalities: Sequence[str],
    weights: str = "student",
    probes: Sequence[Path] = (),
    pictures: Sequence[Path] = (),
) -> tuple[dict[str, str], list[str]]:
    """Return the card's sections about the run, by heading, and the data sets on the Hub; see `run_card`."""
    options, record = read_run_options(run / RUN_FILE), read_record(run)
    log = read_log(run / LOG_FILE) if (run / LOG_FILE).is_file() else []
    log = [line for line in log if "lr" in line]  # records of probes between two log lines lack it
    start = options.get("init_from") or options.get("backbone")
    sources = [source for modality in modalities for source in _sources(options["data"][modality])]
    sections = {
        "Training data": _training_data(options, record, modalities),
        "Training": facts_table(_settings(options, log, start) | _speed(log, record)),
        "Loss": _losses(log, modalities, pictures),
        "Results": _results(probes, weights),
        "Code": _code(record, options),
    }
    published = sorted({source.partition(":")[0] for source in sources if is_hub_name(source)})
    return {heading: text for heading, text in sections.items() if text}, published


def _training_data(options: dict[str, Any], record: dict[str, Any], modalities: Sequence[str]) -> str:
    """Return a row for each source, and one for each modality with what the record of the run tells it by."""
    rows: list[tuple[Any, ...]] = []
    told = []
    for modality in modalities:
        entries = options["data"][modality]
        split = (options.get(modality) or {}).get("split")
        for entry in entries if isinstance(entries, list) else [entries]:
            given = entry if isinstance(entry, dict) else {"source": entry}
            rows.append((modality, code(shown_source(given.get("source"))), given.get("split") or split or ""))
        found = record.get("data", {}).get(modality) or {}
        # With several sources, "samples" and "names" follow the name of each.
        for part in dict.fromkeys(key.rpartition(" ")[0] for key in found):
            size, names = (found.get(f"{part} {what}".strip()) for what in ("samples", "names"))
            which = Markdown(f"{escape(modality)}, {code(shown_source(part))}") if part else modality
            told.append((which, f"{size:,}" if size else "", code(names) if names else ""))
    parts = [markdown_table([("modality", "data", "split"), *rows])]
    amounts = {name: found for name, found in record.get("amounts", {}).items() if name in modalities}
    if amounts:
        shown = ", ".join(f"{amount_text(found)} ({name})" for name, found in amounts.items())
        parts.append(f"In all: {escape(shown)}.")
    if any(size or names for _, size, names in told):
        parts.append(markdown_table([("modality", "samples", "fingerprint"), *told]))
        parts.append("The fingerprint is a hash of the names and the order of the samples, as in `run.json`.")
    return "\n\n".join(parts)


def amount_text(found: Mapping[str, Any]) -> str:
    """Return an amount of data, the fields of `d2v_train.batching.amounts.Amount`, as text: "about 960 hours"."""
    value, about = found["value"], "" if found["exact"] else "about "
    if found["unit"] == "hours":
        return f"{about}{value:.3g} hours" if value >= 1 else f"{about}{60 * value:.3g} minutes"
    return f"{about}{value if found['exact'] else float(f'{value:.2g}'):,.0f} {found['unit']}"


def is_generated(folder: Path) -> bool:
    """Return whether a folder has no card, or a generated one."""
    path = Path(folder) / CARD
    return not path.is_file() or GENERATED in path.read_text(encoding="utf-8")


def _settings(options: dict[str, Any], log: list[dict[str, Any]], start: str | None) -> dict[str, Any]:
    optim, model = options["optim"], options["model"]
    sections = {name: options[name] for name in MODALITIES if options.get(name)}
    batches = {name: each["batch_size"] or f"{each['batch_tokens']:,} tokens" for name, each in sections.items()}
    taken = "the shared blocks of " if options.get("init_parts") == "blocks" else ""
    shown = {
        "started from": Markdown(f"{taken}{code(shown_source(start))}") if start else "random weights",
        "frozen": "what the modalities share of the blocks" if options.get("freeze") == "blocks" else None,
        "preset": model.get("preset"),
        "steps": log[-1]["step"] if log else options["max_steps"],
        "samples": f"{log[-1]['samples']:,}" if log else None,
        "batch size": ", ".join(f"{size} ({name})" for name, size in batches.items()),
        "learning rate": _rate(optim),
        "AdamW": f"betas {optim['betas'][0]:g} and {optim['betas'][1]:g}, weight decay {optim['weight_decay']:g}",
        "precision": "fp32" if options["mixed_precision"] == "no" else options["mixed_precision"],
        "seed": options["seed"],
    }
    return {key: value for key, value in shown.items() if value is not None}


def _rate(optim: dict[str, Any]) -> str:
    """Return a description of the learning rate schedule."""
    held = f", held {optim['hold']:g}" if optim["hold"] else ""
    return f"{optim['lr']:g}, warm-up {optim['warmup']:g}{held}, then {optim['curve']} to {optim['min_lr']:g}"


def _speed(log: list[dict[str, Any]], record: dict[str, Any]) -> dict[str, Any]:
    """Return size of the data, time and speed, as far as recorded."""
    sizes = {name: found.get("samples") for name, found in record.get("data", {}).items()}
    shares = [line["utilisation"] for line in log if "utilisation" in line]
    speed = f"{median(line['samples_per_s'] for line in log):.4g} samples/s" if log else None
    if shares:
        speed += f", {median(shares):.0%} of the machine's matrix-product rate"
    shown = {
        "samples in the data": ", ".join(f"{size:,} ({name})" for name, size in sizes.items() if size) or None,
        "time": duration(record["progress"]["seconds"]) if "progress" in record else None,
        "speed": speed,
        "peak memory": f"{log[-1]['peak_memory_gib']:.3g} GiB a process" if log else None,
    }
    return {key: value for key, value in shown.items() if value is not None}


def _losses(log: list[dict[str, Any]], modalities: list[str], pictures: Sequence[Path]) -> str:
    parts = [f"![Curves of the run]({picture.name})" for picture in pictures]
    for modality in modalities:
        lines = [line for line in log if f"{modality}/loss" in line]
        if not lines:
            continue
        chosen = sorted({round(i * (len(lines) - 1) / (LOSS_ROWS - 1)) for i in range(LOSS_ROWS)})
        columns = [key for key in _COLUMNS if f"{modality}/{key}" in lines[-1]]
        head = (f"step ({modality})", *(key.replace("_", " ") for key in columns))
        rows = [
            (line["step"], *(_number(line.get(f"{modality}/{key}")) for key in columns))
            for line in (lines[i] for i in chosen)
        ]
        parts.append(markdown_table([head, *rows]))
    if parts:
        parts.append("A low loss does not show that features are useful; a probe of them does.")
    return "\n\n".join(parts)


def _results(paths: Sequence[Path], weights: str) -> str:
    """Return probes as rows: this encoder, the same with random weights, features that need no training."""
    rows = []
    for path in paths:
        for probe in _json_lines(path):
            data, size = code(shown_source(probe["data"])), probe["test_samples"]
            task = Markdown(f"{escape(probe['modality'])}, {data}, {escape(size)} test samples")
            kinds = {"this model": probe["pretrained"], "random weights": probe["random"], **probe.get("simple", {})}
            rows += [
                (task, kind, found["linear"], found["knn"], f"{found['few']} ± {found['few_std']}")
                for kind, found in kinds.items()
            ]
    if not rows:
        return ""
    head = ("task", "features", "linear", "kNN", "few labels")
    text = "Accuracy in % of frozen features on test data (`recipes/probe.py`), beside the same encoder untrained."
    if weights == "teacher":
        text += " Measured with the weights of the student; those published here are the teacher's."
    return f"{text}\n\n{markdown_table([head, *rows])}"


def _code(record: dict[str, Any], options: dict[str, Any]) -> str:
    starts = record["starts"]
    parts = []
    if starts:
        last = {key: value for key, value in starts[-1].items() if value is not None and key not in _OF_THE_START}
        parts.append(facts_table({**last, **({"starts": len(starts)} if len(starts) > 1 else {})}))
    kept = _without_paths(_shown_options(options))
    text = yaml.safe_dump(kept, sort_keys=False)
    block = code_block(text, "yaml")
    parts.append(f"<details><summary>All options of recipes/pretrain.py</summary>\n\n{block}\n\n</details>")
    return "\n\n".join(parts)


def _shown_options(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested options without the hidden ones."""
    return {
        key: _shown_options(value, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in options.items()
        if prefix + key not in _HIDDEN
    }


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the reports of probes in a file; the program prints one per line.

    Raises:
        ValueError: The file has another content.
    """
    try:
        found = [json.loads(line) for line in lines_of(Path(path).read_text(encoding="utf-8")) if line.strip()]
        complete = all({"modality", "data", "pretrained", "random", "test_samples"} <= line.keys() for line in found)
    except (ValueError, AttributeError):
        complete = False
    if not complete:
        raise ValueError(f"{path} is not a report of recipes/probe.py: every line must be one that it printed.")
    return found


def _sources(value: Any) -> list[str | None]:
    """Return the sources of a modality, given as one or as a list of names and mappings."""
    entries = value if isinstance(value, list) else [value]
    return [entry.get("source") if isinstance(entry, dict) else entry for entry in entries]


def is_hub_name(source: str | None) -> bool:
    """Return whether a source is a name on the Hub, and not a local path."""
    return source is not None and source.count("/") == 1 and source[0] not in "./~" and not Path(source).exists()


def is_place(name: str) -> bool:
    """Return whether a name is that of a file or a folder, also of one that is gone, and not one on the Hub."""
    return name[:1] in "./~" or name.count("/") > 1 or Path(name).exists()


def shown_source(source: str | None) -> str:
    """Return a source, or a checkpoint, without local paths, as a card shows it."""
    if source is None or source.split(":")[0] == "builtin":
        return "built-in data"
    if is_hub_name(source):
        return source
    path = Path(source)
    # Of `runs/speech/final`, "final" says nothing.
    inner = path.name in ("final", PLAIN_FOLDER) and path.absolute().parent.name
    return f"{inner}/{path.name}" if inner else path.name


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_paths(each) for each in value]
    is_path = isinstance(value, str) and "/" in value and not is_hub_name(value)
    return Path(value).name if is_path else value


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
