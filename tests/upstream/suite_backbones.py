"""Transformers' common tests of backbones."""

from typing import Any

from distribution import common
from testers import ModelTester, WholeTest

from modeling_d2v import Data2VecBackbone, Data2VecConfig


backbone = common("test_backbone_common")


class Test_V2_Backbone(backbone.BackboneTesterMixin, WholeTest):
    all_model_classes = (Data2VecBackbone,)
    config_class = Data2VecConfig
    layout = "V2"

    def setUp(self) -> None:
        self.model_tester: Any = ModelTester(self, "Data2VecBackbone", "vision", self.layout)


class Test_V1_Backbone(Test_V2_Backbone):
    layout = "V1"
