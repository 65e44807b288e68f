"""data2vec 1.0 and 2.0 for transformers: importing this package registers its classes with the Auto factories."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from .configuration_data2vec import (
    Data2VecAudioConfig,
    Data2VecConfig,
    Data2VecTextConfig,
    Data2VecVisionConfig,
)
from .heads_text import (
    Data2VecForMaskedLM,
    Data2VecForMultipleChoice,
    Data2VecForQuestionAnswering,
    Data2VecForSequenceClassification,
    Data2VecForTokenClassification,
)
from .modeling_data2vec import Data2VecModel, Data2VecModelOutput, Data2VecPreTrainedModel
from .pretraining_data2vec import Data2VecForPreTraining, Data2VecForPreTrainingOutput


__version__ = "0.1.0"
__all__ = [
    "Data2VecAudioConfig",
    "Data2VecConfig",
    "Data2VecForMaskedLM",
    "Data2VecForMultipleChoice",
    "Data2VecForPreTraining",
    "Data2VecForPreTrainingOutput",
    "Data2VecForQuestionAnswering",
    "Data2VecForSequenceClassification",
    "Data2VecForTokenClassification",
    "Data2VecModel",
    "Data2VecModelOutput",
    "Data2VecPreTrainedModel",
    "Data2VecTextConfig",
    "Data2VecVisionConfig",
]

AutoConfig.register(Data2VecConfig.model_type, Data2VecConfig)
AutoModel.register(Data2VecConfig, Data2VecModel)
AutoModelForPreTraining.register(Data2VecConfig, Data2VecForPreTraining)
AutoModelForMaskedLM.register(Data2VecConfig, Data2VecForMaskedLM)
AutoModelForMultipleChoice.register(Data2VecConfig, Data2VecForMultipleChoice)
AutoModelForQuestionAnswering.register(Data2VecConfig, Data2VecForQuestionAnswering)
AutoModelForSequenceClassification.register(Data2VecConfig, Data2VecForSequenceClassification)
AutoModelForTokenClassification.register(Data2VecConfig, Data2VecForTokenClassification)
