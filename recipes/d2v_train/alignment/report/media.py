"""Pictures, players and sentences inside the page, within a budget of bytes."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

from d2v_train.alignment.report.markup import Markup, element
from d2v_train.alignment.results import ConceptEntry
from d2v_train.inspection.display import picture_uri, recording_uri
from d2v_train.inspection.results import Item
from d2v_train.support.extras import need


logger = logging.getLogger(__name__)

MODALITY_NAMES = {"vision": "pictures", "audio": "spoken words", "text": "sentences"}
"""What readers call the modalities."""
SHORT = {"vision": "picture", "audio": "speech", "text": "text"}
SMALL = 40
"""Pictures of fewer pixels a side are shown with hard edges."""


def pair_name(first: str, second: str) -> str:
    """Return a pair of modalities as readers call it."""
    return f"{MODALITY_NAMES.get(first, first)} × {MODALITY_NAMES.get(second, second)}"


class Media:
    """Examples of concepts as elements of the page.

    Args:
        concepts: Concepts of the study.
        folder: Folder that the paths of examples are relative to.
        budget: Most bytes of all pictures and recordings; further ones are replaced by their names.
    """

    def __init__(self, concepts: list[ConceptEntry], folder: Path, budget: int = 3_600_000):
        self.concepts = {concept.name: concept for concept in concepts}
        self.folder, self.budget, self.used = Path(folder), budget, 0
        self._uri = functools.cache(self._read)

    def example(self, concept: str, modality: str, number: int = 0, note: Markup | str = "") -> Markup:
        """Return an example of a concept in a modality, with its name and a note below it."""
        entry = self.concepts.get(concept)
        shown = entry.exemplars[modality].shown if entry and modality in entry.exemplars else []
        label = element("strong", concept)
        if not shown:
            return element("div", label, note, class_="example")
        source = shown[number % len(shown)]
        if modality == "text":
            return element("div", label, element("q", source), note, class_="example")
        return element(
            "div", self._element(modality, self._uri(modality, source), concept), label, note, class_="example"
        )

    def item(self, item: Item, note: Markup | str = "") -> Markup:
        """Return an input as the model got it, with the name of its concept and a note."""
        label = element("strong", item.concept)
        if item.modality == "text":
            return element("div", label, element("q", item.name), note, class_="example")
        return element("div", self._element(item.modality, item.uri, item.concept), label, note, class_="example")

    def _element(self, modality: str, uri: str, concept: str) -> Markup | None:
        if not uri or self.used + len(uri) > self.budget:
            return None
        self.used += len(uri)
        if modality == "vision":
            small = "small" if uri.startswith("data:image/png") else None
            return element("img", src=uri, alt=f"picture of {concept}", class_=small, loading="lazy")
        return element("audio", controls=True, preload="none", src=uri, aria_label=f"recording of the word {concept}")

    def _read(self, modality: str, source: str) -> str:
        """Return a file as a data URI; "" for one that cannot be read, which the page can do without."""
        path = self.folder / source
        try:
            if modality == "vision":
                with need("PIL.Image", "vision").open(path) as image:
                    return picture_uri(image)
            samples, rate = need("soundfile", "audio").read(path, dtype="float32", always_2d=True)
            return recording_uri(samples.mean(axis=1), rate)
        except (OSError, RuntimeError) as error:
            logger.warning("%s is not shown: %s", path, error)
            return ""
