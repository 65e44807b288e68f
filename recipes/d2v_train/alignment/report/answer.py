"""The top of the page: the answer in one sentence, whether the controls work, and the numbers behind it."""

from __future__ import annotations

from d2v_train.alignment.conclusions import Control
from d2v_train.alignment.report.charts import Estimate, interval_chart, key, lamp
from d2v_train.alignment.report.markup import (
    Markup,
    decimal,
    details,
    element,
    figure,
    html_table,
    interval_text,
    listed,
    p_value,
    plural,
    section,
)
from d2v_train.alignment.report.media import MODALITY_NAMES, pair_name
from d2v_train.alignment.report.views import MODEL_KINDS, Page, colour_of, measure_name
from d2v_train.alignment.results import PrimaryRow


BADGES = {"yes": ("good", "Yes"), "no": ("plain", "No"), "not supported": ("open", "Not supported by this study")}
FEWEST_CONCEPTS = 30
LONG_COMMAND = 140
MOST_CARDS = 6
"""Controls that have a card each; of more, only those that failed have one."""


def badge(answer: str) -> Markup:
    """Return an answer as a badge."""
    colour, words = BADGES.get(answer, ("open", answer))
    return element("span", words, class_=f"badge {colour}")


def heading(page: Page, links: list[tuple[str, str]]) -> Markup:
    """Return the head of the page."""
    study = page.study
    verdict = study.verdict
    seeds = sorted({model.seed for model in page.of_kind(page.main_kind) if model.seed is not None})
    kinds = [kind for kind in MODEL_KINDS if page.of_kind(kind)]
    permutations = _permutations(page)
    facts = [
        ("Concepts (n)", f"{_concepts(page)}"),
        ("Modalities", listed([MODALITY_NAMES.get(name, name) for name in study.modalities])),
        ("Primary measure", measure_name(page.primary_measure, _settings(page))),
        ("Permutations", permutations),
        ("Seeds", ", ".join(map(str, seeds)) or "–"),
        ("Models", ", ".join(f"{len(page.of_kind(kind))} {kind}" for kind in kinds)),
        ("Date", study.meta.date[:10]),
        ("Code", f"commit {study.meta.commit[:10]}" if study.meta.commit else "–"),
    ]
    modalities = listed([MODALITY_NAMES.get(name, name) for name in study.modalities], "or")
    return element(
        "header",
        element("h1", f"Do latents share concepts across {modalities}?"),
        element("p", verdict.sentence, class_="answer"),
        element("p", badge(verdict.answer), " ", element("span", _caution(page), class_="soft")),
        element(
            "dl",
            [element("div", element("dt", name), element("dd", value)) for name, value in facts if value],
            class_="facts",
        ),
        _command(study.meta.command),
        element("nav", [element("a", name, href=f"#{anchor}") for anchor, name in links], aria_label="Sections"),
    )


def _command(command: str) -> Markup:
    """Return the command line, folded up where it is long."""
    if len(command) <= LONG_COMMAND:
        return element("p", element("code", command))
    return details("The command that made it", element("pre", element("code", command), tabindex=0))


def _concepts(page: Page) -> int:
    return page.study.primary[0].n if page.study.primary else len(page.study.concepts)


def _settings(page: Page) -> dict | None:
    return next((found.settings for found in page.study.tables if found.measure == page.primary_measure), None)


def _permutations(page: Page) -> str:
    for found in page.study.tables:
        if "permutations" in found.settings:
            return f"{found.settings['permutations']:,}"
    content = page.study.preregistration.content
    for part in (content, *(value for value in content.values() if isinstance(value, dict))):
        if isinstance(part.get("permutations"), int):
            return f"{part['permutations']:,}"
    return ""


def _caution(page: Page) -> str:
    number = _concepts(page)
    if number < FEWEST_CONCEPTS:
        return f"With {number} concepts, fewer than {FEWEST_CONCEPTS}, a “no” could not be told from too little data."
    failed = [control.name for control in page.study.controls if not control.passed]
    return f"Read with care: {plural(len(failed), 'control')} did not come out." if failed else ""


def controls(page: Page) -> Markup | None:
    """Return the traffic lights of the controls."""
    found = page.study.controls
    if not found:
        return None
    passed = sum(control.passed for control in found)
    ordered = sorted(found, key=lambda control: (control.passed, control.kind != "positive"))
    cards = [_card(control) for control in ordered if len(found) <= MOST_CARDS or not control.passed]
    short = [_light(control) for control in ordered if len(found) > MOST_CARDS and control.passed]
    return section(
        "controls",
        "Does the method work?",
        element(
            "p",
            f"{passed} of {len(found)} controls came out as they must. A positive control has a known alignment, "
            "which has to be found; a negative one has none, and nothing may be found.",
            class_="lead",
        ),
        element("div", cards, class_="cards") if cards else None,
        element("ul", short, class_="lights") if short else None,
        details("Numbers of the controls", _control_table(found)) if short else None,
    )


def _card(control: Control) -> Markup:
    return element(
        "div",
        element("h4", lamp(control.passed), element("span", control.name), class_="light"),
        element(
            "p",
            element("strong", "passed" if control.passed else "failed"),
            f" · {control.kind} control · expected: {control.expected}",
        ),
        element(
            "p",
            f"{measure_name(control.measure)} {decimal(control.score)}; chance {decimal(control.null_mean)} ± "
            f"{decimal(control.null_std)}, {p_value(control.p)}, n = {control.n}",
            class_="soft",
        ),
        element("p", control.note) if control.note else None,
        class_="card",
    )


def _light(control: Control) -> Markup:
    numbers = f"{decimal(control.score, 2)}, chance {decimal(control.null_mean, 2)}"
    words = element("span", control.name, " ", element("span", f"({control.kind}) {numbers}", class_="soft"))
    return element("li", lamp(control.passed), words, class_="light")


def _control_table(found: list[Control]) -> Markup:
    head = ["control", "kind", "expected", "passed", "measure", "n", "score", "chance", "p", "note"]
    rows = [
        [
            each.name,
            each.kind,
            each.expected,
            "yes" if each.passed else "no",
            measure_name(each.measure),
            each.n,
            decimal(each.score),
            f"{decimal(each.null_mean)} ± {decimal(each.null_std)}",
            p_value(each.p),
            each.note,
        ]
        for each in found
    ]
    return html_table(head, rows)


def evidence(page: Page) -> Markup | None:
    """Return the primary measure of every model, with nulls and differences to untrained networks."""
    study = page.study
    if not study.primary:
        return None
    ordered = sorted(
        study.primary, key=lambda row: (MODEL_KINDS.index(row.kind) if row.kind in MODEL_KINDS else 99, row.seed or 0)
    )
    charts = []
    for first, second in page.pairs:
        rows = [row for row in ordered if (row.first, row.second) == (first, second)]
        title = pair_name(first, second)
        best = max(rows, key=lambda row: row.score)
        alt = (
            f"{title}: {measure_name(rows[0].measure)} of {plural(len(rows), 'model')}; the highest is {best.model}, "
        )
        alt += f"{decimal(best.score)}, chance is {decimal(best.null_mean)}."
        estimates = [
            Estimate(
                row.model, row.score, colour_of(row.kind), row.low, row.high, (row.null_mean, row.null_std), _tip(row)
            )
            for row in rows
        ]
        charts.append(figure(interval_chart(estimates, title=title, alt=alt, axis=measure_name(rows[0].measure))))
    differences = []
    for first, second in page.pairs:
        rows = [
            row for row in ordered if (row.first, row.second) == (first, second) and row.minus_untrained is not None
        ]
        if rows:
            title = f"{pair_name(first, second)}: minus untrained"
            estimates = [
                Estimate(row.model, row.minus_untrained, colour_of(row.kind), row.minus_low, row.minus_high)
                for row in rows
            ]
            alt = f"{title}. " + "; ".join(
                f"{row.model} {decimal(row.minus_untrained, sign=True)} {interval_text(row.minus_low, row.minus_high)}"
                for row in rows
            )
            differences.append(figure(interval_chart(estimates, title=title, alt=alt, axis="difference")))
    kinds = [kind for kind in MODEL_KINDS if any(row.kind == kind for row in study.primary)]
    head = [
        "model",
        "modalities",
        "layers",
        "n",
        "score",
        "95 % interval",
        "chance",
        "z",
        "p",
        "minus untrained",
        "95 % interval",
    ]
    body = [
        [
            row.model,
            pair_name(row.first, row.second),
            " × ".join(row.layers),
            row.n,
            decimal(row.score),
            interval_text(row.low, row.high),
            f"{decimal(row.null_mean)} ± {decimal(row.null_std)}",
            decimal(row.z, 2),
            decimal(row.p, 4),
            decimal(row.minus_untrained, sign=True) if row.minus_untrained is not None else "–",
            interval_text(row.minus_low, row.minus_high),
        ]
        for row in study.primary
    ]
    verdicts = [
        [verdict.kind, pair_name(verdict.first, verdict.second), badge(verdict.answer), verdict.sentence]
        for verdict in study.verdict.pairs
    ]
    return section(
        "evidence",
        "The evidence",
        element(
            "p",
            "The measure, its layers and the rule of the verdict were fixed before any feature of a test example was "
            f"computed. {_explain(page.primary_measure)}",
            class_="lead",
        ),
        key(
            [(kind, colour_of(kind)) for kind in kinds]
            + [("chance: mean ± 2 standard deviations under permuted concepts", "var(--line)")]
        ),
        element("div", charts, class_="row"),
        [
            element("h3", "What training adds"),
            element(
                "p",
                "An untrained network may beat chance, because inputs resemble one another before anything is "
                "learned. The claim is therefore the difference to the same network with random weights, with its "
                "95 % interval over concepts.",
            ),
            element("div", differences, class_="row"),
        ]
        if differences
        else None,
        [
            element("h3", "Verdict by pair of modalities"),
            html_table(["models", "modalities", "answer", "in words"], verdicts),
        ]
        if verdicts
        else None,
        details("The rule of the verdict", element("p", study.verdict.rule)) if study.verdict.rule else None,
        details("All numbers of the primary measure", html_table(head, body)),
    )


def _tip(row: PrimaryRow) -> str:
    return (
        f"{row.model}: {decimal(row.score)} {interval_text(row.low, row.high)}, chance {decimal(row.null_mean)} ± "
        f"{decimal(row.null_std)}, {p_value(row.p)}"
    )


def _explain(measure: str) -> str:
    return {
        "mutual_knn": "Mutual nearest neighbours: for each concept, the share of its k nearest concepts in one "
        "modality that are also among its k nearest in the other.",
        "cka": "Debiased CKA compares the similarities of all pairs of concepts; 0 is none in common, 1 the same.",
        "rsa": "RSA is the rank correlation of the distances of all pairs of concepts.",
        "retrieval": "A linear map is learned on other concepts; the score is how often it finds a held-out one.",
        "direct": "The score is how often the nearest concept of the other modality is the same one.",
    }.get(measure, "")
