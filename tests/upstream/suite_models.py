"""Transformers' common tests of models: every model of every modality, in the layouts of both versions."""

import unittest
from typing import Any

from distribution import common
from head_factory import HEADS
from testers import ModelTester

import modeling_d2v
from modeling_d2v import Data2VecConfig


modeling = common("test_modeling_common")
configuration = common("test_configuration_common")


def make(group: str, model: str, modality: str, layout: str, **options: Any) -> None:
    """Make the test class of a model: "Group_Layout_Model"."""
    model_class = getattr(modeling_d2v, model)
    multiple = modality == "joint"

    class Test(modeling.ModelTesterMixin, unittest.TestCase):
        all_model_classes = (model_class,)
        test_resize_embeddings = modality in ("text", "joint")
        has_attentions = True
        test_torch_exportable = False
        _is_composite = multiple

        def setUp(self) -> None:
            self.model_tester = ModelTester(self, model, modality, layout, **options)
            self.config_tester = configuration.ConfigTester(
                self,
                config_class=Data2VecConfig,
                has_text_modality=False,
                common_properties=["hidden_size", "num_attention_heads", "num_hidden_layers"],
                modalities=self.model_tester.get_config().modalities,
                hidden_size=32,
                num_attention_heads=4,
            )

        def _prepare_for_class(self, inputs_dict: Any, model_class: Any, return_labels: bool = False) -> Any:
            return self.model_tester.for_class(inputs_dict, return_labels)

    name = f"{group}_{layout}_{model.removeprefix('Data2Vec')}"
    Test.__name__ = Test.__qualname__ = name
    Test.__module__ = __name__
    globals()[name] = Test


for layout in ("V1", "V2", "V2PreNorm"):
    for modality in ("text", "vision", "audio"):
        heads = [name for name, head in HEADS.items() if head.modality == modality]
        for model in ("Data2VecModel", "Data2VecForPreTraining", *(heads if layout != "V2PreNorm" else heads[:1])):
            make(modality, model, modality, layout)
for model in ("Data2VecModel", "Data2VecForPreTraining", "Data2VecForAudioClassification"):
    make("spectrogram", model, "audio", "V2", front_end="spectrogram")
for layout in ("V1", "V2"):
    for given in ("text", "vision", "audio"):
        for model in ("Data2VecModel", "Data2VecForPreTraining"):
            make(f"joint-{given}", model, "joint", layout, given=given)
