"""Export of the encoder of transformers that a run has trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from d2v_train.options.files import RUN_FILE, read_yaml
from d2v_train.publishing.run_card import GENERATED, inherited_license, is_hub_name, training_sections
from d2v_train.support.atomic import write_folder
from modeling_d2v import BackboneForPreTraining, BackbonePreTrainingConfig
from modeling_d2v.markdown import code, escape, python_string
from modeling_d2v.model_card import CARD, PAPERS, choose_license, license_text
from modeling_d2v.sharing.places import PLAIN_FOLDER


_USE = """\
```python
from transformers import AutoModel

model = AutoModel.from_pretrained({name})
```"""


def export_backbone(model: BackboneForPreTraining, folder: Path, processor: Any, card: str | None = None) -> Path:
    """Write the whole model to `final`, for further pretraining, and the plain encoder beside it.

    Args:
        model: The trained model.
        folder: Folder of the run.
        processor: Tokenizer, image processor or feature extractor for both, or None.
        card: Text of README.md of the plain encoder.

    Returns:
        The folder of the plain encoder, which `AutoModel` loads without this package.
    """
    for name, saved in (("final", model), (PLAIN_FOLDER, model.trained_encoder())):
        with write_folder(folder / name) as draft:
            saved.save_pretrained(draft)
            if processor is not None:
                processor.save_pretrained(draft)
            if card is not None and name == PLAIN_FOLDER:
                (draft / CARD).write_text(card, encoding="utf-8")
    return folder / PLAIN_FOLDER


def backbone_card(
    run: Path,
    config: BackbonePreTrainingConfig,
    name: str,
    *,
    weights: str = "student",
    license: str | None = None,
    probes: Sequence[Path] = (),
    pictures: Sequence[Path] = (),
) -> str:
    """Return the text of the card of the plain encoder; arguments and errors are those of `run_card`."""
    backbone = read_yaml(run / RUN_FILE)["backbone"]
    inherited = inherited_license(backbone)
    license = choose_license(license, inherited) if license or inherited else None
    sections, published = training_sections(run, config.modalities, weights, probes, pictures)
    metadata = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag="feature-extraction",
        tags=["data2vec", f"arxiv:{PAPERS['1.0']}"],
        base_model=backbone if is_hub_name(backbone) else None,
        datasets=published or None,
    )
    shown = code(backbone if is_hub_name(backbone) else Path(backbone).name)
    licence = license_text(license, has_code=False)
    parts = {"Use": _USE.format(name=python_string(name)), **sections, "Licence": licence}
    body = "\n\n".join(f"## {heading}\n\n{text}" for heading, text in parts.items())
    summary = (
        f"{shown} ({config.encoder_class}), pretrained further with the objective of data2vec 1.0: an encoder without "
        "a head."
    )
    title = escape(name.rsplit("/", 1)[-1])
    return f"---\n{metadata.to_yaml()}\n---\n\n# {title}\n\n{summary}\n\n{body}\n\n{GENERATED}\n"
