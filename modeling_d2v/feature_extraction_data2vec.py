"""Feature extractor of arrays: checked, standardised by fixed statistics, padded.

Shapes: B samples, C channels; an array is (side, ..., C) of one to three sides.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import BatchFeature, FeatureExtractionMixin


class Data2VecArrayFeatureExtractor(FeatureExtractionMixin):
    """Feature extractor of arrays, such as series of sensors.

    Args:
        num_dims: Sides of an array without its channels, 1 to 3. Default 1.
        num_channels: Numbers at each place. Default 1.
        mean, std: Of each channel of the training data, or one number for all: values become (x - mean) / std.
            Default 0 and 1.
        padding_value: Value of padding, which models do not read. Default 0.

    Raises:
        ValueError: The statistics do not fit the channels, or a deviation is not positive.

    Example:
        >>> extractor = Data2VecArrayFeatureExtractor(num_channels=12, mean=[0.0] * 12, std=[1.0] * 12)
        >>> extractor([ecg_1, ecg_2], return_tensors="pt")["array_values"].shape  # (2500, 12) and (5000, 12)
        torch.Size([2, 5000, 12])
    """

    _auto_class = "AutoFeatureExtractor"
    model_input_names = ["array_values", "attention_mask"]

    def __init__(
        self,
        num_dims: int = 1,
        num_channels: int = 1,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        padding_value: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_dims, self.num_channels, self.padding_value = num_dims, num_channels, padding_value
        self.mean, self.std = self._per_channel("mean", mean), self._per_channel("std", std)
        if min(self.std) <= 0:
            raise ValueError(f"`std` is {std}; a deviation is positive.")

    def _per_channel(self, name: str, values: float | Sequence[float]) -> list[float]:
        values = np.atleast_1d(np.asarray(values, dtype=np.float64))
        if values.shape not in ((1,), (self.num_channels,)):
            raise ValueError(
                f"`{name}` has {values.size} numbers; it needs 1 or {self.num_channels}, one per channel."
            )
        return np.broadcast_to(values, self.num_channels).tolist()

    def prepared(self, array: Any, name: str = "An array") -> np.ndarray:
        """Return one array as float32, standardised.

        Args:
            array: Numbers (side, ..., C); the last dimension may be left out if C is 1.
            name: Begins the messages of errors.

        Raises:
            ValueError: It has another number of sides or channels, no entries, or values that are not finite.
        """
        values = np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)
        if values.ndim == self.num_dims and self.num_channels == 1:
            values = values[..., None]
        if values.ndim != self.num_dims + 1 or values.shape[-1] != self.num_channels or not values.size:
            sides = ", ".join(["length"] if self.num_dims == 1 else ["depth", "height", "width"][-self.num_dims :])
            raise ValueError(
                f"{name} has shape {values.shape}; this model takes ({sides}, {self.num_channels}), channels last, "
                "with at least one entry. Transpose arrays whose channels come first."
            )
        values = (values.astype(np.float64) - self.mean) / self.std
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds values that are not finite numbers. Replace or leave out missing values.")
        return values.astype(np.float32)

    def _is_one(self, arrays: Any) -> bool:
        """Return whether one array is given, not a batch or list of them."""
        if hasattr(arrays, "shape"):
            shape = tuple(arrays.shape)
        else:
            shape = (len(arrays), *np.shape(arrays[0])) if len(arrays) else ()
        whole = len(shape) == self.num_dims + 1 and shape[-1] == self.num_channels
        return whole or (len(shape) == self.num_dims and self.num_channels == 1)

    def __call__(
        self,
        arrays: Any,
        padding: bool = True,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepare one array or several.

        Args:
            arrays: Numbers (side, ..., C), or a list or batch of them. Series may differ in length.
            padding: Pad series of different lengths to the longest; False returns a list.
            return_attention_mask: Return the mask of series. Default: where lengths differ.
            return_tensors: "pt" or "np".

        Returns:
            `array_values` (B, side, ..., C), and of series `attention_mask` (B, length), 1 = real.

        Raises:
            ValueError: An array does not fit, or arrays of several sides differ in shape.
        """
        rows = [arrays] if self._is_one(arrays) else list(arrays)
        rows = [self.prepared(row, f"Array {i}") for i, row in enumerate(rows)]
        lengths = np.array([len(row) for row in rows])
        data: dict[str, Any] = {"array_values": rows}
        shapes = {row.shape for row in rows}
        if padding and len(shapes) > 1:
            if self.num_dims > 1:
                raise ValueError(f"The arrays of a batch differ in shape: {sorted(shapes)}. Bring them to one shape.")
            longest = lengths.max()
            data["array_values"] = [
                np.pad(row, ((0, longest - len(row)), (0, 0)), constant_values=self.padding_value) for row in rows
            ]
        if return_attention_mask or (return_attention_mask is None and len(set(lengths)) > 1 and self.num_dims == 1):
            width = lengths.max() if padding else None
            data["attention_mask"] = [
                (np.arange(length if width is None else width) < length).astype(np.int64) for length in lengths
            ]
        return BatchFeature(data, tensor_type=return_tensors)
