"""The model card of a fine-tuned model: its origin, training and results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from d2v_train.publishing.run_card import amount_text, inherited_license, is_place, shown_source
from modeling_d2v.markdown import code, escape, markdown_table, python_string


NO_RESULTS = ("_runtime", "_samples_per_second", "_steps_per_second", "_samples", "_preparation_time")
SHOWN_LABELS = 20
"""Most classes that a card names."""
USE = """```python
from transformers import pipeline

import modeling_d2v  # registers the classes; without the package installed, pass trust_remote_code=True instead


model = pipeline("{task}", {name})
```"""

USE_PLAIN = """```python
from transformers import pipeline


model = pipeline("{task}", {name})
```"""


def finetuned_card(
    name: str,
    results: Mapping[str, float],
    settings: Mapping[str, Any],
    *,
    repository: str | None = None,
    finetuned_from: str | None = None,
    tasks: str | None = None,
    dataset: str | None = None,
    dataset_args: str | None = None,
    data: Sequence[Mapping[str, Any]] = (),
    labels: Sequence[str] = (),
    model_type: str | None = None,
    language: str | None = None,
    license: str | None = None,
    tags: str | list[str] = (),
    use: Callable[[str], str] | None = None,
) -> str:
    """Return the text of the card, with its metadata on top.

    Args:
        name: Name of the model.
        results: Metrics of the evaluation by name.
        settings: Settings of the training by name; empty if it was only evaluated.
        repository: Name on the Hub, if it is uploaded.
        finetuned_from: Name on the Hub, or folder, of the pretrained model; `None` if there was none.
        tasks: Task of the Hub, such as "text-classification".
        dataset, dataset_args: Name of the data, and of its configuration.
        data: What each data set is: part, source, split, samples, amount and fingerprint.
        labels: Names of the classes.
        model_type: Type of a model of transformers, which needs no code of this package; None for one of this package.
        language, tags: Metadata.
        license: Licence of the weights; default: that of the pretrained model.
        use: `use(name)` returns the example of a task without a pipeline; default: the pipeline of `tasks`.
    """
    # A folder describes the machine, and the Hub would refuse a card with one instead of the name of a model.
    on_hub = finetuned_from is not None and not is_place(finetuned_from)
    dataset = dataset and (Path(dataset).name if is_place(dataset) else dataset) or "unnamed data"
    named = f"{dataset} ({dataset_args})" if dataset_args else dataset
    metrics = {key: value for key, value in results.items() if _is_result(key)}
    metadata = ModelCardData(
        language=language,
        license=license or inherited_license(finetuned_from),
        library_name="transformers",
        pipeline_tag=tasks,
        tags=[*([] if model_type else ["data2vec"]), *([tags] if isinstance(tags, str) else tags)],
        base_model=finetuned_from if on_hub else None,
        model_name=name,
        eval_results=[
            EvalResult(
                task_type=tasks or "other",
                dataset_type=dataset,
                dataset_name=named,
                metric_type=key.removeprefix("eval_"),
                metric_value=value,
            )
            for key, value in metrics.items()
            if not key.endswith("_loss")
        ]
        or None,
    )
    origin = (
        "random weights"
        if finetuned_from is None
        else code(finetuned_from if on_hub else shown_source(finetuned_from))
    )
    parts = [
        f"---\n{metadata.to_yaml()}\n---",
        f"# {escape(name)}",
        f"A {escape(model_type or 'data2vec')} model for {_named(tasks)}, "
        f"{'trained from' if settings else 'evaluated with the weights of'} {origin} on {escape(named)}.",
    ]
    if use is not None:
        parts.append(f"## Use\n\n{use(repository or name)}")
    elif tasks:
        example = USE_PLAIN if model_type else USE
        parts.append(f"## Use\n\n{example.format(task=tasks, name=python_string(repository or name))}")
    if data:
        parts.append(f"## Data\n\n{_data(data, labels)}")
    if metrics:
        parts.append(f"## Results on the evaluation data\n\n{markdown_table(_rows('metric', metrics))}")
    if settings:
        parts.append(f"## Training\n\n{markdown_table(_rows('setting', settings))}")
    return "\n\n".join(parts) + "\n"


def _data(data: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> str:
    """Return a table of the data sets, and the classes."""
    sized = any(each["amount"] for each in data)
    head = ("part", "data", "split", "samples", *(["amount"] if sized else []), "fingerprint")
    rows = [
        (
            each["part"],
            code(shown_source(each["source"] or None)),
            each["split"],
            f"{each['samples']:,}",
            *([amount_text(each["amount"]) if each["amount"] else ""] if sized else []),
            code(each["fingerprint"]),
        )
        for each in data
    ]
    text = f"{markdown_table([head, *rows])}\n\nThe fingerprint is a hash of the names and the order of the samples."
    if labels:
        more = ", ..." if len(labels) > SHOWN_LABELS else "."
        text += f"\n\n{len(labels)} classes: {', '.join(map(code, labels[:SHOWN_LABELS]))}{more}"
    return text


def _named(tasks: str | None) -> str:
    return "a task of its own" if tasks in (None, "other") else tasks


def _is_result(key: str) -> bool:
    return key.startswith(("eval_", "test_")) and not key.endswith(NO_RESULTS)


def _rows(head: str, values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    shown = ((key, f"{value:.4g}" if isinstance(value, float) else value) for key, value in values.items())
    return [(head, "value"), *shown]
