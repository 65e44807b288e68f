"""Fine-tune data2vec for speech recognition with CTC, on LibriSpeech or on recordings of your own.

    d2v finetune-ctc --model_name_or_path runs/speech/final --dataset_name openslr/librispeech_asr \\
        --dataset_config_name clean --train_split train.100 --output_dir runs/asr --do_train --do_eval
    d2v finetune-ctc ctc_10m --config_name audio-base --from_scratch \\
        --dataset_name path/to/recordings --output_dir runs/asr_scratch --do_train --do_eval
    accelerate launch --num_processes 8 -m d2v_train.programs.finetune_ctc ctc_960h --bf16 \\
        --model_name_or_path runs/speech/final --dataset_name path/to/LibriSpeech --output_dir runs/asr_960h ...

The data is a name on the Hub, parquet, a folder with `metadata.csv` or `metadata.jsonl` (columns `file_name` and
`text`), or LibriSpeech as published (`--train_split train-clean-100 --validation_split dev-clean`). The characters of
the transcripts in upper case become the vocabulary (`--case keep` or `lower`; `--unit phoneme`: phonemes between
spaces, `K AE T | S AE T`), unless the checkpoint or --tokenizer_name has one. What a change of case makes equal is
logged; --language tr has rules of its own.

The same command resumes an interrupted run from the newest complete checkpoint. The folder of the run contains the
model with its tokenizer, for `pipeline("automatic-speech-recognition", folder)`, and `predictions_eval.jsonl`.
`--help` lists all options, including those of `TrainingArguments`; a .yaml file of options may come first.

The defaults are the published settings for 100 hours of LibriSpeech, for wav2vec 2.0 and both versions of data2vec
(Baevski et al. 2022 and 2023; fairseq `examples/wav2vec/config/finetuning/base_100h`): 80,000 updates of about 1,600 s
of speech (here 128 recordings), Adam with a peak of 3e-5 in three stages, frozen convolutions, 65 % of the frames and
50 % of the channels in masked spans. The configurations `ctc_10m`, `ctc_1h`, `ctc_10h` and `ctc_960h` have those for
other amounts.
"""

from __future__ import annotations

import sys

from d2v_train.finetuning.arguments import FinetuningArguments, option, with_defaults
from d2v_train.finetuning.command_line import launch, parse_arguments
from d2v_train.finetuning.speech.arguments import CTCDataArguments, SpeechModelArguments
from d2v_train.options.errors import OptionError, choice


@with_defaults(hidden_dropout=0.0, attention_dropout=0.0, mask_time_prob=0.65, mask_feature_prob=0.5)
class CTCModelArguments(SpeechModelArguments):
    """Model to start from and its regularisation."""

    head = ("final_dropout", "ctc_loss_reduction", "ctc_zero_infinity")

    final_dropout: float | None = option(None, "Dropout before the output layer.")
    ctc_loss_reduction: str | None = option(None, "mean or sum; default: the checkpoint's.")
    ctc_zero_infinity: bool | None = option(None, "Set the loss of transcripts without an alignment to 0.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ctc_loss_reduction is not None:
            choice("--ctc_loss_reduction", self.ctc_loss_reduction, ("mean", "sum"))


@with_defaults(
    learning_rate=3e-5,
    tri_stage="0.1,0.4,0.5",
    adam_beta2=0.98,
    max_grad_norm=0.0,
    per_device_train_batch_size=8,
    gradient_accumulation_steps=16,
    train_sampling_strategy="group_by_length",
    greater_is_better=False,
)
class CTCTrainingArguments(FinetuningArguments):
    """`FinetuningArguments` with the published settings."""

    main_metric = "wer"

    max_steps: int = option(-1, "Number of updates; default: 80,000 if num_train_epochs is not given.")
    num_train_epochs: float | None = option(None, "Number of passes over the data, instead of max_steps.")

    def __post_init__(self) -> None:
        if self.num_train_epochs is None:
            self.max_steps = 80_000 if self.max_steps == -1 else self.max_steps
            self.num_train_epochs = 1.0
        elif self.max_steps != -1:
            raise OptionError(
                f"--max_steps {self.max_steps} and --num_train_epochs {self.num_train_epochs} are two lengths of one "
                "run. Give one of them."
            )
        super().__post_init__()


def run_program(argv: list[str]) -> dict[str, float]:
    """Fine-tune with the options of a command line and return all metrics."""
    options = parse_arguments(
        CTCModelArguments,
        CTCDataArguments,
        CTCTrainingArguments,
        argv=argv,
        prog="d2v finetune-ctc",
        description=__doc__,
    )
    from d2v_train.finetuning.run import finetune
    from d2v_train.finetuning.speech.ctc_task import SpeechRecognition

    return finetune(SpeechRecognition, *options)


def main(argv: list[str] | None = None) -> int | str:
    """Run the program as a process, see `launch`."""
    return launch(run_program, argv)


if __name__ == "__main__":
    sys.exit(main())
