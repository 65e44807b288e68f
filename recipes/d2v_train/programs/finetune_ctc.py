"""Fine-tunes data2vec for speech recognition with CTC, on LibriSpeech or on recordings of your own.

    d2v finetune-ctc --model_name_or_path runs/speech/final --dataset_name openslr/librispeech_asr \\
        --dataset_config_name clean --train_split_name train.100 --output_dir runs/asr --do_train --do_eval
    d2v finetune-ctc ctc_10m.yaml --config_name audio-base --from_scratch \\
        --dataset_name path/to/recordings --output_dir runs/asr_scratch --do_train --do_eval
    accelerate launch --num_processes 8 -m d2v_train.programs.finetune_ctc ctc_960h.yaml --bf16 \\
        --model_name_or_path runs/speech/final --dataset_name path/to/LibriSpeech --output_dir runs/asr_960h ...

The data is a name on the Hub, parquet, a folder with `metadata.csv` or `metadata.jsonl` (columns `file_name` and
`text`), or LibriSpeech as it is published (`--train_split_name train-clean-100 --eval_split_name dev-clean`).
Transcripts are written in capitals (`--do_lower_case`: small letters), and their characters become the vocabulary,
unless the checkpoint has one or --tokenizer_name names one.

The same command again goes on from the newest whole checkpoint. The folder of the run then holds the model with its
tokenizer, for `pipeline("automatic-speech-recognition", folder)`, and `predictions_eval.jsonl`. `--help` lists all
options, those of `TrainingArguments` among them; a .yaml file of options may come first.

The defaults are what the authors publish for 100 hours of LibriSpeech, for wav2vec 2.0 and both versions of data2vec
(Baevski et al. 2022 and 2023; fairseq `examples/wav2vec/config/finetuning/base_100h`): 80,000 updates of about 1,600 s
of speech (here 128 recordings), Adam at 3e-5 in three stages, the convolutions frozen, spans drawn over 65 % of the
frames and 50 % of the channels. `d2v_train/configs/ctc_*.yaml` hold those for 10 minutes, 1, 10 and 960 hours.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from transformers import AutoModelForCTC

from d2v_train.batching.lengths import header_seconds
from d2v_train.data.records import RawDataset
from d2v_train.finetuning.arguments import FinetuningArguments
from d2v_train.finetuning.class_labels import no_label
from d2v_train.finetuning.command_line import launch, parse_arguments
from d2v_train.finetuning.data import FinetuningCollator, FinetuningDataset
from d2v_train.finetuning.run import prepare_program, record, run
from d2v_train.finetuning.speech.ctc import (
    CTCDataArguments,
    Transcription,
    prepare_transcription,
    select_evaluation,
    select_training,
)
from d2v_train.finetuning.speech.model import SpeechModelArguments
from d2v_train.finetuning.speech.selection import report_selections
from d2v_train.finetuning.speech.training import CTCMetrics, CTCTrainer, save_texts
from d2v_train.finetuning.speech.transcripts import decode_frames, decode_labels
from d2v_train.inputs.processors import feature_extractor
from d2v_train.inputs.transforms import build_transform
from d2v_train.support.extras import need
from modeling_d2v import Data2VecConfig, Data2VecProcessor


@dataclass
class CTCModelArguments(SpeechModelArguments):
    """Which model to start from, and how it is regularised."""

    head = ("final_dropout", "ctc_loss_reduction", "ctc_zero_infinity")

    hidden_dropout: float | None = 0.0
    attention_dropout: float | None = 0.0
    mask_time_prob: float | None = 0.65
    mask_feature_prob: float | None = 0.5
    final_dropout: float | None = field(default=None, metadata={"help": "Dropout before the output layer."})
    ctc_loss_reduction: str | None = field(default=None, metadata={"help": "mean or sum; default: the checkpoint's."})
    ctc_zero_infinity: bool | None = field(
        default=None, metadata={"help": "Count transcripts that cannot be aligned as 0; default: the checkpoint's."}
    )


@dataclass
class CTCTrainingArguments(FinetuningArguments):
    """`FinetuningArguments` with the published settings."""

    max_steps: int = field(
        default=-1, metadata={"help": "Updates of the run; default 80,000 where num_train_epochs is not given."}
    )
    num_train_epochs: float | None = field(default=None, metadata={"help": "Passes over the data, instead."})
    learning_rate: float = 3e-5
    tri_stage: str | None = field(
        default="0.1,0.4,0.5",
        metadata={"help": "Shares of the run for warm-up, hold and decay; none for --lr_scheduler_type instead."},
    )
    adam_beta2: float = 0.98
    max_grad_norm: float = 0.0
    per_device_train_batch_size: int = 8
    gradient_accumulation_steps: int = 16
    train_sampling_strategy: str = "group_by_length"
    metric_for_best_model: str | None = "wer"
    greater_is_better: bool | None = False

    def __post_init__(self) -> None:
        if self.num_train_epochs is None:
            self.max_steps = self.max_steps if self.max_steps > 0 else 80_000
            self.num_train_epochs = 1.0
        super().__post_init__()


def run_program(argv: list[str]) -> dict[str, float]:
    """Fine-tune as a command line says.

    Args:
        argv: its arguments.

    Returns:
        All metrics.
    """
    model_args, data_args, args = parse_arguments(
        CTCModelArguments, CTCDataArguments, CTCTrainingArguments, argv=argv, prog="d2v finetune-ctc"
    )
    prepare_program(args)
    if args.do_eval or args.do_predict:
        need("jiwer", "audio")
    train = data_args.open_spoken("train") if args.do_train else None
    evaluation = data_args.open_spoken("validation") if args.do_eval else None
    test = data_args.open_spoken("test") if args.do_predict else None

    transcription = prepare_transcription(model_args, data_args, train)
    tokenizer = transcription.tokenizer
    config = model_args.configure({"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id})
    selections, seconds, usable, good = [], None, {}, {}
    if train is not None:
        seconds = header_seconds(train)
        selections.append(select_training(train, seconds, transcription, config.audio_config, data_args))
        seconds = seconds[selections[-1].indices]
        usable["training"] = train = train.select(selections[-1].indices)
    for name, raw in {"evaluation": evaluation, "test": test}.items():
        if raw is not None:
            selections.append(select_evaluation(raw, transcription, name))
            usable[name] = raw.select(selections[-1].indices)
            good[name] = usable[name].without_bad()
    report_selections(selections, args)

    model = model_args.load(AutoModelForCTC, config)
    metrics = CTCMetrics(tokenizer)
    trainer = CTCTrainer(
        model=model,
        args=args,
        train_dataset=None if train is None else samples(train, config, transcription, args.seed, training=True),
        eval_dataset=samples(good["evaluation"], config, transcription) if "evaluation" in good else None,
        data_collator=FinetuningCollator(model.config),
        processor=Data2VecProcessor(tokenizer=tokenizer, feature_extractor=feature_extractor(model.config)),
        compute_metrics=metrics,
        train_seconds=seconds,
        raw_datasets=usable,
        card={
            "finetuned_from": model_args.finetuned_from,
            "tasks": "automatic-speech-recognition",
            "dataset": data_args.described,
            "dataset_args": data_args.dataset_config_name,
        },
    )

    def predict() -> dict[str, float]:
        if "evaluation" in good:
            save_texts(trainer, "eval", good["evaluation"], metrics.hypotheses, metrics.references)
        if "test" not in good:
            return {}
        output = trainer.predict(samples(good["test"], config, transcription), metric_key_prefix="test")
        heard = decode_frames(output.predictions, tokenizer)
        said = None if output.label_ids is None else decode_labels(output.label_ids, tokenizer)
        save_texts(trainer, "test", good["test"], heard, said)
        return record(trainer, "test", output.metrics)

    return run(trainer, predict=predict)


def samples(
    raw: RawDataset, config: Data2VecConfig, transcription: Transcription, seed: int = 0, training: bool = False
) -> FinetuningDataset:
    """Recordings as inputs of the model, with labels where there are transcripts."""
    target = no_label if raw.transcripts is None else transcription.labels
    return FinetuningDataset(raw, build_transform("audio", None, config, train=training), target, seed)


def main(argv: list[str] | None = None) -> int | str:
    """Run the program as a process, see `launch`."""
    return launch(run_program, argv)


if __name__ == "__main__":
    sys.exit(main())
