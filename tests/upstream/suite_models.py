"""Transformers' common tests of models: every model of every modality, in the layouts of both versions."""

from typing import Any

from distribution import common
from head_factory import HEADS
from testers import ModelTester, WholeTest

import modeling_d2v
from modeling_d2v import Data2VecConfig
from modeling_d2v.remote_code import AUTO_MAP


modeling = common("test_modeling_common")
configuration = common("test_configuration_common")
# The common tests look up in these tables what kind of head a class is.
TABLES = {
    "AutoModel": modeling.MODEL_MAPPING_NAMES,
    "AutoBackbone": modeling.MODEL_FOR_BACKBONE_MAPPING_NAMES,
    "AutoModelForPreTraining": modeling.MODEL_FOR_PRETRAINING_MAPPING_NAMES,
    "AutoModelForMaskedLM": modeling.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "AutoModelForSequenceClassification": modeling.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "AutoModelForTokenClassification": modeling.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "AutoModelForQuestionAnswering": modeling.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    "AutoModelForMultipleChoice": modeling.MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES,
    "AutoModelForCTC": modeling.MODEL_FOR_CTC_MAPPING_NAMES,
    "AutoModelForAudioClassification": modeling.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
    "AutoModelForAudioXVector": modeling.MODEL_FOR_AUDIO_XVECTOR_MAPPING_NAMES,
    "AutoModelForImageClassification": modeling.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "AutoModelForSemanticSegmentation": modeling.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES,
}
for auto, table in TABLES.items():
    table[Data2VecConfig.model_type] = AUTO_MAP[auto].split(".")[1]


def make(group: str, model: str, modality: str, layout: str, **options: Any) -> None:
    """Make the test class of a model: "Group_Layout_Model"."""
    model_class = getattr(modeling_d2v, model)
    multiple = modality == "joint"

    class Test(modeling.ModelTesterMixin, WholeTest):
        all_model_classes = (model_class,)
        test_resize_embeddings = options.get("given", modality) == "text"
        # Of a joint model only the front end of the given modality is trained.
        test_all_params_have_gradient = not multiple
        has_attentions = True
        test_torch_exportable = False
        test_can_init_all_missing_weights_before_2023 = True
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
