"""Fine-tunes data2vec to classify recordings: keywords, speakers, languages, sounds.

    d2v finetune-audio --model_name_or_path runs/speech/final \\
        --dataset_name path/to/recordings --output_dir runs/keywords --do_train --do_eval
    d2v finetune-audio --config_name audio-base --from_scratch \\
        --dataset_name path/to/recordings --output_dir runs/scratch --do_train --do_eval
    accelerate launch --num_processes 8 -m d2v_train.programs.finetune_audio_classification --bf16 \\
        --model_name_or_path user/data2vec2-audio-base --dataset_name google/speech_commands \\
        --dataset_config_name v0.02 --output_dir runs/commands --do_train --do_eval

The data is a name on the Hub, parquet with a label column, or a folder of recordings, with a folder for each class or
with the column `label` in `metadata.csv`. Where there is no validation split, a part of each class is held out. To
test on voices that training has not heard, leave speakers out: `--exclude_groups george --only_groups george
--eval_split_name train+test`.

Training takes a random part of --max_length_seconds of longer recordings; evaluation takes them whole. The same
command again goes on from the newest whole checkpoint. The folder of the run then holds the model with its feature
extractor, for `pipeline("audio-classification", folder)`. `--help` lists all options, those of `TrainingArguments`
among them; a .yaml file of options may come first.

data2vec publishes one setting for classes of recordings, of AudioSet (fairseq
`examples/data2vec/config/audio/classification/base_classification`). The defaults are its regularisation (spans of 5
frames drawn over 60 % of them, no hidden channels, dropout 0.1, in the attention 0.2, layer drop 0.1), its frozen
convolutions, its betas of Adam (0.9, 0.98) and its cosine with a warm-up of one sixth (5,000 of 30,000 updates). Its
learning rate, 6e-5, belongs to 8 x 160 s of sound in an update; here it is 3e-5 for 32 recordings and 5 epochs, what
transformers' own example uses for wav2vec 2.0 on keywords.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForAudioClassification, EvalPrediction

from d2v_train.batching.lengths import header_seconds
from d2v_train.data.labels import hold_out
from d2v_train.data.records import RawDataset
from d2v_train.data.tables import SplitNotFoundError
from d2v_train.finetuning.arguments import FinetuningArguments
from d2v_train.finetuning.class_labels import (
    ClassTarget,
    class_names,
    class_target,
    fraction_of_each_class,
    labelled,
    warn_of_untaught,
    write_predictions,
)
from d2v_train.finetuning.command_line import launch, parse_arguments
from d2v_train.finetuning.data import FinetuningCollator, FinetuningDataset
from d2v_train.finetuning.metrics import F1, Accuracy
from d2v_train.finetuning.run import prepare_program, record, run
from d2v_train.finetuning.speech.data import SpeechDataArguments
from d2v_train.finetuning.speech.model import SpeechModelArguments
from d2v_train.finetuning.speech.selection import Selection, report_selections
from d2v_train.finetuning.speech.training import SpeechTrainer
from d2v_train.inputs.processors import feature_extractor
from d2v_train.inputs.transforms import build_transform
from modeling_d2v import Data2VecConfig, Data2VecProcessor


logger = logging.getLogger("finetune_audio_classification")


@dataclass
class ClassifierArguments(SpeechModelArguments):
    """Which model to start from, and how it is regularised."""

    head = ("use_weighted_layer_sum", "classifier_proj_size")

    hidden_dropout: float | None = 0.1
    attention_dropout: float | None = 0.2
    mask_time_prob: float | None = 0.6
    mask_time_length: int | None = 5
    mask_feature_prob: float | None = 0.0
    use_weighted_layer_sum: bool | None = field(
        default=None, metadata={"help": "Classify a learned average of all blocks instead of the last one."}
    )
    classifier_proj_size: int | None = field(default=None, metadata={"help": "Width before the classifier."})


@dataclass
class ClassDataArguments(SpeechDataArguments):
    """Which recordings to train on and to evaluate on."""

    label_column_name: str | None = field(default=None, metadata={"help": "Column of the class; default: found."})
    max_length_seconds: float = field(
        default=20.0, metadata={"help": "Train on random parts of this length of longer recordings."}
    )

    train_val_split: float = field(
        default=0.15, metadata={"help": "Share of each class that is held out where there is no validation split."}
    )
    train_fraction: float = field(
        default=1.0,
        metadata={"help": "Share of each class to train on, at least one recording, drawn by --seed: few labels."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_length_seconds <= 0 or not 0 < self.train_val_split < 1:
            raise ValueError("--max_length_seconds must be above 0, and --train_val_split between 0 and 1.")
        if not 0 < self.train_fraction <= 1:
            raise ValueError(f"--train_fraction is {self.train_fraction}; it must be above 0 and at most 1.")

    def open_parts(self, train: bool, evaluation: bool) -> tuple[RawDataset | None, RawDataset | None]:
        """Recordings to train on and to evaluate on, as far as they are wanted.

        Raises:
            ValueError: if they have no classes, or are not there.
        """
        parts = []
        for name, wanted in (("train", train), ("validation", evaluation)):
            try:
                raw = self.open(name, label_column=self.label_column_name) if wanted else None
            except SplitNotFoundError as error:
                if name == "train" or parts[0] is None or self.only_groups:
                    raise
                parts[0], raw = hold_out(parts[0], share=self.train_val_split)
                raw.on_bad = "raise"
                logger.warning(
                    "%s %d recordings are held out of the training data, of every class. They may be of speakers that "
                    "are trained on: --exclude_groups and --only_groups keep speakers apart.",
                    error,
                    len(raw),
                )
            parts.append(None if raw is None else labelled(raw, name))
        return parts[0], parts[1]


@dataclass
class ClassTrainingArguments(FinetuningArguments):
    """`FinetuningArguments` with the settings that the head of this file explains."""

    num_train_epochs: float = 5.0
    learning_rate: float = 3e-5
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 1 / 6
    adam_beta2: float = 0.98
    per_device_train_batch_size: int = 32
    per_device_eval_batch_size: int = 32
    metric_for_best_model: str | None = "accuracy"
    greater_is_better: bool | None = True


def run_program(argv: list[str]) -> dict[str, float]:
    """Fine-tune as a command line says.

    Args:
        argv: its arguments.

    Returns:
        All metrics.
    """
    model_args, data_args, args = parse_arguments(
        ClassifierArguments, ClassDataArguments, ClassTrainingArguments, argv=argv, prog="d2v finetune-audio"
    )
    prepare_program(args)
    train, evaluation = data_args.open_parts(args.do_train, args.do_eval)
    config = read_config(model_args, None if train is None else class_names(train))
    names = [config.id2label[number] for number in range(config.num_labels)]

    selections, seconds, good = [], None, None
    if train is not None:
        selections.append(with_class(train, "training"))
        train = train.select(selections[-1].indices)
        if data_args.train_fraction < 1:
            train = train.select(fraction_of_each_class(train.labels, data_args.train_fraction, args.seed))
        warn_of_untaught(train, names)
        seconds = np.minimum(header_seconds(train), data_args.max_length_seconds)
    if evaluation is not None:
        selections.append(with_class(evaluation, "evaluation"))
        evaluation = evaluation.select(selections[-1].indices)
        good = evaluation.without_bad()
    report_selections(selections, args)

    test = None
    if args.do_predict:
        test = data_args.open("test", label_column=data_args.label_column_name)

    model = model_args.load(AutoModelForAudioClassification, config)
    crop = {"crop_seconds": data_args.max_length_seconds}
    whole = build_transform("audio", None, config, train=False)
    trainer = SpeechTrainer(
        model=model,
        args=args,
        train_dataset=None
        if train is None
        else FinetuningDataset(train, build_transform("audio", crop, config), ClassTarget(train, names), args.seed),
        eval_dataset=None if good is None else FinetuningDataset(good, whole, ClassTarget(good, names, "evaluation")),
        data_collator=FinetuningCollator(model.config),
        processor=Data2VecProcessor(feature_extractor=feature_extractor(model.config)),
        compute_metrics=measure,
        train_seconds=seconds,
        raw_datasets={
            name: raw
            for name, raw in {"training": train, "evaluation": evaluation, "test": test}.items()
            if raw is not None
        },
        card={
            "finetuned_from": model_args.finetuned_from,
            "tasks": "audio-classification",
            "dataset": data_args.described,
            "dataset_args": data_args.dataset_config_name,
        },
    )

    def predict() -> dict[str, float]:
        known = test.without_bad()
        output = trainer.predict(FinetuningDataset(known, whole, class_target(known, names, "test")))
        if trainer.is_world_process_zero():
            probabilities = torch.from_numpy(output.predictions).float().softmax(dim=-1).numpy()
            path = Path(args.output_dir) / "predictions.csv"
            write_predictions(path, known, names, probabilities.argmax(axis=1), probabilities.max(axis=1))
            print(f"{len(known):,} predictions: {path}")
        return {} if output.label_ids is None else record(trainer, "test", output.metrics)

    return run(trainer, predict=predict if args.do_predict else None)


def read_config(model_args: ClassifierArguments, names: list[str] | None) -> Data2VecConfig:
    """The model's configuration with the classes and the regularisation of this run.

    Args:
        model_args: options.
        names: of the classes; `None` for those of the checkpoint.
    """
    classes = {}
    if names is not None:
        classes = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    return model_args.configure(problem_type="single_label_classification", **classes)


def with_class(raw: RawDataset, name: str) -> Selection:
    """The recordings whose class is known."""
    selection = Selection(raw, name)
    selection.leave_out("without a class", raw.labels == -1)
    return selection


def measure(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy, and F1 as the mean over the classes, in which rare ones count as much as frequent ones."""
    classes, labels = prediction.predictions.argmax(axis=-1), prediction.label_ids
    f1 = F1().compute(predictions=classes, references=labels, average="macro")["f1"]
    return {**Accuracy().compute(predictions=classes, references=labels), "macro_f1": f1}


def main(argv: list[str] | None = None) -> int | str:
    """Run the program as a process, see `launch`."""
    return launch(run_program, argv)


if __name__ == "__main__":
    sys.exit(main())
