"""Conversion of the tensors of one model to another: none lost, none filled twice, every shape compared.

The tables of names are in the folders `fairseq` and `hf`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


STUDENT, TEACHER = "data2vec.", "teacher."  # prefixes of the encoders of a pretraining model
_COUNTERS = ("ema_step", ".num_batches_tracked")  # names of the only integer tensors


class Place(NamedTuple):
    """The place of a source tensor in the target.

    Args:
        name: Name of the tensor that it fills.
        part: Part of that tensor: "q", "k" or "v" for a third, a number for a layer, "+" for a matrix whose first row
            is added to every row of `name`. `None` for all of it.
        spare: Reason why it may be unused if the model has no such place, or another tensor fills it; `None` if both
            are errors.
    """

    name: str
    part: str | None = None
    spare: str | None = None


class TensorMismatchError(ValueError):
    """Error for a checkpoint whose tensors do not fit the configuration; the message lists every problem."""


class Unused(NamedTuple):
    """A source tensor without a counterpart."""

    name: str
    reason: str


class Assembly(Mapping[str, Tensor]):
    """Tensors by name, each assembled when it is read: a large checkpoint is never held in memory twice.

    Tensors that are read have their own memory: they may be trained, and their file overwritten.
    """

    def __init__(self) -> None:
        self._recipes: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {}

    def add(self, name: str, make: Callable[..., Tensor], *sources: Tensor) -> None:
        """Add a tensor `make(*sources)`; it runs once for the shape, without data, and at each read of `name`."""
        self._recipes[name] = (make, sources)

    def copy(self, name: str, source: str) -> None:
        """Make `name` a copy of the existing tensor `source`."""
        self._recipes[name] = self._recipes[source]

    def take(self, name: str, other: "Assembly", source: str) -> None:
        """Make `name` the tensor `source` of another assembly."""
        self._recipes[name] = other._recipes[source]

    def extend(self, name: str, make: Callable[..., Tensor], *sources: Tensor) -> None:
        """Replace the existing tensor `name` by `make(previous, *sources)`."""
        inner, tensors = self._recipes[name]
        count = len(tensors)
        self._recipes[name] = (lambda *parts: make(inner(*parts[:count]), *parts[count:]), (*tensors, *sources))

    def meta(self, name: str) -> Tensor:
        """Return a tensor's shape and dtype, without its data."""
        make, sources = self._recipes[name]
        return make(*[torch.empty_like(source, device="meta") for source in sources])

    def peek(self, name: str) -> Tensor:
        """Return a tensor for reading only: it may share the memory of its source."""
        make, sources = self._recipes[name]
        return sources[0] if make is torch.clone else make(*sources)

    def __getitem__(self, name: str) -> Tensor:
        make, sources = self._recipes[name]
        return make(*sources)

    def __contains__(self, name: object) -> bool:
        return name in self._recipes  # not by reading it, as Mapping would

    def __iter__(self) -> Iterator[str]:
        return iter(self._recipes)

    def __len__(self) -> int:
        return len(self._recipes)


class Conversion(NamedTuple):
    """Converted tensors by name, and the source tensors that have no place among them."""

    tensors: Assembly
    unused: list[Unused]


# Pairs of names, in which "*" stands for the text between two dots, and "#q" at the end for `Place.part`.
NameTable = tuple[tuple[str, str], ...]


def rename(name: str, table: NameTable) -> str | None:
    """Return the second name of the first pair whose first name matches, or `None`."""
    for source, target in table:
        found = re.fullmatch(re.escape(source).replace(r"\*", "([^.]+)"), name)
        if found:
            stars = iter(found.groups())
            return re.sub(r"\*", lambda _: next(stars), target)  # noqa: B023
    return None


def join(*parts: Tensor) -> Tensor:
    return torch.cat(parts)


def stack(*parts: Tensor) -> Tensor:
    return torch.stack(parts)


def add_first_row(table: Tensor, rows: Tensor) -> Tensor:
    return table + rows[0]


def third(tensor: Tensor, part: str) -> Tensor:
    """Return query, key or value ("q", "k", "v") of a tensor that holds all three."""
    return tensor.chunk(3)["qkv".index(part)]


class Filler:
    """Collector of source tensors for the places of a model.

    Args:
        expected: Shape of each place by name, see `expected_shapes`.
        what: Name of the source in errors.
        without_key_bias: Whether the source has no bias of keys, which is then zero.
    """

    def __init__(self, expected: Mapping[str, torch.Size], what: str, without_key_bias: bool = False) -> None:
        self.expected, self.what, self.without_key_bias = expected, what, without_key_bias
        self.tensors = Assembly()
        self.unused: list[Unused] = []
        self.problems: list[str] = []
        self._parts: dict[str, dict[str, Tensor]] = {}
        self._copies: dict[str, str] = {}
        self._source_of: dict[str, tuple[str, str | None]] = {}  # label and `Place.spare`

    def put(self, label: str, place: Place | Unused, tensor: Tensor) -> None:
        """Put one source tensor in its place; `label` is its name in messages."""
        if isinstance(place, Unused):
            self.unused.append(place)
            return
        if place.name not in self.expected:
            if place.spare is None:
                self.problems.append(f"{label} would become {place.name}, which this configuration does not have")
            else:
                self.unused.append(Unused(label, place.spare))
            return
        slot = place.name if place.part is None else f"{place.name}#{place.part}"
        earlier, spare = self._source_of.get(slot, (None, None))
        if earlier is not None:
            if place.spare is not None:
                self.unused.append(Unused(label, place.spare))
                return
            if spare is None:
                self.problems.append(f"{label} and {earlier} both fill {slot}")
                return
            self.unused.append(Unused(earlier, spare))
        self._source_of[slot] = (label, place.spare)
        if place.part is None:
            self.tensors.add(place.name, _reshape(place.name, self.expected[place.name]), tensor)
        else:
            self._parts.setdefault(place.name, {})[place.part] = tensor

    def copy(self, name: str, source: str) -> None:
        """Fill the place `name` with what `source` has, unless something else fills it."""
        self._copies[name] = source

    def finish(self, optional: tuple[str, ...] = (), *, advice: str = "") -> Conversion:
        """Join parts and check everything.

        Args:
            optional: Prefixes of places that may all be empty, such as ("teacher.",).
            advice: Last sentence of an error.

        Raises:
            TensorMismatchError: Tensors do not fit; the message lists every problem.
        """
        for name, parts in self._parts.items():
            self._join_parts(name, parts)
        for name, source in self._copies.items():
            if name not in self.tensors and source in self.tensors:
                self.tensors.copy(name, source)
        missing = [name for name in self.expected if name not in self.tensors]
        for prefix in optional:
            group = [name for name in self.expected if name.startswith(prefix)]
            if not any(name in self.tensors for name in group):
                missing = [name for name in missing if not name.startswith(prefix)]
        problems = self.problems + [f"nothing fills {name}" for name in missing]
        problems += [problem for name in self.tensors if (problem := self._misfit(name))]
        if problems:
            shown = problems[:20] + ([f"and {len(problems) - 20} more"] if len(problems) > 20 else [])
            raise TensorMismatchError(
                f"Cannot convert this {self.what} checkpoint with this configuration ({len(problems)} problems):\n  "
                + "\n  ".join(shown)
                + (f"\n{advice}" if advice else "")
            )
        return Conversion(self.tensors, self.unused)

    def _join_parts(self, name: str, parts: dict[str, Tensor]) -> None:
        if "+" in parts:
            if name in self.tensors:
                self.tensors.extend(name, add_first_row, parts["+"])
            return
        if all(part.isdigit() for part in parts):
            layers = self.expected[name][0]
            if sorted(map(int, parts)) != list(range(layers)):
                self.problems.append(
                    f"{name} is made of {layers} layers, of which there are {sorted(map(int, parts))}"
                )
            self.tensors.add(name, stack, *[parts[part] for part in sorted(parts, key=int)])
            return
        if self.without_key_bias and name.endswith(".bias") and "k" not in parts and "q" in parts:
            parts["k"] = torch.zeros_like(parts["q"])
        if len(parts) < 3:
            self.problems.append(f"{name} is made of query, key and value, of which only {sorted(parts)} exist")
        self.tensors.add(name, join, *[parts[part] for part in "qkv" if part in parts])

    def _misfit(self, name: str) -> str | None:
        try:
            found = self.tensors.meta(name)
        except RuntimeError as error:
            return f"the parts of {name} do not fit together ({error})"
        wanted = self.expected[name]
        if found.shape != wanted:
            return f"{name} has shape {tuple(found.shape)} instead of {tuple(wanted)}"
        if found.is_floating_point() or name.endswith(_COUNTERS):
            return None
        return f"{name} is made of {found.dtype}, which cannot be weights"


def _reshape(name: str, shape: torch.Size) -> Callable[[Tensor], Tensor]:
    """Add or remove dimensions of size 1: (1, 1, D) mask vectors, 4-D ALiBi scales of early checkpoints."""
    if not name.endswith((".mask_token", ".attention_bias.scale", "masked_spec_embed")):
        return torch.clone

    def reshape(tensor: Tensor) -> Tensor:
        same = [size for size in tensor.shape if size != 1] == [size for size in shape if size != 1]
        return (tensor.reshape(shape) if same else tensor).clone()

    return reshape


def expected_shapes(model_class: type[PreTrainedModel], config: object) -> dict[str, torch.Size]:
    """Return names and shapes of a model's state dict, without allocating it; tied tensors count once."""
    with torch.device("meta"):
        model: nn.Module = model_class(config)
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    return {name: tensor.shape for name, tensor in model.state_dict().items() if name not in tied}


def walk(state: Mapping[str, object]) -> Iterable[tuple[str, Tensor]]:
    """Yield (name, tensor) of a flat state dict.

    Raises:
        ValueError: An entry is not a tensor.
    """
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} is a {type(value).__name__}, not a tensor.")
        yield name, value
