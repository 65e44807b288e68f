"""Fine-tunes data2vec to classify images: a folder with one folder per class, parquet, or a data set on the Hub.

    d2v finetune-images --model_name_or_path runs/images/final \\
        --dataset_name path/to/images --output_dir runs/classifier --do_train --do_eval
    d2v finetune-images --config_name vision-base --from_scratch \\
        --dataset_name ILSVRC/imagenet-1k --output_dir runs/scratch --do_train --do_eval
    accelerate launch --num_processes 16 -m d2v_train.programs.finetune_image_classification \\
        --model_name_or_path user/data2vec2-vision-base --dataset_name ILSVRC/imagenet-1k \\
        --output_dir runs/imagenet --do_train --do_eval --bf16 --dataloader_num_workers 6

The same command again goes on from the newest whole checkpoint. Options may also stand in a YAML file, named first.

Defaults are those of data2vec 2.0, base (fairseq, examples/data2vec: config/vision/finetuning/mae_imagenet_clean.yaml
with the defaults of models/mae_image_classification.py and data/mae_finetuning_image_dataset.py): 100 epochs of 512
images an update, which is what the learning rate of 1e-3 belongs to; warm-up of 6.4 % (16,000 of 250,200 updates),
then cosine; Adam (0.9, 0.95), weight decay 0.05, layer decay 0.65, drop path 0.1 and no other dropout; mixup 0.7 or
CutMix 1.0 for 90 % of the batches, label smoothing 0.1, RandAugment rand-m9-mstd0.5-inc1, erasing 0.25, crops of 0.08
to 1 of the area. Two things differ: the front end learns at the rate of the lowest layer, as in BEiT (the reference
leaves it at the full rate), and the cosine ends at 0 (1e-6). What the other published models change:

    2.0 large, huge: --num_train_epochs 50 --learning_rate 5e-4 --warmup_steps 0.128 --layer_decay 0.75
        --drop_path_rate 0.2 --max_grad_norm 4    (mae_imagenet_large_clean.yaml, mae_imagenet_huge_clean.yaml)
    1.0 base: --learning_rate 4e-3 (for 1024 images) --warmup_steps 0.1 --adam_beta2 0.999 --weight_decay 0
        --drop_path_rate 0.2 --mixup 0.8 --mix_probability 1    (facebookresearch/data2vec_vision, beit/README.md)
    1.0 large: --num_train_epochs 50 --learning_rate 5e-3 (for 1024 images) --adam_beta2 0.999
        --drop_path_rate 0.25 --mixup 0.8 --mix_probability 1    (the same)
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageClassification, EvalPrediction

from d2v_train.finetuning.arguments import FinetuningArguments, ModelArguments
from d2v_train.finetuning.class_labels import (
    ClassTarget,
    class_names,
    class_target,
    labelled,
    warn_of_untaught,
    write_predictions,
)
from d2v_train.finetuning.command_line import launch, parse_arguments
from d2v_train.finetuning.data import FinetuningDataset
from d2v_train.finetuning.images.augmentation import MixingCollator
from d2v_train.finetuning.images.data import (
    AugmentationArguments,
    ImageDataArguments,
    ProcessorTransform,
    accuracies,
    make_image_processor,
)
from d2v_train.finetuning.models import load_config, load_model
from d2v_train.finetuning.run import prepare_program, record, run
from d2v_train.finetuning.trainer import FinetuningTrainer
from modeling_d2v import Data2VecProcessor


logger = logging.getLogger("finetune_image_classification")

PUBLISHED_BATCH = 512
NO_DROPOUT = dict.fromkeys(("hidden_dropout", "mlp_dropout", "attention_dropout", "activation_dropout"), 0.0)


@dataclass
class ImageFinetuningArguments(FinetuningArguments):
    """Training options, with the published settings of data2vec 2.0, base, as defaults."""

    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate, for 512 images an update."})
    num_train_epochs: float = field(default=100.0, metadata={"help": "Passes over the training images."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Images of one process in one batch."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "The same in evaluation."})
    warmup_steps: float = field(default=0.064, metadata={"help": "Updates of warm-up, below 1 a share of the run."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule after the warm-up."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Second beta of AdamW."})
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of matrices."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Longest gradient; 0 = any."})
    layer_decay: float = field(
        default=0.65, metadata={"help": "Factor of the learning rate from each layer to the one below; 1 = off."}
    )
    drop_path_rate: float = field(default=0.1, metadata={"help": "Stochastic depth of the last block."})
    label_smoothing_factor: float = field(
        default=0.1, metadata={"help": "Part of the probability that is spread over all classes in training."}
    )
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to write a checkpoint: no, steps or epoch."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints that are kept."})
    metric_for_best_model: str | None = field(default="accuracy", metadata={"help": "What tells the best one."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Of no use here: leave it off."})

    def __post_init__(self) -> None:
        if not self.do_train or not self.do_eval:
            self.eval_strategy = "no"
        super().__post_init__()


def run_program(argv: list[str]) -> dict[str, Any]:
    """Fine-tune as a command line says.

    Args:
        argv: its arguments.

    Returns:
        All metrics.
    """
    model_args, data_args, augmentation, args = parse_arguments(
        ModelArguments,
        ImageDataArguments,
        AugmentationArguments,
        ImageFinetuningArguments,
        argv=argv,
        prog="d2v finetune-images",
    )
    prepare_program(args)
    config = load_config(model_args)
    channels = config.modality_config("vision").num_channels
    processor = make_image_processor(model_args, config, data_args.image_size, data_args.crop_pct, train=args.do_train)
    evaluated = ProcessorTransform(processor)

    raw, train, validation = {}, None, None
    names = [config.id2label[number] for number in range(config.num_labels)]
    if args.do_train:
        raw["training"], raw["validation"] = data_args.open_training_parts(channels, args.seed, args.do_eval)
        names = class_names(raw["training"])
        warn_of_untaught(raw["training"], names)
        train = FinetuningDataset(
            raw["training"],
            augmentation.transform(processor, channels),
            ClassTarget(raw["training"], names),
            seed=args.seed,
        )
    elif args.do_eval:
        raw["validation"] = data_args.open("validation", channels).subset(data_args.max_eval_samples)
    if args.do_eval:
        validation = FinetuningDataset(
            raw["validation"],
            evaluated,
            ClassTarget(labelled(raw["validation"], "validation"), names, "validation", skip_bad=True),
        )

    if args.do_predict:
        raw["test"] = data_args.open("test", channels).subset(data_args.max_predict_samples)
        test = FinetuningDataset(raw["test"], evaluated, class_target(raw["test"], names, "test", skip_bad=True))

    config = load_config(
        model_args,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
        problem_type="single_label_classification",
        drop_path_rate=args.drop_path_rate,
        layerdrop=0.0,
        vision_config={"prenet_dropout": 0.0, "prenet_layerdrop": 0.0},
        **NO_DROPOUT,
    )
    trainer = FinetuningTrainer(
        model=load_model(AutoModelForImageClassification, model_args, config),
        args=args,
        data_collator=MixingCollator(config, augmentation.mixing(len(names), args.label_smoothing_factor)),
        train_dataset=train,
        eval_dataset=validation,
        processor=Data2VecProcessor(image_processor=processor),
        compute_metrics=measure,
        preprocess_logits_for_metrics=most_probable,
        raw_datasets={name: dataset for name, dataset in raw.items() if dataset is not None},
        card={
            "tasks": "image-classification",
            "finetuned_from": model_args.finetuned_from,
            "dataset": data_args.dataset_name or data_args.train_dir or data_args.validation_dir,
            "dataset_args": data_args.dataset_config_name,
        },
    )
    # The collator smooths the labels, and those of training only.
    trainer.label_smoother = None
    if args.do_train:
        describe(args, len(train), len(names), processor)
    return run(trainer, predict=(lambda: predict(trainer, test, names)) if args.do_predict else None)


def describe(args: FinetuningArguments, samples: int, classes: int, processor: Any) -> None:
    """Says what is about to be trained."""
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    size = dict(processor.crop_size)["height"]
    logger.info("%d images of %d classes, %d pixels a side, %d an update.", samples, classes, size, batch)
    published = ImageFinetuningArguments.__dataclass_fields__["learning_rate"].default
    if args.learning_rate == published and batch != PUBLISHED_BATCH:
        logger.warning(
            "The learning rate is the published one, %g, which belongs to %d images an update; here it is %d. "
            "--gradient_accumulation_steps makes it more; in proportion, --learning_rate would be %.2g.",
            published,
            PUBLISHED_BATCH,
            batch,
            published * batch / PUBLISHED_BATCH,
        )


def most_probable(logits: torch.Tensor, labels: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and probabilities of the most probable classes, (B, up to 6): all that metrics and predictions need."""
    best = logits.float().softmax(dim=-1).topk(min(logits.shape[-1], 6))
    return best.indices, best.values


def measure(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy, and top-5 accuracy where there are more than five classes."""
    return accuracies(prediction.predictions[0], prediction.label_ids)


def predict(trainer: FinetuningTrainer, dataset: FinetuningDataset, names: list[str]) -> dict[str, float]:
    """Writes `predictions.csv`: image, class, probability.

    Returns:
        Metrics, where the images have labels.
    """
    output = trainer.predict(dataset)
    ids, probabilities = output.predictions
    if trainer.is_world_process_zero():
        path = Path(trainer.args.output_dir) / "predictions.csv"
        write_predictions(path, dataset.raw, names, ids[:, 0], probabilities[:, 0])
        print(f"{len(dataset):,} predictions: {path}")
    return {} if output.label_ids is None else record(trainer, "test", output.metrics)


def main(argv: list[str] | None = None) -> int | str:
    """Run the program as a process, see `launch`."""
    return launch(run_program, argv)


if __name__ == "__main__":
    sys.exit(main())
