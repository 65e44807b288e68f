"""data2vec 1.0 and 2.0 for transformers: importing this package registers its classes with the Auto factories."""

from transformers import AutoConfig, AutoModel, AutoModelForPreTraining

from .configuration_data2vec import (
    Data2VecAudioConfig,
    Data2VecConfig,
    Data2VecTextConfig,
    Data2VecVisionConfig,
)
from .modeling_data2vec import Data2VecModel, Data2VecModelOutput, Data2VecPreTrainedModel
from .pretraining_data2vec import Data2VecForPreTraining, Data2VecForPreTrainingOutput


__version__ = "0.1.0"
__all__ = [
    "Data2VecAudioConfig",
    "Data2VecConfig",
    "Data2VecForPreTraining",
    "Data2VecForPreTrainingOutput",
    "Data2VecModel",
    "Data2VecModelOutput",
    "Data2VecPreTrainedModel",
    "Data2VecTextConfig",
    "Data2VecVisionConfig",
]

AutoConfig.register(Data2VecConfig.model_type, Data2VecConfig)
AutoModel.register(Data2VecConfig, Data2VecModel)
AutoModelForPreTraining.register(Data2VecConfig, Data2VecForPreTraining)
