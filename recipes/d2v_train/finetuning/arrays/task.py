"""Classification of arrays as a `Task`."""

from __future__ import annotations

from typing import Any

import numpy as np

from d2v_train.batching.lengths import array_shapes
from d2v_train.data.bad_samples import BadSample
from d2v_train.data.records import RawDataset
from d2v_train.finetuning.arrays.arguments import ArrayDataArguments, ArrayModelArguments
from d2v_train.finetuning.class_labels import as_classes
from d2v_train.finetuning.classification import ClassificationTask
from d2v_train.finetuning.metrics import class_scores
from d2v_train.finetuning.speech.training import SpeechTrainer
from d2v_train.inputs.processors import array_feature_extractor
from d2v_train.inputs.transforms import build_transform
from d2v_train.models.backbones import input_settings, load_processor
from modeling_d2v import AutoModelForArrayClassification, Data2VecProcessor
from modeling_d2v.model_card import use_of


class ArrayClassification(ClassificationTask):
    """Classification of arrays, trained on random crops of long ones.

    Standardisation and crop are those of the checkpoint; without one they follow from the training data.

    Attributes:
        settings: Options of the transform.
        lengths: Length of each training sample, of series.
    """

    modality = "arrays"
    auto_class = AutoModelForArrayClassification
    hub_task = "other"
    trainer_class = SpeechTrainer
    lengths: np.ndarray | None = None

    def __init__(self, model_args: ArrayModelArguments, data_args: ArrayDataArguments, args: Any) -> None:
        super().__init__(model_args, data_args, args)
        source = model_args.processor_name or model_args.model_name_or_path or model_args.config_name
        saved = load_processor(source, self.modality) if source is not None else None
        self.settings = input_settings(self.modality, saved)
        if data_args.crop_length is not None:
            sides = data_args.crop_length
            self.settings["crop_length"] = sides[0] if len(sides) == 1 else sides

    def open(self, split: str, part: str = "") -> RawDataset:
        arrays = self.config.arrays_config
        shape = {"num_dims": arrays.num_dims, "num_channels": arrays.num_channels}
        return as_classes(self.data_args.open(split, label_column=self.data_args.label_column, **shape))

    def select(self, raw: dict[str, RawDataset]) -> dict[str, RawDataset]:
        raw = super().select(raw)
        first = raw.get("training", next(iter(raw.values())))
        fitted = build_transform(self.modality, self.settings, self.config, train=False)
        fitted.fit([first], self.data_args.described)
        self.settings |= {name: getattr(fitted, name) for name in ("mean", "std", "crop_length")}
        if fitted.num_dims > 1:
            for dataset in raw.values():
                leave_out_smaller(dataset, fitted.crop_length)
        elif "training" in raw:
            self.lengths = fitted.length_after(np.array([shape[0] for shape in array_shapes(raw["training"])]))
        return raw

    def fields(self) -> dict[str, Any]:
        return self.model_args.fields()

    def transform(self, training: bool) -> Any:
        augmentation = {name: getattr(self.data_args, name) for name in ("jitter", "scaling")} if training else {}
        return build_transform(self.modality, self.settings | augmentation, self.config, train=training)

    def card(self) -> dict[str, Any]:
        auto = AutoModelForArrayClassification.__name__
        return {**super().card(), "use": lambda name: use_of(self.config, auto, name), "tags": ["time-series"]}

    def trainer_options(self) -> dict[str, Any]:
        extractor = array_feature_extractor(self.config, self.transform(training=False))
        processor = Data2VecProcessor(array_feature_extractor=extractor)
        return {**super().trainer_options(), "processor": processor, "train_seconds": self.lengths}

    def measure_one(self, top: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return class_scores(top, labels)


def leave_out_smaller(dataset: RawDataset, crop: list[int]) -> None:
    """Count arrays that are smaller than the crop as bad samples: those of a batch must have one shape."""
    for index, shape in enumerate(array_shapes(dataset)):
        if -1 not in shape and any(side < length for side, length in zip(shape, crop, strict=False)):
            dataset.forbid(index, BadSample("wrong shape", f"{shape[:-1]} is smaller than the crop {crop}"))
