"""Publishing of checkpoints; those of a pretraining run get a card from the run's record."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from d2v_train.publishing.backbone import backbone_card
from d2v_train.publishing.run_card import find_run, is_generated, run_card
from modeling_d2v import BackbonePreTrainingConfig
from modeling_d2v.model_card import read_license
from modeling_d2v.sharing.publishing import Publication, PublishingError, find_checkpoint, publish


logger = logging.getLogger(__name__)


def publish_checkpoint(
    checkpoint: str | Path,
    repo_id: str,
    *,
    weights: str = "student",
    license: str | None = None,
    card: str | None = None,
    probes: Sequence[Path] = (),
    **options: Any,
) -> Publication:
    """Upload the folder of a run or of a model.

    Args:
        checkpoint: The folder.
        repo_id: "user/name", or a name alone for the account of the token.
        weights, license, options: See `modeling_d2v.sharing.publishing.publish`.
        card: Text of README.md. Default: the one beside the model, unless it was made from the run's record: then it
            is made again, with newer probes and pictures.
        probes: Reports of recipes/probe.py for the card, beside those in the folder of the run (`probe*.json`).

    Raises:
        FileNotFoundError, ValueError: There is no such model, or its licence is unknown.
        PublishingError: The upload failed.
    """
    folder = find_checkpoint(checkpoint)
    run = find_run(folder)
    pictures: list[Path] = []
    if card is None and run is not None and is_generated(folder):
        pictures = sorted(run.glob("*.png"))
        config = AutoConfig.from_pretrained(folder)
        make_card = backbone_card if isinstance(config, BackbonePreTrainingConfig) else run_card
        card = make_card(
            run,
            config,
            repo_id,
            weights=weights,
            license=license or read_license(folder),
            probes=[*sorted(run.glob("probe*.json")), *probes],
            pictures=pictures,
        )
    elif probes:
        raise ValueError(f"Probes are for cards that are made from a run's record; that of {folder} is not changed.")
    return publish(folder, repo_id, weights=weights, license=license, card=card, extra_files=pictures, **options)


def publish_finished(folder: str | Path, repo_id: str, **options: Any) -> str | None:
    """Upload the finished model of a run. A failure is logged with the command that repeats it; the run is not lost.

    Args:
        folder, repo_id, options: See `publish_checkpoint`.

    Returns:
        Address of the commit; None after a failure.
    """
    try:
        made = publish_checkpoint(folder, repo_id, **options)
    except (PublishingError, ValueError) as error:
        again = f"d2v publish {folder} {repo_id}"
        logger.error("The model is in %s, but it was not uploaded: %s\nTry again with: %s", folder, error, again)
        return None
    logger.info("Uploaded: %s", made.url)
    return made.url
