"""Uploads to the Hub: `push_to_hub` of every model, and its commit."""

import logging
import re
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import EntryNotFoundError

from .model_card import CARD, choose_license, model_card, read_license, with_license


logger = logging.getLogger(__name__)

_WEIGHTS = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?")


def upload(
    folder: str | PathLike,
    repo_id: str,
    *,
    commit_message: str = "Upload model",
    commit_description: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> CommitInfo:
    """Upload the files of a folder to a repository, in one commit.

    The repository is created if it does not exist. Nothing is visible before all files have arrived; after an
    interruption the same call sends only what is missing. Weights in the repository that the folder lacks, such as the
    parts of a sharded model, are removed; all other files stay.

    Args:
        folder: Folder to upload.
        repo_id: "user/name", or a name alone for the account of the token.
        commit_message, commit_description: Title and body of the commit.
        private: Whether a new repository is private. Default: the setting of the account.
        token: Token of the account; default: the stored one.
        revision: Branch, created if it does not exist. Default: main.
        create_pr: Open a pull request instead of changing a branch.

    Raises:
        ValueError: `private` is set and the repository exists and is public.
        HfHubHTTPError, HFValidationError: As `huggingface_hub` raises them.
    """
    api = HfApi(token=token)
    name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if private and not api.model_info(name).private:
        raise ValueError(
            f"{name} exists and is public: nothing was uploaded. Make it private first, or leave this out."
        )
    if revision is not None and not create_pr and not revision.startswith("refs/pr/"):
        api.create_branch(name, branch=revision, exist_ok=True)
    root = Path(folder)
    paths = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
    stale = [file for file in api.list_repo_files(name, revision=revision) if _WEIGHTS.fullmatch(file)]
    return api.create_commit(
        name,
        operations=[
            *(CommitOperationDelete(file, is_folder=False) for file in stale if file not in paths),
            *(CommitOperationAdd(path_in_repo=file, path_or_fileobj=path) for file, path in paths.items()),
        ],
        commit_message=commit_message,
        commit_description=commit_description,
        revision=revision,
        create_pr=create_pr,
    )


class PushToHub:
    """`push_to_hub` for models: weights, code, and a card that names the licence."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        license: str | None = None,
        max_shard_size: int | str = "50GB",
        tags: list[str] | None = None,
        **options: Any,
    ) -> CommitInfo:
        """Upload the model with the code that loads it. A card in the repository is kept.

        Args:
            repo_id: "user/name", or a name alone for the account of the token.
            license: Licence of the weights. Default: that of the model that these weights were loaded from; none,
                with a warning, if it is not known.
            max_shard_size: Size above which the weights are written in parts.
            tags: Tags of the card.
            options: `commit_message`, `commit_description`, `private`, `token`, `revision`, `create_pr` of `upload`.

        Returns:
            The commit, with its address `commit_url`.

        Raises:
            ValueError: The source of the weights does not allow the licence.
        """
        token, source = options.get("token"), self.config._name_or_path
        stated = read_license(source, token=token)
        kept = _existing_card(repo_id, token)
        license = license or stated or (kept and kept.data.license)
        if license:
            license = choose_license(license, stated)
        else:
            logger.warning("No licence of the weights is known, so the new card names none. Set `license`.")
        card = kept or ModelCard(model_card(self.config, type(self).__name__, repo_id, license=license))
        wanted = [*(card.data.tags or []), *(self.model_tags or []), *(tags or [])]
        card.data.tags = list(dict.fromkeys(wanted))
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, max_shard_size=max_shard_size)
            text = with_license(str(card), license) if license else str(card)
            (Path(folder) / CARD).write_text(text, encoding="utf-8")
            return upload(folder, repo_id, **options)


def _existing_card(repo_id: str, token: str | bool | None) -> ModelCard | None:
    """Return the card of a repository, if it has one."""
    api = HfApi(token=token)
    if "/" not in repo_id:
        repo_id = f"{api.whoami()['name']}/{repo_id}"
    try:
        return ModelCard.load(repo_id, token=token, ignore_metadata_errors=True) if api.repo_exists(repo_id) else None
    except EntryNotFoundError:
        return None
