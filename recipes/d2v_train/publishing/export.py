"""The finished model as a folder that `AutoModel.from_pretrained` loads, with all that prepares its inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from d2v_train.inputs.processor_files import input_processor
from d2v_train.publishing.hub import publish_checkpoint
from d2v_train.support.atomic import write_folder
from modeling_d2v.model_card import CARD


def export(
    model: Any, folder: Path, transforms: dict[str, Any], tokenizer: Any = None, card: str | None = None
) -> Path:
    """Writes weights, configuration, code and input preparation into `folder`.

    The folder appears whole or not at all.

    Args:
        model: the trained `Data2VecForPreTraining`.
        folder: where to write; replaced if it exists.
        transforms: training transforms by modality, for the normalisation of images.
        tokenizer: tokenizer of the text.
        card: text of README.md.
    """
    with write_folder(folder) as draft:
        write(draft, model, transforms, tokenizer, card)
    return Path(folder)


def write(draft: Path, model: Any, transforms: dict[str, Any], tokenizer: Any, card: str | None) -> None:
    """Writes what `export` exports."""
    model.save_pretrained(draft)
    input_processor(model.config, transforms, tokenizer).save_pretrained(draft)
    if card is not None:
        (draft / CARD).write_text(card, encoding="utf-8")


def push(final: Path, repository: str) -> str:
    """Uploads the encoder of an exported model, with a card made from the run's record.

    Args:
        final: the exported folder, inside that of the run.
        repository: "user/name", or a name alone for one's own.

    Returns:
        The address of the commit.

    Raises:
        PublishingError: the upload failed.
        ValueError: the licence of the weights that the run started from is not known.
    """
    return publish_checkpoint(final, repository, commit_message="Upload pretrained data2vec model").url
