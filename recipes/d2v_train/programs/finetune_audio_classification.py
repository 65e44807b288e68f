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

import sys

from d2v_train.finetuning.program import Program


PROGRAM = Program(
    "d2v finetune-audio",
    __doc__,
    (
        "d2v_train.finetuning.speech.arguments:ClassifierArguments",
        "d2v_train.finetuning.speech.arguments:ClassDataArguments",
        "d2v_train.finetuning.speech.arguments:ClassTrainingArguments",
    ),
)


def run_program(argv: list[str]) -> dict[str, float]:
    """Fine-tune with the options of a command line and return all metrics."""
    options = PROGRAM.parse(argv)
    from d2v_train.finetuning.run import finetune
    from d2v_train.finetuning.speech.classification import AudioClassification

    return finetune(AudioClassification, *options)


def main(argv: list[str] | None = None) -> int | str:
    """Run the program as a process, see `Program.launch`."""
    return PROGRAM.launch(run_program, argv)


if __name__ == "__main__":
    sys.exit(main())
