"""Fine-tune data2vec to classify arrays: series of sensors, ECG, volumes.

    d2v finetune-arrays --model_name_or_path runs/series/final \\
        --dataset_name path/to/arrays --output_dir runs/activities --do_train --do_eval
    d2v finetune-arrays --model_name_or_path runs/series/final --from_scratch \\
        --dataset_name path/to/arrays --output_dir runs/scratch --do_train --do_eval
    accelerate launch --num_processes 8 -m d2v_train.programs.finetune_array_classification --bf16 \\
        --model_name_or_path runs/series/final --dataset_name path/to/arrays \\
        --output_dir runs/activities --do_train --do_eval

The data is a folder of `.npy` files with one folder per class or with the column `label` in `metadata.csv`, parquet
with a column of lists and a label column, or a name on the Hub (`docs/arrays.md`). If there is no validation split, a
part of each class is held out. To test on unseen subjects, exclude them from training: `--exclude_groups anna
--only_groups anna --validation_split train+test`.

An array may have several classes, each predicted independently (`docs/finetuning.md`).

Arrays are standardised as in pretraining, by the statistics saved with the checkpoint. Longer ones than --crop_length
are cropped, at random in training and at the centre in evaluation. The same command resumes an interrupted run from
the newest complete checkpoint. The folder of the run contains the model with its feature extractor. `--help` lists all
options, including those of `TrainingArguments`; a .yaml file of options may come first.

The defaults are those of the program for recordings (`d2v finetune-audio`) without its regularisation, which is for
large models: Adam betas (0.9, 0.98) and a cosine schedule with a warm-up of one sixth.
"""

from __future__ import annotations

import sys

from d2v_train.finetuning.program import Program


PROGRAM = Program(
    "d2v finetune-arrays",
    __doc__,
    (
        "d2v_train.finetuning.arrays.arguments:ArrayModelArguments",
        "d2v_train.finetuning.arrays.arguments:ArrayDataArguments",
        "d2v_train.finetuning.arrays.arguments:ArrayTrainingArguments",
    ),
)


def run_program(argv: list[str]) -> dict[str, float]:
    """Fine-tune with the options of a command line and return all metrics."""
    options = PROGRAM.parse(argv)
    from d2v_train.finetuning.arrays.task import ArrayClassification
    from d2v_train.finetuning.run import finetune

    return finetune(ArrayClassification, *options)


def main(argv: list[str] | None = None) -> int | str:
    """Run the program as a process, see `Program.launch`."""
    return PROGRAM.launch(run_program, argv)


if __name__ == "__main__":
    sys.exit(main())
