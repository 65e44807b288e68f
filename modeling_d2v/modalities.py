"""What the modalities are, and which front ends each of them has.

A front end turns the input of its modality into tokens. How they lie decides which masks and which decoder fit:

| geometry | masks (`SAMPLERS`)           | convolutions of the decoder |
|----------|------------------------------|-----------------------------|
| line     | random, span, inverse_span   | over time                   |
| grid     | random, block, inverse_block | over rows and columns       |

The front end "perceiver" is one for all modalities; its settings decide between line and grid
(`Data2VecModalityConfig.traits`).

To add a front end, write its local encoder in a file of its own, which `TRAVELLING_FILES` (`remote_code.py`) lists,
name it in `LOCAL_ENCODERS` (`modality_encoders.py`), give its settings to the configuration of the modality (of audio
also its `WINDOWS`), and add its entry here. Exports to models of transformers refuse what those cannot compute.
"""

from dataclasses import dataclass

from .masking import SAMPLERS


@dataclass(frozen=True)
class FrontEnd:
    """One way from the input of a modality to tokens.

    Args:
        geometry: "line", or "grid" of rows and columns, flattened row by row.
        corrupts_input: Whether data2vec 1.0 masks the input itself (token ids); otherwise it replaces features.
        reach: Settings of the modality that say how far around a token its position encoder sees; none where positions
            are absolute.
        standardised: Whether waveforms are brought to mean 0 and variance 1 before they enter the model; otherwise
            their loudness is kept.
    """

    geometry: str
    corrupts_input: bool = False
    reach: tuple[str, ...] = ()
    standardised: bool = True

    @property
    def samplers(self) -> list[str]:
        """Names of the samplers whose masks fit the geometry."""
        return [name for name, sampler in SAMPLERS.items() if sampler.geometry in (None, self.geometry)]


@dataclass(frozen=True)
class Modality:
    """One kind of data.

    Args:
        input_name: Argument of the models that takes it, as in transformers.
        content: What model cards call it.
        front_ends: By name; the first one is the default.
    """

    input_name: str
    content: str
    front_ends: dict[str, FrontEnd]

    @property
    def default(self) -> FrontEnd:
        """The first front end."""
        return next(iter(self.front_ends.values()))


# In the order in which a model with several of them has its front ends.
MODALITIES: dict[str, Modality] = {
    "text": Modality(
        "input_ids", "text", {"embeddings": FrontEnd("line", corrupts_input=True), "perceiver": FrontEnd("line")}
    ),
    "vision": Modality("pixel_values", "images", {"patches": FrontEnd("grid"), "perceiver": FrontEnd("grid")}),
    "audio": Modality(
        "input_values",
        "speech",
        {
            "convolutions": FrontEnd("line", reach=("conv_pos_width", "conv_pos_depth")),
            "spectrogram": FrontEnd("grid", standardised=False),
            "perceiver": FrontEnd("line"),
        },
    ),
    "arrays": Modality("array_values", "arrays", {"perceiver": FrontEnd("line")}),
}


def modality_of_input(input_name: str) -> str | None:
    """Return the name of the modality that an argument of a model takes, None for no such argument."""
    return next((name for name, modality in MODALITIES.items() if modality.input_name == input_name), None)
