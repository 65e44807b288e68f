"""What the common tests need to know of each model: a tiny configuration, inputs, labels, sizes."""

import copy
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from head_factory import HEADS, head_labels
from head_factory import PARTS as HEAD_PARTS
from model_factory import FRONT_ENDS, inputs_for, tiny_config, version_config

import modeling_d2v
from modeling_d2v import Data2VecConfig


# Name of a layout of the models -> its entry in `VERSIONS`.
LAYOUTS = {"V1": "1.0", "V2": "2.0", "V2PreNorm": "2.0 pre-norm"}
# Special tokens come first: the common tests shrink the vocabulary from its end.
TEXT = {"mask_token_id": 3}
WITHOUT_LOSS = ("Data2VecModel", "Data2VecBackbone")
BATCH = 3
NUM_LABELS = 3


def configuration(modality: str, layout: str, model: str, front_end: str | None = None) -> Data2VecConfig:
    """Return the configuration of a model of one modality, or of all of them ("joint")."""
    if modality == "joint":
        shared = {"masked_tokens": "replaced"} if layout == "V1" else {}
        return tiny_config(num_labels=NUM_LABELS, text_config=TEXT, **shared)
    head = HEADS.get(model)
    own = {
        **HEAD_PARTS[modality],
        **(TEXT if modality == "text" else {}),
        **(FRONT_ENDS[front_end][1] if front_end else {}),
        **(head.settings if head else {}),
    }
    version = version_config(LAYOUTS[layout], modality).modality_config(modality).to_diff_dict()
    del version["transformers_version"], version["model_type"]
    return version_config(
        LAYOUTS[layout], modality, num_labels=NUM_LABELS, **{f"{modality}_config": {**version, **own}}
    )


class WholeTest(unittest.TestCase):
    """A test case whose tests pass or fail as a whole: exceptions name tests, not parts of them."""

    @contextmanager
    def subTest(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        yield


class ModelTester:
    """The `model_tester` of a test class.

    Args:
        parent: Instance of the test class.
        model: Name of the model.
        modality: "text", "vision", "audio" or "joint", whose inputs are `given`.
        layout: One of `LAYOUTS`.
        given: Modality of the inputs of a joint model.
        front_end: Front end, where there are several.
    """

    def __init__(
        self,
        parent: Any,
        model: str,
        modality: str,
        layout: str,
        given: str | None = None,
        front_end: str | None = None,
    ) -> None:
        self.parent, self.model, self.modality, self.layout = parent, model, modality, layout
        self.given, self.front_end = given or modality, front_end
        self.batch_size = self.num_choices = BATCH
        self.is_training = model not in WITHOUT_LOSS
        config = self.get_config()
        part = config.modality_config(self.given)
        self.hidden_size = config.hidden_size
        self.num_hidden_layers = config.num_hidden_layers
        self.num_attention_heads = config.num_attention_heads
        if self.given == "vision":
            self.image_size, self.patch_size, self.num_channels = 32, 8, 3
        with torch.no_grad():
            encoder = modeling_d2v.Data2VecModel(config).eval()
            tokens = encoder(**self.inputs()).last_hidden_state.shape[1]
        self.num_extra = part.num_extra_tokens
        self.seq_length = tokens - self.num_extra
        self.encoder_seq_length = self.key_length = tokens
        if model == "Data2VecForPreTraining" and config.masked_tokens == "dropped":
            mask = self.mask(config)
            self.encoder_seq_length = self.key_length = self.num_extra + int((~mask[0, 0]).sum())

    def get_config(self) -> Data2VecConfig:
        return configuration(self.modality, self.layout, self.model, self.front_end)

    def inputs(self) -> dict[str, torch.Tensor]:
        """Return the input alone, with a mask of real elements for all but images."""
        inputs = inputs_for(self.given, BATCH)
        if self.given != "vision":
            inputs["attention_mask"] = torch.ones_like(next(iter(inputs.values())), dtype=torch.long)
        return inputs

    def mask(self, config: Data2VecConfig) -> torch.Tensor:
        """Return masks (B, M, T) that leave every third token visible."""
        masks = config.modality_config(self.given).num_masks
        return (torch.arange(self.seq_length) % 3 > 0).expand(BATCH, masks, -1).clone()

    def prepare_config_and_inputs_for_common(self) -> tuple[Data2VecConfig, dict[str, torch.Tensor]]:
        config, inputs = self.get_config(), self.inputs()
        if self.model == "Data2VecForPreTraining":
            inputs["mask"] = self.mask(config)
        return config, inputs

    def prepare_config_and_inputs(self) -> tuple[Data2VecConfig, dict[str, torch.Tensor]]:
        return self.prepare_config_and_inputs_for_common()

    def for_class(self, inputs: dict[str, Any], return_labels: bool) -> dict[str, Any]:
        """Return the inputs as this model takes them, with labels if wanted."""
        inputs = copy.deepcopy(inputs)
        if self.model == "Data2VecForMultipleChoice":
            inputs = {
                name: x.unsqueeze(1).expand(-1, self.num_choices, -1).contiguous()
                if isinstance(x, torch.Tensor) and x.dim() == 2
                else x
                for name, x in inputs.items()
            }
        if return_labels and self.model in HEADS:
            inputs |= head_labels(self.model, BATCH)
        if return_labels and self.model.endswith(("SequenceClassification", "ImageClassification")):
            # Class ids, which the test of problem types also takes as flags and numbers.
            inputs["labels"] = torch.zeros_like(inputs["labels"])
        return inputs
