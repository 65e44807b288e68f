"""A pretraining run from its options to the finished model."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import Accelerator
from accelerate.utils import set_seed
from transformers import PreTrainedModel

from d2v_train.batching.amounts import amount_of
from d2v_train.batching.batches import StepDataset
from d2v_train.batching.build import build_steps
from d2v_train.data.inventory import log_inventories
from d2v_train.data.report import DataReport
from d2v_train.data.source_list import open_sources, parts_of
from d2v_train.engine.engine import check_shared_folder, make_accelerator
from d2v_train.engine.sharding import whole_model
from d2v_train.health.guard import TrainingStopped
from d2v_train.inputs.modalities import source_defaults
from d2v_train.inputs.processor_files import input_files
from d2v_train.measuring.gradients import GradientComparison
from d2v_train.measuring.speed import DTYPES
from d2v_train.models.backbones import complete_options, load_processor
from d2v_train.models.build import build_config, build_model
from d2v_train.options.errors import OptionError, options_explained
from d2v_train.options.files import RUN_FILE, build_options, read_run_options, save_options
from d2v_train.options.resume import check_resumable
from d2v_train.options.run import Options
from d2v_train.pretraining.dry_run import dry_run
from d2v_train.pretraining.run_tokenizer import prepare_tokenizer
from d2v_train.pretraining.scaling import scale_batch, scaling_table
from d2v_train.pretraining.state import checkpoint_bytes, prepare_checkpoints
from d2v_train.pretraining.training import Pretraining
from d2v_train.probing.online import OnlineProbe
from d2v_train.probing.pictures import Pictures
from d2v_train.publishing.backbone import backbone_card, export_backbone
from d2v_train.publishing.export import export
from d2v_train.publishing.hub import publish_finished
from d2v_train.publishing.run_card import inherited_license, run_card
from d2v_train.runs.checkpoints import CheckpointError
from d2v_train.runs.lock import FolderInUseError, RunLock
from d2v_train.runs.record import Progress, RunRecord
from d2v_train.runs.trackers import Trackers, hyperparameters, tracker_names
from d2v_train.support.allocator import keep_freed_memory
from d2v_train.support.extras import MissingDependencyError
from d2v_train.support.processes import Processes, ProcessLostError, fewer_than_launched, is_lost_process
from d2v_train.support.storage import WriteError, writing
from modeling_d2v.model_card import choose_license


logger = logging.getLogger("pretrain")
EXPECTED_ERRORS = (
    OptionError,
    CheckpointError,
    WriteError,
    FolderInUseError,
    ProcessLostError,
    TrainingStopped,
    MissingDependencyError,
)
"""Errors that end a run with their message; any other is a bug and keeps its traceback."""


def pretrain(options: Options) -> dict[str, Any]:
    """Run or resume pretraining.

    Returns:
        Summary of the run, see `Pretraining.run`; of a dry run, its results.

    Raises:
        OptionError: If an option turns out to be wrong when the run is set up.
        CheckpointError: If the run cannot be resumed.
        TrainingStopped: If training diverged, collapsed or has too many bad samples.
        RunInterrupted: If a signal stopped the run, after a checkpoint.
        FolderInUseError: If another run is writing in the folder.
        WriteError: If the folder cannot be written.
        ProcessLostError: If another process of the run has ended.
        MissingDependencyError: If the data needs an optional library that is not installed.
    """
    with options_explained("The model"):
        check_license(options)
        configured = complete_options(options)
        options = scale_batch(configured)
    with options_explained("Devices and trackers"):
        accelerator = make_accelerator(options, tracker_names(options.logging.report_to))
    processes = Processes.of(accelerator)
    logging.basicConfig(level=logging.INFO if processes.main else logging.ERROR, format="%(message)s")
    lacking = fewer_than_launched(processes.count)
    if lacking:
        logger.warning("%s", lacking)
    if processes.device.type == "cpu" and (kept := keep_freed_memory()):
        logger.info("%s", kept)
    if options is not configured:
        logger.info("%s", scaling_table(configured, options))
    folder = Path(options.output_dir)
    if options.dry_run:
        return train(options, accelerator, processes, folder)
    lock = RunLock(folder)
    try:
        with options_explained(f"The folder output_dir={folder}"):
            processes.main_decides(lock.hold)
        return train(options, accelerator, processes, folder)
    except RuntimeError as error:
        if processes.count == 1 or not is_lost_process(error):
            raise
        raise ProcessLostError(
            "Another process of the run has ended, so this one stops too. See the message of the other; without "
            "one it was killed, most often because the memory of the machine was full. The same "
            f"command resumes from the newest checkpoint in {folder}."
        ) from error
    finally:
        lock.release()


def train(options: Options, accelerator: Accelerator, processes: Processes, folder: Path) -> dict[str, Any]:
    """Run pretraining in a folder that is locked for it; see `pretrain`. A dry run only reads there."""
    with options_explained(f"The folder output_dir={folder}"), accelerator.main_process_first():
        prepare_folder(options, folder, write=processes.main and not options.dry_run)
    if not options.dry_run:
        check_shared_folder(processes, folder)
    parts = build_parts(options, accelerator, processes, folder)
    if options.dry_run:
        return dry_run(options, accelerator, processes, parts.model, parts.steps)
    with open_run(options, accelerator, processes, folder, parts) as run:
        summary = run.run()
    trained = whole_model(run.inner, keep=processes.main)
    if processes.main:
        final = save_final(options, trained, folder, parts)
        print(json.dumps({**summary, "final": str(final)}, indent=1))
        if options.hub.push:
            upload_final(folder / "final", options.hub.model_id or folder.resolve().name, options.hub.license)
    accelerator.wait_for_everyone()
    return summary


class RunParts(NamedTuple):
    """Model, data and tokenizer of a run."""

    model: PreTrainedModel
    steps: StepDataset
    tokenizer: Any
    """Tokenizer of text; None without text."""
    sizes: dict[str, int]
    """Number of records of each modality."""
    met: DataReport
    """Bad samples and notes from the setup of the data."""


def build_parts(options: Options, accelerator: Accelerator, processes: Processes, folder: Path) -> RunParts:
    """Open the data and build the model.

    Raises:
        OptionError: If an option turns out to be wrong.
    """
    with options_explained("The model"):
        config = build_config(options)
    with options_explained("The data"):
        sources = open_sources(options, {name: source_defaults(config, name) for name in options.modalities})
    log_inventories(part for source in sources.values() for part in parts_of(source).values())
    tokenizer = None
    if options.text is not None:
        with options_explained("The tokenizer"), accelerator.main_process_first():
            write = processes.main and not options.dry_run
            tokenizer = prepare_tokenizer(options, sources["text"], folder / "tokenizer", write)
    with options_explained("The model"):
        config = build_config(options, vocab_size=None if tokenizer is None else len(tokenizer))
        model = build_model(options, config)
    met = DataReport()
    with options_explained("The data"):
        steps = build_steps(options, config, sources, tokenizer, processes, met)
    return RunParts(model, steps, tokenizer, {name: len(source) for name, source in sources.items()}, met)


@contextlib.contextmanager
def open_run(
    options: Options, accelerator: Accelerator, processes: Processes, folder: Path, parts: RunParts
) -> Iterator[Pretraining]:
    """Set up the training loop and its observers, resume or seed it, and record how the run starts and ends.

    Raises:
        CheckpointError: If there are checkpoints, but none is complete.
        OptionError: If a probe or a tracker cannot be set up.
        WriteError: If checkpoints cannot be written.
    """
    model, steps, tokenizer = parts.model, parts.steps, parts.tokenizer
    trackers = Trackers(accelerator, options.logging, folder)
    with options_explained("The probe"):
        probe = OnlineProbe(options, model.config, tokenizer, processes, steps.transforms)
    share = trackers.log_images
    pictures = Pictures(options.logging.pictures_every, folder, steps, model.config, tokenizer, processes, share)
    files = input_files(model.config, steps.transforms, tokenizer) if options.backbone is None else {}
    observers = [probe, pictures, compare_gradients(options, accelerator, processes, steps)]
    run = Pretraining(options, accelerator, processes, model, steps, folder, trackers, observers, files)
    run.bad_samples.register_data(parts.sizes, parts.met)
    resume_or_seed(run)
    record = RunRecord(folder, processes)
    # Trackers resume their own runs, by the ids of the last start, from the step of the checkpoint.
    record.add(trackers=trackers.start(hyperparameters(options), record.content.get("trackers"), run.step))
    with trackers:
        rate = run.speed.measure_peak(DTYPES[options.mixed_precision])
        fingerprint = steps.fingerprint
        record.start(options, model.config.to_dict(), fingerprint, step=run.step, engine=run.engine, matmul_rate=rate)
        if processes.main:
            found = {name: amount_of(each.dataset, each.transform) for name, each in steps.data.items()}
            record.add(amounts={name: amount._asdict() for name, amount in found.items() if amount is not None})
        with recorded(record, run):
            yield run


def compare_gradients(
    options: Options, accelerator: Accelerator, processes: Processes, steps: StepDataset
) -> GradientComparison:
    """Return the comparison of the modalities' gradients, with the loss weights that they have in a step."""
    groups = [options.modalities] if options.schedule == "mixed" else [[name] for name in options.modalities]
    weights = {name: weight for group in groups for name, weight in options.loss_weights(group).items()}
    scaler = accelerator.scaler
    return GradientComparison(
        options.logging.gradients_every,
        steps,
        processes,
        accelerator.autocast,
        weights,
        loss_scale=lambda: 1.0 if scaler is None else scaler.get_scale(),
    )


def save_final(options: Options, model: PreTrainedModel, folder: Path, parts: RunParts) -> Path:
    """Write the finished model with its card atomically, and return its folder.

    Raises:
        WriteError: If it cannot be written.
    """
    repository, config = options.hub.model_id or folder.resolve().name, parts.model.config
    with writing("The finished model", folder):
        if options.backbone is None:
            card = run_card(folder, config, repository, weights="all", license=options.hub.license)
            return export(model, folder / "final", parts.steps.transforms, parts.tokenizer, card)
        card = backbone_card(folder, config, repository, license=options.hub.license)
        beside = options.backbone if parts.tokenizer is None else options.text.tokenizer
        return export_backbone(model, folder, load_processor(beside, config.modality), card)


def check_license(options: Options) -> None:
    """Check before the training that the model may be uploaded after it.

    Raises:
        OptionError: The licence of the weights is unknown, or that of their source does not allow the chosen one.
    """
    if options.hub.push:
        try:
            choose_license(options.hub.license, inherited_license(options.init_from or options.backbone))
        except ValueError as error:
            raise OptionError(f"hub.push needs a licence. {error}".replace("`license`", "hub.license")) from error


def upload_final(final: Path, repository: str, license: str | None) -> None:
    """Upload the finished model. A failure is logged and does not fail the finished run."""
    publish_finished(final, repository, license=license, commit_message="Upload pretrained data2vec model")


def prepare_folder(options: Options, folder: Path, write: bool) -> None:
    """Check that the run may start or resume in its folder, and save its resolved options there.

    Raises:
        OptionError: If the folder holds a run with other options, or any run and `resume` is `never`.
    """
    saved = folder / RUN_FILE
    if any((folder / "checkpoints").glob("step_*")):
        if options.resume == "never":
            raise OptionError(f"{folder} already holds checkpoints and resume is never. Choose another output_dir.")
        try:
            before = build_options(read_run_options(saved))
        except OptionError as error:
            # Weights, optimizer and data are still checked on their own.
            logger.warning("%s Whether the options are those of the run is therefore not checked.", error)
        else:
            check_resumable(before, options)
    if write:
        save_options(options, saved)


def resume_or_seed(run: Pretraining) -> None:
    """Resume from the newest complete checkpoint, or seed the random states of a new run.

    Raises:
        CheckpointError: If there are checkpoints, but none is complete.
        WriteError: If checkpoints cannot be written.
    """
    needed = checkpoint_bytes(run.inner)
    newest = run.processes.main_decides(partial(prepare_checkpoints, run.checkpoints, needed))
    # Dropout differs between processes. Random numbers drawn before this have no influence.
    set_seed(run.options.seed, device_specific=True)
    if newest is not None:
        run.resume(newest)
        logger.info("Resumed from %s.", newest)
    run.accelerator.wait_for_everyone()


@contextlib.contextmanager
def recorded(record: RunRecord, run: Progress) -> Iterator[None]:
    """Record on exit how the last start ended, with step, samples and seconds."""

    def stop(reason: str) -> None:
        record.stop(reason, step=run.step, samples=run.samples, seconds=run.seconds)

    try:
        yield
    except BaseException as error:
        with contextlib.suppress(WriteError):  # mostly a full disk: do not hide the error that stopped the run
            stop(f"{type(error).__name__}: {error}")
        raise
    stop("finished")
