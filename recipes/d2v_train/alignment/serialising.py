"""Results as JSON."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np


def as_json(value: Any) -> Any:
    """Return a result, or a container of results, as what `json.dump` accepts.

    Dataclasses become dictionaries, arrays lists, tuples as keys "a | b", and NaN or infinity None, which JSON lacks.

    Raises:
        TypeError: If a value is none of these.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {
            " | ".join(map(str, key)) if isinstance(key, tuple) else str(key): as_json(entry)
            for key, entry in value.items()
        }
    if isinstance(value, np.ndarray):
        return as_json(value.tolist())
    if isinstance(value, list | tuple):
        return [as_json(entry) for entry in value]
    if isinstance(value, np.generic):
        return as_json(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    raise TypeError(f"{type(value).__name__} cannot be written as JSON; give results, arrays or plain values.")
