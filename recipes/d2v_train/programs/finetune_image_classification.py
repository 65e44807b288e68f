"""Fine-tune data2vec for image classification on a folder with one folder per class, parquet or a Hub data set.

    d2v finetune-images --model_name_or_path runs/images/final \\
        --dataset_name path/to/images --output_dir runs/classifier --do_train --do_eval
    d2v finetune-images --config_name vision-base --from_scratch \\
        --dataset_name ILSVRC/imagenet-1k --output_dir runs/scratch --do_train --do_eval
    accelerate launch --num_processes 16 recipes/finetune_image_classification.py \\
        --model_name_or_path user/data2vec2-vision-base --dataset_name ILSVRC/imagenet-1k \\
        --output_dir runs/imagenet --do_train --do_eval --bf16 --dataloader_num_workers 6

The same command resumes an interrupted run from the newest complete checkpoint. A YAML file of options may come first.
Images may have several classes, each predicted independently (`docs/finetuning.md`).

The defaults are those of data2vec 2.0, base (fairseq, examples/data2vec:
config/vision/finetuning/mae_imagenet_clean.yaml with the defaults of models/mae_image_classification.py and
data/mae_finetuning_image_dataset.py): 100 epochs with 512 images per update, for which the learning rate of 1e-3 is
meant; warm-up of 6.4 % (16,000 of 250,200 updates), then cosine; Adam (0.9, 0.95), weight decay 0.05, layer decay
0.65, drop path 0.1 and no other dropout; mixup 0.7 or CutMix 1.0 for 90 % of the batches, label smoothing 0.1,
RandAugment rand-m9-mstd0.5-inc1, erasing 0.25, crops of 0.08 to 1 of the area. Two differences: the front end has the
learning rate of the lowest layer, as in BEiT (the reference uses the full rate), and the cosine ends at 0 (1e-6).
Settings of the other published models:

    2.0 large, huge: --num_train_epochs 50 --learning_rate 5e-4 --warmup_steps 0.128 --layer_decay 0.75
        --drop_path_rate 0.2 --max_grad_norm 4    (mae_imagenet_large_clean.yaml, mae_imagenet_huge_clean.yaml)
    1.0 base: --learning_rate 4e-3 (for 1024 images) --warmup_steps 0.1 --adam_beta2 0.999 --weight_decay 0
        --drop_path_rate 0.2 --mixup 0.8 --mix_probability 1    (facebookresearch/data2vec_vision, beit/README.md)
    1.0 large: --num_train_epochs 50 --learning_rate 5e-3 (for 1024 images) --adam_beta2 0.999
        --drop_path_rate 0.25 --mixup 0.8 --mix_probability 1    (the same)
"""

from __future__ import annotations

import sys

from d2v_train.finetuning.program import Program


PROGRAM = Program(
    "d2v finetune-images",
    __doc__,
    (
        "d2v_train.finetuning.arguments:ModelArguments",
        "d2v_train.finetuning.images.arguments:ImageDataArguments",
        "d2v_train.finetuning.images.arguments:AugmentationArguments",
        "d2v_train.finetuning.images.arguments:ImageFinetuningArguments",
    ),
)


def run_program(argv: list[str]) -> dict[str, float]:
    """Fine-tune with the options of a command line and return all metrics."""
    model_args, data_args, augmentation, args = PROGRAM.parse(argv)
    from d2v_train.finetuning.images.task import ImageClassification
    from d2v_train.finetuning.run import finetune

    return finetune(ImageClassification, model_args, data_args, args, augmentation)


def main(argv: list[str] | None = None) -> int | str:
    """Run the program as a process, see `Program.launch`."""
    return PROGRAM.launch(run_program, argv)


if __name__ == "__main__":
    sys.exit(main())
