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

from d2v_train.finetuning.program import Program


PROGRAM = Program(
    "d2v finetune-ctc",
    __doc__,
    (
        "d2v_train.finetuning.speech.arguments:CTCModelArguments",
        "d2v_train.finetuning.speech.arguments:CTCDataArguments",
        "d2v_train.finetuning.speech.arguments:CTCTrainingArguments",
    ),
)


def run_program(argv: list[str]) -> dict[str, float]:
    """Fine-tune with the options of a command line and return all metrics."""
    options = PROGRAM.parse(argv)
    from d2v_train.finetuning.run import finetune
    from d2v_train.finetuning.speech.ctc_task import SpeechRecognition

    return finetune(SpeechRecognition, *options)


def main(argv: list[str] | None = None) -> int | str:
    """Run the program as a process, see `Program.launch`."""
    return PROGRAM.launch(run_program, argv)


if __name__ == "__main__":
    sys.exit(main())
