"""Export of the finished model to a folder that `AutoModel.from_pretrained` loads, with its input preparation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from d2v_train.inputs.processor_files import input_processor
from d2v_train.support.atomic import write_folder
from modeling_d2v.model_card import CARD


def export(
    model: Any, folder: Path, transforms: dict[str, Any], tokenizer: Any = None, card: str | None = None
) -> Path:
    """Write weights, configuration, code and input preparation into `folder`.

    The folder is written atomically.

    Args:
        model: The trained `Data2VecForPreTraining`.
        folder: Destination, replaced if it exists.
        transforms: Training transforms by modality, for the normalisation of images.
        tokenizer: Tokenizer of text.
        card: Text of README.md.
    """
    with write_folder(folder) as draft:
        write(draft, model, transforms, tokenizer, card)
    return Path(folder)


def write(draft: Path, model: Any, transforms: dict[str, Any], tokenizer: Any, card: str | None) -> None:
    """Write the files of an export."""
    model.save_pretrained(draft)
    input_processor(model.config, transforms, tokenizer).save_pretrained(draft)
    if card is not None:
        (draft / CARD).write_text(card, encoding="utf-8")
