"""The end of the page: what was done, what was fixed in advance, what it cannot show, and all numbers."""

from __future__ import annotations

from d2v_train.alignment.report.markup import Markup, decimal, details, element, html_table, p_value, section
from d2v_train.alignment.report.media import MODALITY_NAMES, pair_name
from d2v_train.alignment.report.views import Page, measure_name


def nuisances(page: Page) -> Markup | None:
    """Return RSA before and after nuisance matrices are partialled out."""
    found = page.study.nuisances
    if not found:
        return None
    shown = [each for each in found if each.model in page.models and page.models[each.model].kind != "shuffled"]
    head = ["model", "modalities", "RSA", "p", "given all nuisances", "p", "nuisances alone"]
    rows = [
        [
            each.model,
            pair_name(each.first, each.second),
            decimal(each.rsa),
            p_value(each.p),
            decimal(each.partial),
            p_value(each.partial_p),
            "; ".join(f"{name} {decimal(own[0], 2)}, {decimal(own[1], 2)}" for name, own in each.alone.items()),
        ]
        for each in shown
    ]
    main = [row for row, each in zip(rows, shown, strict=True) if page.models[each.model].kind == page.main_kind]
    return section(
        "nuisances",
        "Could something simpler explain it?",
        element(
            "p",
            "Rank correlation of the distances of concepts (RSA), and the same after the distances of simple "
            "properties, such as length, frequency, phonemes, colour and duration, are partialled out. An alignment "
            "that vanishes was one of these. “Alone” is the correlation of a property with each of the two "
            "modalities.",
            class_="lead",
        ),
        html_table(head, main or rows),
        details("All models", html_table(head, rows)) if len(rows) > len(main) > 0 else None,
    )


def concepts(page: Page) -> Markup | None:
    """Return the table of concepts, and those that were left out."""
    study = page.study
    head = [
        "concept",
        "word",
        "group",
        *(f"{MODALITY_NAMES.get(name, name)}" for name in study.modalities),
        "in the corpus",
    ]
    rows = [
        [
            each.name,
            each.word,
            each.group or "–",
            *(each.exemplars[name].count if name in each.exemplars else "–" for name in study.modalities),
            each.corpus_sentences if each.corpus_sentences is not None else "–",
        ]
        for each in study.concepts
    ]
    if not rows:
        return None
    left_out = [[name, reason] for name, reason in study.left_out.items()]
    return section(
        "concepts",
        "The concepts",
        element(
            "p",
            f"{len(rows)} concepts, each with examples in every modality that no model was trained on.",
            class_="lead",
        ),
        details("All concepts and the number of their examples", html_table(head, rows)),
        details(f"Left out, and why ({len(left_out)})", html_table(["name", "reason"], left_out))
        if left_out
        else None,
    )


def methods(page: Page) -> Markup:
    """Return methods and limits."""
    study = page.study
    fixed = study.preregistration
    when = (
        f" It was last changed in commit {fixed.commit[:10]} of {(fixed.committed or '')[:10]}."
        if fixed.commit
        else ""
    )
    changed = " It differs from that commit." if fixed.changed_since else ""
    head = ["model", "kind", "seed", "encoders", "parameters", "note"]
    rows = [
        [
            each.name,
            each.kind,
            "–" if each.seed is None else each.seed,
            "; ".join(f"{name}: {place}" for name, place in each.encoders.items()),
            "; ".join(f"{name}: {count:,}" for name, count in each.parameters.items() if count),
            each.note,
        ]
        for each in study.models
    ]
    return section(
        "methods",
        "Methods and limits",
        element("h3", "Limits"),
        element("ul", [element("li", limit) for limit in study.limits]) if study.limits else None,
        element("h3", "Methods"),
        element(
            "ul",
            element(
                "li",
                "A concept is the mean of the features of its examples; features are z-scored within a modality "
                "first.",
            ),
            element(
                "li",
                "Chance is a permutation of whole concepts, never of single examples: examples of one concept are not "
                "independent, and permuting them would fake significance.",
            ),
            element(
                "li",
                "Intervals come from subsets of the concepts. The best layer pair is compared with the best one under "
                "each permutation.",
            ),
            element(
                "li",
                "Untrained networks, hand-made features and shuffled names go through the same steps as trained "
                "models.",
            ),
            element("li", f"Primary measure: {measure_name(page.primary_measure)}. All others are secondary."),
        ),
        element("h3", "Fixed in advance"),
        element("p", f"{fixed.file}, SHA-256 ", element("code", fixed.sha256), f".{when}{changed}"),
        details("Its content", element("pre", fixed.text, tabindex=0)) if fixed.text else None,
        details("The models", html_table(head, rows)),
        details(
            "Software",
            html_table(["library", "version"], sorted(study.meta.versions.items())),
            element("p", f"Computed in {study.meta.seconds:,.0f} s."),
        ),
    )


def numbers(page: Page) -> Markup | None:
    """Return the numbers of all layer pairs as tables."""
    parts = []
    for found in page.study.tables:
        first, second = (page.models[found.model].layers.get(name, []) for name in (found.first, found.second))
        rows = [
            [
                a,
                b,
                decimal(found.score[i][j]),
                decimal(found.null_mean[i][j]),
                decimal(found.null_std[i][j]),
                decimal(found.z[i][j], 2),
                decimal(found.p[i][j], 4),
            ]
            for i, a in enumerate(first)
            for j, b in enumerate(second)
        ]
        if found.measure == page.primary_measure and page.models[found.model].kind == page.main_kind:
            head = [found.first, found.second, "score", "chance", "its sd", "z", "p"]
            parts.append(
                details(
                    f"{found.model}, {pair_name(found.first, found.second)}, {measure_name(found.measure)}",
                    html_table(head, rows),
                )
            )
    link = element("a", page.json_name, href=page.json_name)
    return section(
        "numbers",
        "All numbers",
        element(
            "p",
            "Every number of this page, and those of all further models, measures and layers, is in ",
            link,
            ", beside this file.",
        ),
        parts,
    )
