"""Fine-tune data2vec to classify recordings: keywords, speakers, languages, sounds.

    d2v finetune-audio --model_name_or_path runs/speech/final \\
        --dataset_name path/to/recordings --output_dir runs/keywords --do_train --do_eval
    d2v finetune-audio --config_name audio-base --from_scratch \\
        --dataset_name path/to/recordings --output_dir runs/scratch --do_train --do_eval
    accelerate launch --num_processes 8 -m d2v_train.programs.finetune_audio_classification --bf16 \\
        --model_name_or_path user/data2vec2-audio-base --dataset_name google/speech_commands \\
        --dataset_config_name v0.02 --output_dir runs/commands --do_train --do_eval

The data is a name on the Hub, parquet with a label column, or a folder of recordings with one folder per class or with
the column `label` in `metadata.csv`. If there is no validation split, a part of each class is held out. To test on
unseen speakers, exclude them from training: `--exclude_groups george --only_groups george --validation_split
train+test`.

A recording may have several classes, each predicted independently (`docs/finetuning.md`).

Longer recordings are randomly cropped to --max_length_seconds in training and used whole in evaluation. The same
command resumes an interrupted run from the newest complete checkpoint. The folder of the run contains the model with
its feature extractor, for `pipeline("audio-classification", folder)`. `--help` lists all options, including those of
`TrainingArguments`; a .yaml file of options may come first.

The data2vec authors published settings for one classification task, AudioSet (fairseq
`examples/data2vec/config/audio/classification/base_classification`). The defaults are its regularisation (60 % of the
frames masked in spans of 5, no masked channels, dropout 0.1, attention dropout 0.2, layer drop 0.1), frozen
convolutions, Adam betas (0.9, 0.98) and cosine schedule with a warm-up of one sixth (5,000 of 30,000 updates). Its
learning rate, 6e-5, is for 8 x 160 s of audio per update; the default here is 3e-5 for 32 recordings and 5 epochs, as
in the example of transformers for wav2vec 2.0 on keywords.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

from d2v_train.finetuning.arguments import ClassArguments, FinetuningArguments, option, with_defaults
from d2v_train.finetuning.command_line import launch, parse_arguments
from d2v_train.finetuning.speech.arguments import SpeechDataArguments, SpeechModelArguments
from d2v_train.options.errors import OptionError


@with_defaults(
    hidden_dropout=0.1, attention_dropout=0.2, mask_time_prob=0.6, mask_time_length=5, mask_feature_prob=0.0
)
class ClassifierArguments(SpeechModelArguments):
    """Model to start from and its regularisation."""

    head = ("use_weighted_layer_sum", "classifier_proj_size")

    use_weighted_layer_sum: bool | None = option(None, "Classify a learned average of all blocks, not the last one.")
    classifier_proj_size: int | None = option(None, "Width of the projection before the classifier.")


@dataclass
class ClassDataArguments(ClassArguments, SpeechDataArguments):
    """Recordings for training, evaluation and prediction."""

    max_length_seconds: float = option(20.0, "Crop longer recordings to this length in training.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.max_length_seconds < math.inf:
            raise OptionError(f"--max_length_seconds is {self.max_length_seconds}. It must be above 0.")


@with_defaults(
    num_train_epochs=5.0,
    learning_rate=3e-5,
    lr_scheduler_type="cosine",
    warmup_steps=1 / 6,
    adam_beta2=0.98,
    per_device_train_batch_size=32,
    per_device_eval_batch_size=32,
    greater_is_better=True,
)
class ClassTrainingArguments(FinetuningArguments):
    """`FinetuningArguments` with the defaults of this program."""

    main_metric = "accuracy"


def run_program(argv: list[str]) -> dict[str, float]:
    """Fine-tune with the options of a command line and return all metrics."""
    options = parse_arguments(
        ClassifierArguments,
        ClassDataArguments,
        ClassTrainingArguments,
        argv=argv,
        prog="d2v finetune-audio",
        description=__doc__,
    )
    from d2v_train.finetuning.run import finetune
    from d2v_train.finetuning.speech.classification import AudioClassification

    return finetune(AudioClassification, *options)


def main(argv: list[str] | None = None) -> int | str:
    """Run the program as a process, see `launch`."""
    return launch(run_program, argv)


if __name__ == "__main__":
    sys.exit(main())
