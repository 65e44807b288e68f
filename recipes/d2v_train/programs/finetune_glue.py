"""Fine-tune data2vec on a task of GLUE, or for classification or regression of other texts and pairs of texts.

    d2v finetune-glue --model_name_or_path runs/text/final --task_name cola \\
        --output_dir runs/cola --do_train --do_eval
    d2v finetune-glue --model_name_or_path runs/text/final --from_scratch --task_name rte \\
        --dataset_name path/to/glue --output_dir runs/rte_scratch --do_train --do_eval
    accelerate launch --num_processes 4 recipes/finetune_glue.py --model_name_or_path user/data2vec2-text-base \\
        --task_name mnli --output_dir runs/mnli --do_train --do_eval --do_predict --bf16

Several runs in one call, each in its own sub-folder, with a table of results at the end:

    d2v finetune-glue --model_name_or_path runs/text/final --task_name rte --output_dir runs/rte \\
        --do_train --do_eval --learning_rates 1e-5 2e-5 3e-5 --seeds 1 2 3 4 5

Tasks: cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli. Other texts come from --dataset_name (Hub, or a folder with
train and validation files) or --train_file, --validation_file and --test_file (parquet, csv, tsv, json); integers and
strings in the label column are classes, other numbers are scores (--problem_type decides otherwise). --do_predict
writes `predictions/*.tsv`, for GLUE in the format of its server. The same command resumes an interrupted run. A YAML
file of options may come first. `--help` lists all options, including those of `TrainingArguments`
(--activation_checkpointing, --push_to_hub, --early_stopping_patience ...).

The defaults are those of data2vec 2.0, base; `d2v_train/finetuning/texts/glue.py` names their source. All tasks: 10
epochs, Adam (0.9, 0.98), epsilon 1e-6, weight decay 0.1, linear decay to 0, no clipping, texts up to 512 tokens, the
best epoch by the metric of the task. Papers report five seeds. One difference: scores are not rescaled, and the bias
starts at the mean of the training scores (the reference divides those of STS-B by 5). For data2vec 1.0:
--learning_rate 1e-5, except for RTE and STS-B.
"""

from __future__ import annotations

import sys
from typing import Any

from d2v_train.finetuning.program import Program


PROGRAM = Program(
    "d2v finetune-glue",
    __doc__,
    (
        "d2v_train.finetuning.arguments:ModelArguments",
        "d2v_train.finetuning.texts.arguments:TextDataArguments",
        "d2v_train.finetuning.texts.arguments:GlueArguments",
    ),
)


def run_program(argv: list[str]) -> dict[str, Any]:
    """Fine-tune with the options of a command line and return all metrics, or the summary of several runs."""
    options = PROGRAM.parse(argv)
    from d2v_train.finetuning.command_line import with_options_of_file
    from d2v_train.finetuning.run import finetune, prepare_program
    from d2v_train.finetuning.sweep import sweep
    from d2v_train.finetuning.texts.glue import CLASSES, SCORES
    from d2v_train.finetuning.texts.task import TextClassification

    args = options[-1]
    if args.learning_rates is None and args.seeds is None:
        return finetune(TextClassification, *options)
    prepare_program(args)
    metrics = [args.metric_for_best_model]
    if args.task_name is None and args.takes_main_metric:
        metrics = [CLASSES.main_metric, SCORES.main_metric]
    return sweep(
        lambda argv: finetune(TextClassification, *PROGRAM.parse(argv)),
        # The options of a file, not its name: the file may change before the next call.
        with_options_of_file(argv),
        args.output_dir,
        args.learning_rates or [args.learning_rate],
        args.seeds or [args.seed],
        [f"eval_{name.removeprefix('eval_')}" for name in metrics],
        bool(args.greater_is_better),
    )


def main(argv: list[str] | None = None) -> int | str:
    """Run the program as a process, see `Program.launch`."""
    return PROGRAM.launch(run_program, argv)


if __name__ == "__main__":
    sys.exit(main())
