"""Transformers' common tests of what prepares inputs: processor, image processor, feature extractor."""

from typing import Any

import numpy as np
import torch
from distribution import common
from processing_factory import feature_extractor, image_processor, text_tokenizer
from testers import WholeTest

from modeling_d2v import Data2VecImageProcessor, Data2VecProcessor


processing = common("test_processing_common")
images = common("test_image_processing_common")
sequences = common("test_sequence_feature_extraction_common")


class Test_Processor(processing.ProcessorTesterMixin, WholeTest):
    """The processor of a joint model, with all three parts."""

    processor_class = Data2VecProcessor
    # A waveform is prepared as `input_values`.
    audio_input_name = "input_values"

    @classmethod
    def _setup_tokenizer(cls) -> Any:
        return text_tokenizer()

    @classmethod
    def _setup_image_processor(cls) -> Any:
        return image_processor()

    @classmethod
    def _setup_feature_extractor(cls) -> Any:
        return feature_extractor()


class ImageProcessorTester(images.ImageProcessingTester):
    """Pictures of which the centre is cut out."""

    num_labels = 5

    def __init__(self, parent: Any, **settings: Any) -> None:
        settings = {"size": {"shortest_edge": 20}, "crop_size": {"height": 18, "width": 18}, **settings}
        super().__init__(parent, min_resolution=30, max_resolution=60, **settings)

    def _get_image_processing_classes(self) -> dict[str, Any]:
        return dict.fromkeys(("pil", "torchvision"), Data2VecImageProcessor)

    def prepare_post_process_semantic_segmentation_inputs(self) -> tuple[dict[str, Any], dict[str, Any]]:
        height, width = 18, 18
        outputs = images.SemanticSegmenterOutput(logits=torch.randn(self.batch_size, self.num_labels, height, width))
        return {"outputs": outputs}, {"num_labels": self.num_labels, "height": height, "width": width}


class SegmentationTester(ImageProcessorTester):
    """Whole pictures of one size, as for segmentation."""

    def __init__(self, parent: Any) -> None:
        super().__init__(parent, size={"height": 18, "width": 18}, crop_size=None, do_center_crop=False)


class Test_ImageProcessor(images.ImageProcessingTestMixin, images.PostProcessSemanticSegmentationTestMixin, WholeTest):
    image_processor_tester_class = ImageProcessorTester
    test_cast_dtype = True


class Test_SegmentationImageProcessor(Test_ImageProcessor):
    image_processor_tester_class = SegmentationTester


class FeatureExtractorTester:
    """Waveforms of rising lengths."""

    batch_size, min_seq_length, max_seq_length, feature_size = 7, 400, 2000, 1
    seq_length_diff = (max_seq_length - min_seq_length) // (batch_size - 1)
    padding_value = 0.0

    def prepare_feat_extract_dict(self) -> dict[str, Any]:
        extractor = feature_extractor()
        names = ("feature_size", "padding_value", "sampling_rate", "return_attention_mask", "do_normalize")
        return {name: getattr(extractor, name) for name in names}

    def prepare_inputs_for_common(self, equal_length: bool = False, numpify: bool = False) -> list:
        generator = np.random.default_rng(0)
        lengths = range(self.min_seq_length, self.max_seq_length, self.seq_length_diff)
        waveforms = [generator.normal(size=self.max_seq_length if equal_length else n) for n in lengths]
        waveforms = waveforms[: self.batch_size]
        return waveforms if numpify else [waveform.tolist() for waveform in waveforms]


class Test_FeatureExtractor(sequences.SequenceFeatureExtractionTestMixin, WholeTest):
    feature_extraction_class = type(feature_extractor())

    def setUp(self) -> None:
        self.feat_extract_tester = FeatureExtractorTester()
