"""Random colours of a picture, for pretraining and for labelled images alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from recipes.common.optional import need


class ColorJitter:
    """Brightness, contrast and saturation, each by its own factor from 1 - strength to 1 + strength, in random order.

    Args:
        strength: 0 to 1.

    Raises:
        ValueError: if it is not.
    """

    def __init__(self, strength: float) -> None:
        if not 0 <= strength <= 1:
            raise ValueError(f"The strength of the colour jitter is {strength}; it must be in [0, 1].")
        self.strength = strength

    def __call__(self, image: Any, rng: np.random.Generator) -> Any:
        enhance = need("PIL.ImageEnhance", "vision")
        for kind in rng.permutation(["Brightness", "Contrast", "Color"]):
            factor = 1 + rng.uniform(-self.strength, self.strength)
            image = getattr(enhance, kind)(image).enhance(factor)
        return image
