"""Calls of decoders and of other models, refused with the reason and with what to do instead.

An attribute that does not exist stays one that does not exist: `hasattr(model, "generate")` is False and
`model.can_generate()` too, as for the encoders of transformers, whose pipelines and trainers ask for them.
"""

from typing import Any


TOKEN_BY_TOKEN = "an encoder, whose blocks attend in both directions, does not produce text token by token."
REFUSED = dict.fromkeys(("generate", "prepare_inputs_for_generation", "compute_transition_scores"), TOKEN_BY_TOKEN)
"""Attributes of decoders -> why an encoder lacks them."""


class NoGeneration:
    """Mixin of encoders, before `PreTrainedModel`: `generate` says why it is missing."""

    instead_of_generation = "One forward pass gives the output of every token."

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name not in REFUSED:
                raise
            # Of the same kind, so that `hasattr` answers no.
            raise AttributeError(
                f"{type(self).__name__} has no `{name}`: {REFUSED[name]} {self.instead_of_generation}"
            ) from None


class FixedPositions:
    """Mixin of data2vec models: their positions are not resized."""

    def resize_position_embeddings(self, new_num_position_embeddings: int) -> None:
        """Refuse: positions of images and sounds follow the input, those of text are a setting.

        Raises:
            NotImplementedError: Always, as for most encoders of transformers.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not resize positions. Those of images and recordings follow the input. "
            "Longer texts need a table that is trained: load the model with "
            f'`text_config={{"max_position_embeddings": {new_num_position_embeddings}}}` and '
            "`ignore_mismatched_sizes=True`, which starts it from random values."
        )

    def get_position_embeddings(self) -> None:
        """Refuse: only learned positions of text have a table.

        Raises:
            NotImplementedError: Always, as for most encoders of transformers.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no table of positions for all its inputs. That of text, where they are "
            'learned, is `modality_encoders["text"].local_encoder.position_embeddings` of the base model.'
        )
