"""Where the model lies in a folder: one rule for everything that takes the name of a model."""

from __future__ import annotations

import logging
from pathlib import Path


logger = logging.getLogger(__name__)

CONFIG = "config.json"
PLAIN_FOLDER = "final_backbone"
"""Folder of a run that trained an encoder of transformers, with that encoder alone."""


def model_place(source: str) -> str:
    """Return the folder of the model that a folder stands for; names on the Hub are returned as they are.

    A folder with a model stands for itself; a finished run for its `final` or, if it trained an encoder of
    transformers, for its `final_backbone`; a run that is not finished for its newest complete checkpoint.

    Args:
        source: Folder, or name on the Hub.

    Raises:
        FileNotFoundError: It is a folder without a model, or a path that does not exist.
    """
    root = Path(source).expanduser()
    if not root.exists():
        if source.startswith((".", "/", "~")) or source.count("/") > 1:
            raise FileNotFoundError(
                f"There is no model in {source}: it does not exist. Give the folder of a run or its `final`, or the "
                "name of a model on the Hub (user/name)."
            )
        return source
    plain = (root.parent if root.name == "final" else root) / PLAIN_FOLDER
    for folder in (plain, root, root / "final"):
        if (folder / CONFIG).is_file():
            return str(folder)
    checkpoints = [*root.glob("checkpoints/step_*"), *root.glob("checkpoint-*")]
    complete = [path for path in checkpoints if (path / "manifest.json").is_file() and (path / CONFIG).is_file()]
    if not complete:
        raise FileNotFoundError(
            f"There is no model in {source}: give a folder with a {CONFIG}, such as that of a run, its `final`, one "
            "of its checkpoints, or one that `save_pretrained` wrote."
        )
    newest = max(complete, key=lambda path: int("".join(filter(str.isdigit, path.name))))
    logger.warning("The run in %s is not finished; its newest checkpoint is used: %s.", source, newest)
    return str(newest)
