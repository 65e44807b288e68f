"""Publishing a checkpoint as a repository on the Hub that `trust_remote_code=True` loads.

The published files are written to a new folder: weights as safetensors, the code of this release, the input
preparation, a card. Logs, optimizer states and other files of a training folder are not published.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from modeling_d2v.backbone_configuration import BackbonePreTrainingConfig
from modeling_d2v.backbone_pretraining import BackboneForPreTraining
from modeling_d2v.configuration_data2vec import Data2VecConfig
from modeling_d2v.ema_teacher import EmaTeacher
from modeling_d2v.model_card import (
    CARD,
    choose_license,
    for_encoder,
    license_in,
    model_card,
    read_license,
    with_license,
    with_name,
    without_processor,
)
from modeling_d2v.modeling_data2vec import Data2VecPreTrainedModel
from modeling_d2v.pretraining_data2vec import Data2VecForPreTraining
from modeling_d2v.pushing import upload


WEIGHTS = ("student", "teacher", "all")
# Files of the input preparation, as transformers names them.
PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)


_FAILURES = (HTTPError, OSError, RuntimeError, ValueError)


class PublishingError(RuntimeError):
    """The upload failed; the message says why and what to do."""


@dataclass(frozen=True)
class Publication:
    """A publication, or the draft of one.

    Args:
        repo_id: The repository.
        files: Sizes of the files in bytes, by path.
        card: Text of README.md.
        license: Licence of the weights.
        url: Address of the commit; `None` for a dry run.
    """

    repo_id: str
    files: dict[str, int]
    card: str
    license: str
    url: str | None = None

    def listing(self) -> str:
        """Return the files with their sizes, and the sum."""
        rows = [*self.files.items(), ("in all", sum(self.files.values()))]
        return "\n".join(f"{size:>14,}  {path}" for path, size in rows)


def find_checkpoint(path: str | PathLike) -> Path:
    """Return the folder of the model: `path` itself, or `final` in the folder of a pretraining run.

    Raises:
        FileNotFoundError: There is no model.
        ValueError: The folder holds another model than a data2vec model.
    """
    root = Path(path)
    for folder in (root, root / "final"):
        if (folder / "config.json").is_file():
            settings, _ = PreTrainedConfig.get_config_dict(folder)
            if settings.get("model_type") not in (Data2VecConfig.model_type, BackbonePreTrainingConfig.model_type):
                raise ValueError(
                    f"{folder} holds a {settings.get('model_type')!r} model, not one of this package. "
                    "`d2v convert` converts data2vec models of transformers and of the reference implementation; "
                    "an encoder of transformers that was pretrained further is published by the folder of its run."
                )
            return folder
    if (root / "adapter_config.json").is_file():
        raise ValueError(
            f"{root} holds an adapter without its model. Merge them first, "
            "`model.merge_and_unload().save_pretrained(folder)`, or upload it with `push_to_hub` of peft."
        )
    steps = sorted(root.glob("checkpoints/step_*"))
    hint = f" The run is not finished; its newest checkpoint is {steps[-1]}." if steps else ""
    raise FileNotFoundError(
        f"There is no model in {root}: give a folder with a config.json, such as that of a finished run, its "
        f"`final`, or one that `save_pretrained` wrote.{hint}"
    )


def stage(
    checkpoint: str | PathLike,
    folder: str | PathLike,
    name: str,
    *,
    weights: str = "student",
    license: str | None = None,
    card: str | None = None,
    extra_files: Sequence[Path] = (),
    max_shard_size: int | str = "50GB",
) -> Publication:
    """Write the content of the repository into a folder.

    Args:
        checkpoint: Folder of a model of any class, or of a finished pretraining run.
        folder: Destination, created if it does not exist.
        name: Name of the repository, for the examples of the card.
        weights: Weights of a pretraining checkpoint: the encoder with the weights of the "student" or the "teacher",
            or "all" of the model. Other checkpoints are published unchanged.
        license: Licence of the weights. Default: that of the card.
        card: Text of README.md. Default: the one in the checkpoint's folder, or else one that describes the model.
        extra_files: Further files, such as the pictures of the card.
        max_shard_size: Size above which the weights are written in parts.

    Raises:
        FileNotFoundError, ValueError: There is no such model, its weights are incomplete, or its licence is unknown
            or does not allow `license`.
    """
    source, folder = find_checkpoint(checkpoint), Path(folder)
    if weights not in WEIGHTS:
        raise ValueError(f"`weights` is {weights!r}; it must be one of {', '.join(WEIGHTS)}.")
    if card is None and (source / CARD).is_file():
        card = (source / CARD).read_text(encoding="utf-8")
    license = choose_license(license, read_license(source) or (card and license_in(card)))
    model = load_saved_model(source)
    is_pretraining = isinstance(model, EmaTeacher)
    if weights == "teacher" and not is_pretraining:
        raise ValueError(f"{source} holds a {type(model).__name__}, which has no teacher: leave `weights` out.")
    if isinstance(model, BackboneForPreTraining) and (weights == "all" or card is None):
        raise ValueError(
            f"{source} is published as its plain encoder, by the folder of the run or with a `card`: the pretraining "
            "model around it needs this package, and has no code of its own."
        )
    if is_pretraining and weights != "all":
        model = model.trained_encoder(weights)
        card = card and for_encoder(card)
    if card is None:
        card = model_card(model.config, type(model).__name__, name, license=license)
    card = with_license(with_name(card, name), license)
    prepares = [source / file for file in PROCESSOR_FILES if (source / file).is_file()]
    if not prepares:
        card = without_processor(card)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    for path in (*prepares, *extra_files):
        shutil.copyfile(path, folder / path.name)
    (folder / CARD).write_text(card, encoding="utf-8")
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*"))}
    return Publication(name, files, card, license)


def publish(
    checkpoint: str | PathLike,
    repo_id: str,
    *,
    weights: str = "student",
    license: str | None = None,
    card: str | None = None,
    extra_files: Sequence[Path] = (),
    max_shard_size: int | str = "50GB",
    dry_run: bool = False,
    **options: Any,
) -> Publication:
    """Upload a checkpoint in one commit. After an interruption, the same call sends what is missing.

    Args:
        checkpoint, weights, license, card, extra_files, max_shard_size: See `stage`.
        repo_id: "user/name", or a name alone for the account of the token.
        dry_run: Only prepare the files, without network access.
        options: `commit_message`, `commit_description`, `private`, `token`, `revision`, `create_pr` of `upload`.

    Raises:
        FileNotFoundError, ValueError: See `stage`.
        PublishingError: The upload failed.
    """
    content: dict[str, Any] = dict(
        weights=weights, license=license, card=card, extra_files=extra_files, max_shard_size=max_shard_size
    )
    _check_name(repo_id)
    with TemporaryDirectory() as folder:
        if dry_run:
            return stage(checkpoint, folder, repo_id, **content)
        # Fail before the work is done if the token is missing or the Hub cannot be reached.
        name = full_name(repo_id, options.get("token"))
        made = stage(checkpoint, folder, name, **content)
        try:
            commit = upload(folder, name, **options)
        except _FAILURES as error:
            raise PublishingError(explain(error, name)) from error
    return Publication(name, made.files, made.card, made.license, commit.pr_url or commit.commit_url)


def full_name(repo_id: str, token: str | None = None) -> str:
    """Return the name of a repository with its user; a name alone belongs to the account of the token.

    Args:
        repo_id: "user/name", or a name alone.
        token: Access token; None for the stored one.

    Raises:
        PublishingError: The name is invalid, the token is missing or refused, or the Hub cannot be reached.
    """
    _check_name(repo_id)
    try:
        user = HfApi(token=token).whoami()["name"]
    except _FAILURES as error:
        raise PublishingError(explain(error, repo_id)) from error
    return repo_id if "/" in repo_id else f"{user}/{repo_id}"


def _check_name(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishingError(explain(error, repo_id)) from error


def explain(error: BaseException, repo_id: str) -> str:
    """Return one or two sentences about why the Hub could not be used, and what to do."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    # The client wraps errors of single uploads.
    cause = next((each for each in causes if isinstance(each, HTTPError | OfflineModeIsEnabled)), error)
    if isinstance(cause, LocalTokenNotFoundError):
        return "There is no token for the Hub. Log in with `hf auth login`, set HF_TOKEN, or pass `token`."
    if isinstance(cause, HFValidationError):
        return f"{repo_id!r} is not a repository name, which has the form user/name. {cause}"
    if isinstance(cause, OfflineModeIsEnabled):
        return "The Hub is switched off by HF_HUB_OFFLINE: unset it, or use a dry run."
    if isinstance(cause, HfHubHTTPError):
        status = cause.response.status_code
        if status == 401:
            return "The Hub does not accept this token. Log in with a new one that has write permission."
        # Contents go to a separate storage, by addresses that expire.
        is_storage = not str(cause.response.request.url).startswith(constants.ENDPOINT)
        if status == 403 and not is_storage:
            return (
                f"This token may not write to {repo_id} ({cause.server_message or 'forbidden'}). Use a token with "
                "write permission, or another repository."
            )
        if is_storage:
            return f"A file was refused by the storage of the Hub ({status}). The same call sends what is missing."
        answer = f"The Hub answered {status}: {cause.server_message or cause}."
        return answer if status in (400, 404, 422) else f"{answer} The same call sends what is missing."
    if isinstance(cause, HTTPError):
        return (
            f"The connection to {constants.ENDPOINT} failed ({type(cause).__name__}: {cause}). Uploaded data is "
            "kept: the same call sends the rest."
        )
    return str(error)


def load_saved_model(folder: Path) -> PreTrainedModel:
    """Load the model of a folder, in the class and precision that it was saved in.

    Raises:
        ValueError: The weights are missing, damaged, or those of another class.
    """
    config = AutoConfig.from_pretrained(folder)
    classes = {each.__name__: each for each in (*_classes(Data2VecPreTrainedModel), BackboneForPreTraining)}
    # Checkpoints inside a pretraining run name no class.
    default = BackboneForPreTraining if isinstance(config, BackbonePreTrainingConfig) else Data2VecForPreTraining
    architecture = (config.architectures or [default.__name__])[0]
    if architecture not in classes:
        raise ValueError(f"{folder} names the class {architecture}, which this release does not have.")
    try:
        model, info = classes[architecture].from_pretrained(folder, dtype="auto", output_loading_info=True)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"The weights in {folder} cannot be read: {error}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(
            f"The weights in {folder} are not those of a complete {architecture}: {len(missing)} tensors are missing, "
            f"such as {missing[0]}."
        )
    return model.eval()


def _classes(base: type) -> list[type]:
    return [base, *(each for child in base.__subclasses__() for each in _classes(child))]
