"""Fine-tune data2vec to classify recordings: keywords, speakers, languages, sounds.

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
--validation_split train+test`.

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

import sys
from dataclasses import dataclass

from d2v_train.finetuning.arguments import ClassArguments, FinetuningArguments, option, with_defaults
from d2v_train.finetuning.command_line import launch, parse_arguments
from d2v_train.finetuning.speech.arguments import SpeechDataArguments, SpeechModelArguments


@with_defaults(
    hidden_dropout=0.1, attention_dropout=0.2, mask_time_prob=0.6, mask_time_length=5, mask_feature_prob=0.0
)
class ClassifierArguments(SpeechModelArguments):
    """Which model to start from, and how it is regularised."""

    head = ("use_weighted_layer_sum", "classifier_proj_size")

    use_weighted_layer_sum: bool | None = option(None, "Classify a learned average of all blocks, not the last.")
    classifier_proj_size: int | None = option(None, "Width before the classifier.")


@dataclass
class ClassDataArguments(ClassArguments, SpeechDataArguments):
    """Which recordings to train on, to evaluate on and to predict."""

    max_length_seconds: float = option(20.0, "Train on random parts of this length of longer recordings.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_length_seconds <= 0:
            raise ValueError(f"--max_length_seconds is {self.max_length_seconds}; it must be above 0.")


@with_defaults(
    num_train_epochs=5.0,
    learning_rate=3e-5,
    lr_scheduler_type="cosine",
    warmup_steps=1 / 6,
    adam_beta2=0.98,
    per_device_train_batch_size=32,
    per_device_eval_batch_size=32,
    metric_for_best_model="accuracy",
    greater_is_better=True,
)
class ClassTrainingArguments(FinetuningArguments):
    """`FinetuningArguments` with the settings that the head of this file explains."""


def run_program(argv: list[str]) -> dict[str, float]:
    """Fine-tune as a command line says, and return all metrics."""
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
