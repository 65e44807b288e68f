"""Classification of images as a `Task`."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
from transformers import AutoModelForImageClassification

from d2v_train.data.records import RawDataset
from d2v_train.finetuning.arguments import ModelArguments
from d2v_train.finetuning.class_labels import as_classes
from d2v_train.finetuning.classification import ClassificationTask
from d2v_train.finetuning.images.arguments import AugmentationArguments, ImageDataArguments
from d2v_train.finetuning.images.augmentation import Mixing, MixingCollator
from d2v_train.finetuning.images.data import ProcessorTransform, make_image_processor, output_size, training_transform
from d2v_train.finetuning.metrics import accuracies
from d2v_train.finetuning.trainer import FinetuningTrainer
from modeling_d2v import Data2VecProcessor


logger = logging.getLogger(__name__)
PUBLISHED_BATCH = 512
NO_DROPOUT = dict.fromkeys(("hidden_dropout", "mlp_dropout", "attention_dropout", "activation_dropout"), 0.0)


class ImageTrainer(FinetuningTrainer):
    """`FinetuningTrainer` without label smoothing, which the collator applies to training batches."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with warnings.catch_warnings():
            # Of several classes per image, whose labels `Trainer` cannot smooth.
            warnings.filterwarnings("ignore", "Label smoothing is not compatible")
            super().__init__(*args, **kwargs)
        self.label_smoother = None


class ImageClassification(ClassificationTask):
    """Image classification, trained on augmented and mixed images.

    Args:
        model_args, data_args, args, augmentation: Options of the program.
    """

    modality = "vision"
    auto_class = AutoModelForImageClassification
    hub_task = "image-classification"
    trainer_class = ImageTrainer
    skips_bad = True

    def __init__(
        self, model_args: ModelArguments, data_args: ImageDataArguments, args: Any, augmentation: AugmentationArguments
    ) -> None:
        super().__init__(model_args, data_args, args)
        self.augmentation = augmentation
        self.channels = self.config.vision_config.num_channels
        self.processor = make_image_processor(
            model_args, self.config, data_args.image_size, data_args.crop_pct, train=args.do_train
        )
        if data_args.value_range is not None:
            if self.is_plain:
                raise ValueError("--value_range is kept by image processors of this package alone. Leave it out.")
            self.processor.value_range = data_args.value_range

    def open(self, split: str, part: str = "") -> RawDataset:
        raw = self.data_args.open(
            split,
            label_column=self.data_args.label_column,
            channels=self.channels,
            value_range=getattr(self.processor, "value_range", None),
        )
        return as_classes(raw)

    def fields(self) -> dict[str, Any]:
        undisturbed = {"prenet_dropout": 0.0, "prenet_layerdrop": 0.0}
        rate = self.args.drop_path_rate
        return {"drop_path_rate": rate, "layerdrop": 0.0, "vision_config": undisturbed, **NO_DROPOUT}

    def transform(self, training: bool) -> Any:
        if training:
            return training_transform(self.augmentation, self.processor, self.channels)
        return ProcessorTransform(self.processor)

    def trainer_options(self) -> dict[str, Any]:
        given = self.augmentation
        ways = (given.mixup, given.cutmix, given.mix_probability, given.cutmix_probability)
        mixing = Mixing(len(self.names), *ways, self.args.label_smoothing_factor)
        return {
            **super().trainer_options(),
            "data_collator": MixingCollator(self.config, mixing),
            "processor": self.processor if self.is_plain else Data2VecProcessor(image_processor=self.processor),
        }

    def measure_one(self, top: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Return the accuracy, and the top-5 accuracy if there are more than five classes."""
        return accuracies(top, labels)

    def describe(self, update: int) -> str:
        published = type(self.args).__dataclass_fields__["learning_rate"].default
        if self.args.learning_rate == published and update != PUBLISHED_BATCH:
            logger.warning(
                "The default learning rate %g is for %d images per update; this run has %d. Increase "
                "--gradient_accumulation_steps, or scale --learning_rate, in proportion to %.2g.",
                published,
                PUBLISHED_BATCH,
                update,
                published * update / PUBLISHED_BATCH,
            )
        return f", {len(self.names)} classes, {output_size(self.processor)} pixels per side"
