"""Transformers' common tests of configurations: of a model of each modality, of joint ones, and of the parts."""

from typing import Any

from distribution import common
from model_factory import PARTS
from testers import WholeTest

from modeling_d2v import (
    BackbonePreTrainingConfig,
    Data2VecAudioConfig,
    Data2VecConfig,
    Data2VecTextConfig,
    Data2VecVisionConfig,
)


configuration = common("test_configuration_common")
SIZES = ["hidden_size", "num_attention_heads", "num_hidden_layers"]


class ConfigurationTest:
    """The test of `fields` of a `config_class`, which has the attributes `common_properties`."""

    config_class: Any = Data2VecConfig
    fields: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4}
    common_properties = SIZES
    model_tester = None

    def test_config(self) -> None:
        tester = configuration.ConfigTester(
            self,
            config_class=self.config_class,
            has_text_modality=False,
            common_properties=list(self.common_properties),
            **self.fields,
        )
        tester.run_common_tests()


class TestJoint(ConfigurationTest, WholeTest):
    pass


class TestTextAlone(ConfigurationTest, WholeTest):
    fields = {**ConfigurationTest.fields, "modalities": ["text"]}


class TestVisionAlone(ConfigurationTest, WholeTest):
    fields = {**ConfigurationTest.fields, "modalities": ["vision"]}


class TestAudioAlone(ConfigurationTest, WholeTest):
    fields = {**ConfigurationTest.fields, "modalities": ["audio"]}


class TestText(ConfigurationTest, WholeTest):
    config_class, fields, common_properties = Data2VecTextConfig, PARTS["text"], ["vocab_size"]


class TestVision(ConfigurationTest, WholeTest):
    config_class, fields, common_properties = Data2VecVisionConfig, PARTS["vision"], ["image_size", "patch_size"]


class TestAudio(ConfigurationTest, WholeTest):
    config_class, fields, common_properties = Data2VecAudioConfig, PARTS["audio"], ["sampling_rate", "conv_dim"]


class TestBackbonePreTraining(ConfigurationTest, WholeTest):
    config_class, fields, common_properties = BackbonePreTrainingConfig, {}, []
