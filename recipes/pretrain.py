"""Pretrains data2vec on text, images, speech, or all of them in one run.

    python recipes/pretrain.py tiny_joint output_dir=runs/tiny_joint
    python recipes/pretrain.py recipes/configs/tiny_vision.yaml data.vision=path/to/images optim.lr=5e-4 max_steps=2000
    python recipes/pretrain.py my_run.yaml --dry_run  # size, memory, time and disk of the run, without starting it
    accelerate launch --num_processes 8 recipes/pretrain.py my_run.yaml --mixed_precision bf16 --report_to tensorboard

The same command again goes on from the newest whole checkpoint. See `recipes/common/options.py` for every option.
"""

from __future__ import annotations

import gc
import json
import logging
import sys
from functools import partial
from pathlib import Path
from typing import Any


# A script's own folder is on the path, the project root is not, unless the project was installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from accelerate import Accelerator
from accelerate.utils import set_seed

from modeling_d2v.publishing import PublishingError
from recipes.common.backbones import (
    backbone_card,
    complete_options,
    export_backbone,
    load_processor,
)
from recipes.common.building import (
    build_config,
    build_model,
    build_steps,
    open_sources,
    options_explained,
    prepare_tokenizer,
)
from recipes.common.checkpointing import CheckpointError
from recipes.common.command_line import as_overrides
from recipes.common.data_report import collect_data_report
from recipes.common.dry_run import dry_run
from recipes.common.engine import check_shared_folder, make_accelerator
from recipes.common.export import export, input_files, push
from recipes.common.health import TrainingStopped
from recipes.common.online_probe import OnlineProbe
from recipes.common.option_errors import OptionError
from recipes.common.option_files import build_options, check_resumable, load_options, read_yaml, save_options
from recipes.common.optional import MissingDependencyError
from recipes.common.options import Options
from recipes.common.pictures import Pictures
from recipes.common.preemption import RunInterrupted
from recipes.common.processes import Processes, ProcessLostError, is_lost_process
from recipes.common.run_card import run_card
from recipes.common.run_lock import FolderInUseError, RunLock
from recipes.common.run_record import RunRecord, recorded
from recipes.common.run_state import checkpoint_bytes, prepare_checkpoints
from recipes.common.scaling import scale_batch, scaling_table
from recipes.common.sharding import whole_model
from recipes.common.storage import WriteError, writing
from recipes.common.throughput import DTYPES
from recipes.common.trackers import tracker_names
from recipes.common.training import Pretraining


logger = logging.getLogger("pretrain")


def main(arguments: list[str]) -> dict[str, Any]:
    """Runs the program.

    Args:
        arguments: configuration, then overrides as `key=value` or `--key value`.

    Returns:
        Summary of the run, see `Pretraining.run`.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        raise SystemExit(__doc__)
    return pretrain(load_options(arguments[0], as_overrides(arguments[1:])))


def pretrain(options: Options) -> dict[str, Any]:
    """Trains by the options; resumes where a former run of the same options stopped.

    Raises:
        OptionError: an option turns out to be wrong when the run is set up.
        CheckpointError: the run cannot be resumed.
        TrainingStopped: training cannot usefully go on.
        RunInterrupted: a signal stopped the run, after a checkpoint.
        FolderInUseError: another run is writing in the folder.
        WriteError: the folder cannot be written.
        ProcessLostError: another process of the run has ended.
        MissingDependencyError: the data needs a library of an extra that is not installed.
    """
    with options_explained("The model"):
        configured = complete_options(options)
        options = scale_batch(configured)
    with options_explained("Devices and trackers"):
        accelerator = make_accelerator(options, tracker_names(options.report_to))
    processes = Processes.of(accelerator)
    logging.basicConfig(level=logging.INFO if processes.main else logging.ERROR, format="%(message)s")
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
    except RunInterrupted:
        accelerator.end_training()
        raise
    except RuntimeError as error:
        if processes.count == 1 or not is_lost_process(error):
            raise
        raise ProcessLostError(
            "Another process of the run has ended, so this one stops too; see the message of the other. The same "
            f"command goes on from the newest checkpoint in {folder}."
        ) from error
    finally:
        lock.release()


def train(options: Options, accelerator: Accelerator, processes: Processes, folder: Path) -> dict[str, Any]:
    """The run in its folder, which no other run is writing in; see `pretrain`. A dry run only reads there."""
    write = processes.main and not options.dry_run
    with options_explained(f"The folder output_dir={folder}"), accelerator.main_process_first():
        prepare_folder(options, folder, write)
    if not options.dry_run:
        check_shared_folder(processes, folder)

    channels = None
    if "vision" in options.modalities:
        with options_explained("The model"):
            channels = build_config(options).vision_config.num_channels
    with options_explained("The data"):
        sources = open_sources(options, channels)
    tokenizer = None
    if "text" in sources:
        # What is bad among the documents is met again, and reported, when they are packed.
        with options_explained("The tokenizer"), accelerator.main_process_first(), collect_data_report():
            tokenizer = prepare_tokenizer(options, sources["text"], folder / "tokenizer", write)
    with options_explained("The model"):
        config = build_config(options, vocab_size=None if tokenizer is None else len(tokenizer))
        model = build_model(options, config)
    with options_explained("The data"), collect_data_report() as report:
        steps = build_steps(options, config, sources, tokenizer, processes)
    if options.dry_run:
        return dry_run(options, accelerator, processes, model, steps)
    with options_explained("The probe"):
        probe = OnlineProbe(options, config, tokenizer, processes)
    pictures = Pictures(options.pictures_every, folder, steps, config, tokenizer, processes)
    files = input_files(config, steps.transforms, tokenizer) if options.backbone is None else {}
    run = Pretraining(options, accelerator, processes, model, steps, folder, [probe, pictures], files)
    pictures.share = run.trackers.log_images
    run.bad_samples.register_data({name: len(source) for name, source in sources.items()}, report)
    start(run)
    record = RunRecord(folder, processes)
    record.add(trackers=run.trackers.start(options, record.content.get("trackers"), run.step))
    with run.trackers:
        record.start(
            options,
            model.config.to_dict(),
            steps.fingerprint,
            step=run.step,
            engine=run.engine,
            matmul_rate=run.speed.measure_peak(DTYPES[options.mixed_precision]),
        )
        with recorded(record, run):
            summary = run.run()

    trained = whole_model(run.inner, keep=processes.main)
    if processes.main:
        repository = options.hub_model_id or folder.resolve().name
        with writing("The finished model", folder):
            if options.backbone is None:
                card = run_card(folder, config, repository, weights="all")
                final = export(trained, folder / "final", steps.transforms, tokenizer, card)
            else:
                card = backbone_card(folder, config, repository)
                beside = options.backbone if tokenizer is None else options.text.tokenizer
                processor = load_processor(beside, config.modality)
                final = export_backbone(trained, folder, processor, card)
        print(json.dumps({**summary, "final": str(final)}, indent=1))
        if options.push_to_hub:
            upload_final(folder / "final", repository)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return summary


def upload_final(final: Path, repository: str) -> None:
    """Publishes the finished model. What prevents it is no reason to lose a run that is finished."""
    try:
        logger.info("Uploaded: %s", push(final, repository))
    except (PublishingError, ValueError) as error:
        again = f"python recipes/publish.py {final} {repository}"
        logger.error("The model is in %s, but it was not uploaded: %s\nTry again with: %s", final, error, again)


def prepare_folder(options: Options, folder: Path, write: bool) -> None:
    """Checks that the run may go on in its folder, and keeps its resolved options there.

    Raises:
        OptionError: the folder holds a run with other options, or a run although `resume` is `never`.
    """
    saved = folder / "run.yaml"
    if any((folder / "checkpoints").glob("step_*")):
        if options.resume == "never":
            raise OptionError(f"{folder} already holds checkpoints and resume is never. Choose another output_dir.")
        try:
            before = build_options(read_yaml(saved))
        except OptionError as error:
            # Weights, optimizer and data say for themselves whether they fit; this is no reason to lose a run.
            logger.warning("%s So whether the run goes on with its own options is not checked.", error)
        else:
            check_resumable(before, options)
    if write:
        save_options(options, saved)


def start(run: Pretraining) -> None:
    """Resumes from the newest whole checkpoint, or seeds the random states of a fresh run.

    Raises:
        CheckpointError: there are checkpoints, and none is whole.
        WriteError: no checkpoint can be written.
    """
    needed = checkpoint_bytes(run.inner)
    newest = run.processes.main_decides(partial(prepare_checkpoints, run.checkpoints, needed))
    # Dropout and decoder noise differ between processes; whatever drew random numbers before this does not matter.
    set_seed(run.options.seed, device_specific=True)
    if newest is not None:
        run.resume(newest)
        logger.info("Resumed from %s.", newest)
    run.accelerator.wait_for_everyone()


def run_program(arguments: list[str]) -> int | str:
    """Runs the program as a process.

    Returns:
        What the process ends with: 0, the code of an interruption, or what was wrong, in a sentence.
    """
    status: int | str = 0
    try:
        main(arguments)
    except RunInterrupted as interruption:
        logger.info("%s", interruption)
        status = interruption.code
    except (
        OptionError,
        CheckpointError,
        WriteError,
        FolderInUseError,
        ProcessLostError,
        TrainingStopped,
        MissingDependencyError,
    ) as error:
        status = f"{type(error).__name__}: {error}"
    # Engine and model go while the interpreter is whole: threads of gloo that let go of tensors later could abort it.
    gc.collect()
    return status


if __name__ == "__main__":
    sys.exit(run_program(sys.argv[1:]))
