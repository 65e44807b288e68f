"""data2vec 1.0 and 2.0 for transformers: importing this package registers its classes with the Auto factories."""

from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForAudioFrameClassification,
    AutoModelForAudioXVector,
    AutoModelForCTC,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSemanticSegmentation,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoProcessor,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
from transformers.utils import is_vision_available

from .backbone_configuration import BackbonePreTrainingConfig
from .backbone_parts import BackboneError
from .backbone_pretraining import BackboneForPreTraining
from .configuration_data2vec import (
    Data2VecArrayConfig,
    Data2VecAudioConfig,
    Data2VecConfig,
    Data2VecTextConfig,
    Data2VecVisionConfig,
)
from .ema_teacher import UpdateTeacher
from .feature_extraction_data2vec import Data2VecArrayFeatureExtractor
from .heads_arrays import AutoModelForArrayClassification, Data2VecForArrayClassification
from .heads_audio import (
    Data2VecForAudioClassification,
    Data2VecForAudioFrameClassification,
    Data2VecForCTC,
)
from .heads_text import (
    Data2VecForMaskedLM,
    Data2VecForMultipleChoice,
    Data2VecForQuestionAnswering,
    Data2VecForSequenceClassification,
    Data2VecForTokenClassification,
)
from .heads_vision import Data2VecBackbone, Data2VecForImageClassification, Data2VecForSemanticSegmentation
from .heads_xvector import Data2VecForXVector
from .image_processing_data2vec import Data2VecImageProcessor
from .modeling_data2vec import Data2VecModel, Data2VecModelOutput, Data2VecPreTrainedModel
from .pretraining_data2vec import Data2VecForPreTraining, Data2VecForPreTrainingOutput
from .processing_data2vec import Data2VecProcessor


__version__ = "0.1.0"
__all__ = [
    "AutoModelForArrayClassification",
    "BackboneError",
    "BackboneForPreTraining",
    "BackbonePreTrainingConfig",
    "Data2VecArrayConfig",
    "Data2VecArrayFeatureExtractor",
    "Data2VecAudioConfig",
    "Data2VecBackbone",
    "Data2VecConfig",
    "Data2VecForArrayClassification",
    "Data2VecForAudioClassification",
    "Data2VecForAudioFrameClassification",
    "Data2VecForCTC",
    "Data2VecForImageClassification",
    "Data2VecForMaskedLM",
    "Data2VecForMultipleChoice",
    "Data2VecForPreTraining",
    "Data2VecForPreTrainingOutput",
    "Data2VecForQuestionAnswering",
    "Data2VecForSemanticSegmentation",
    "Data2VecForSequenceClassification",
    "Data2VecForTokenClassification",
    "Data2VecForXVector",
    "Data2VecImageProcessor",
    "Data2VecModel",
    "Data2VecModelOutput",
    "Data2VecPreTrainedModel",
    "Data2VecProcessor",
    "Data2VecTextConfig",
    "Data2VecVisionConfig",
    "UpdateTeacher",
]

AutoConfig.register(Data2VecConfig.model_type, Data2VecConfig)
AutoProcessor.register(Data2VecConfig, Data2VecProcessor)
AutoFeatureExtractor.register(Data2VecConfig, Data2VecArrayFeatureExtractor)
if is_vision_available():
    # One class for both backends: pictures are prepared the same way whether torchvision is installed or not.
    AutoImageProcessor.register(
        Data2VecConfig, image_processor_classes=dict.fromkeys(("pil", "torchvision"), Data2VecImageProcessor)
    )
AutoModel.register(Data2VecConfig, Data2VecModel)
AutoModelForPreTraining.register(Data2VecConfig, Data2VecForPreTraining)
AutoConfig.register(BackbonePreTrainingConfig.model_type, BackbonePreTrainingConfig)
AutoModelForPreTraining.register(BackbonePreTrainingConfig, BackboneForPreTraining)
AutoModelForMaskedLM.register(Data2VecConfig, Data2VecForMaskedLM)
AutoModelForMultipleChoice.register(Data2VecConfig, Data2VecForMultipleChoice)
AutoModelForQuestionAnswering.register(Data2VecConfig, Data2VecForQuestionAnswering)
AutoModelForSequenceClassification.register(Data2VecConfig, Data2VecForSequenceClassification)
AutoModelForTokenClassification.register(Data2VecConfig, Data2VecForTokenClassification)
AutoModelForImageClassification.register(Data2VecConfig, Data2VecForImageClassification)
AutoModelForSemanticSegmentation.register(Data2VecConfig, Data2VecForSemanticSegmentation)
# The pipeline for segmentation looks for supported classes in this table alone, and not among the registered ones.
MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES[Data2VecConfig.model_type] = "Data2VecForSemanticSegmentation"
AutoBackbone.register(Data2VecConfig, Data2VecBackbone)
AutoModelForCTC.register(Data2VecConfig, Data2VecForCTC)
AutoModelForAudioClassification.register(Data2VecConfig, Data2VecForAudioClassification)
AutoModelForAudioFrameClassification.register(Data2VecConfig, Data2VecForAudioFrameClassification)
AutoModelForAudioXVector.register(Data2VecConfig, Data2VecForXVector)
AutoModelForArrayClassification.register(Data2VecConfig, Data2VecForArrayClassification)
