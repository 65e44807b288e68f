"""Configuration of arrays: series of sensors, images of any number of channels, volumes."""

from collections.abc import Sequence

from huggingface_hub.dataclasses import strict

from .configuration_checks import below_one, in_range
from .configuration_modalities import Data2VecModalityConfig


@strict
class Data2VecArrayConfig(Data2VecModalityConfig):
    """Arrays of numbers of one to three dimensions and any number of channels, through the front end "perceiver".

    Args:
        num_dims: Dimensions of an array without its channels, 1 to 3. Default 1: a series.
        num_channels: Numbers at each place, the last dimension of the input. Default 1.
        classifier_dropout: Before the classifier. Default 0.
    """

    model_type = "d2v_arrays"
    base_config_key = "arrays_config"
    modality = "arrays"

    num_dims: int = 1
    num_channels: int = 1
    classifier_dropout: float | int = 0.0

    mask_sampler: str = "inverse_span"
    mask_prob: float | int = 0.6
    mask_length: int = 5
    mask_prob_adjust: float | int = 0.05
    ema_scope: str = "all"

    @property
    def element_channels(self) -> int:
        """Return the numbers of an entry."""
        return self.num_channels

    def element_sides(self, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(shape[:-1])

    def check(self) -> None:
        in_range("Data2VecArrayConfig", "num_dims", self.num_dims, 1, 3)
        super().check()
        in_range("Data2VecArrayConfig", "num_channels", self.num_channels, 1)
        below_one("Data2VecArrayConfig", "classifier_dropout", self.classifier_dropout)
