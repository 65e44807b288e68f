"""The files and classes that a checkpoint carries, so that it loads where this package is not installed.

With `trust_remote_code=True`, transformers starts from the class that `AUTO_MAP` names, reads the text of its file for
relative imports, and copies and follows those; a file that no import reaches is missing when a model loaded that way
is saved again. The search starts at the configuration, but heads import the configuration and not vice versa. The
imports below, which never run, close that cycle for the text search: the configuration imports this file, and this
file imports one class of every branch. It is the only import cycle in the package, and intended.
"""

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .heads_arrays import Data2VecForArrayClassification  # noqa: F401
    from .heads_audio import Data2VecForCTC  # noqa: F401
    from .heads_text import Data2VecForMaskedLM  # noqa: F401
    from .heads_vision import Data2VecForImageClassification  # noqa: F401
    from .heads_xvector import Data2VecForXVector  # noqa: F401
    from .image_processing_data2vec import Data2VecImageProcessor  # noqa: F401
    from .pretraining_data2vec import Data2VecForPreTraining  # noqa: F401
    from .processing_data2vec import Data2VecProcessor  # noqa: F401

# The files that a checkpoint needs beside its weights.
TRAVELLING_FILES = (
    "remote_code.py",
    "arguments.py",
    "refused_calls.py",
    "configuration_data2vec.py",
    "configuration_audio.py",
    "configuration_modalities.py",
    "configuration_vision.py",
    "configuration_checks.py",
    "configuration_perceiver.py",
    "configuration_arrays.py",
    "modalities.py",
    "presets.py",
    "time_convolutions.py",
    "dropout.py",
    "attention_dropout.py",
    "positions.py",
    "markdown.py",
    "model_card.py",
    "pushing.py",
    "masking.py",
    "local_encoders.py",
    "spectrograms.py",
    "curves.py",
    "perceiver.py",
    "perceiver_global.py",
    "perceiver_groups.py",
    "modality_encoders.py",
    "blocks.py",
    "modeling_data2vec.py",
    "decoders.py",
    "targets.py",
    "objective.py",
    "ema_teacher.py",
    "backbone_inputs.py",
    "backbone_configuration.py",
    "backbone_parts.py",
    "backbone_pretraining.py",
    "pretraining_data2vec.py",
    "processing_data2vec.py",
    "image_processing_data2vec.py",
    "feature_extraction_data2vec.py",
    "ctc_beam_search.py",
    "heads.py",
    "heads_text.py",
    "heads_audio.py",
    "heads_xvector.py",
    "ctc.py",
    "spec_augment.py",
    "heads_vision.py",
    "heads_arrays.py",
    "segmentation.py",
)
AUTO_MAP = {
    "AutoConfig": "configuration_data2vec.Data2VecConfig",
    "AutoModel": "modeling_data2vec.Data2VecModel",
    "AutoProcessor": "processing_data2vec.Data2VecProcessor",
    "AutoModelForPreTraining": "pretraining_data2vec.Data2VecForPreTraining",
    "AutoModelForMaskedLM": "heads_text.Data2VecForMaskedLM",
    "AutoModelForSequenceClassification": "heads_text.Data2VecForSequenceClassification",
    "AutoModelForTokenClassification": "heads_text.Data2VecForTokenClassification",
    "AutoModelForQuestionAnswering": "heads_text.Data2VecForQuestionAnswering",
    "AutoModelForMultipleChoice": "heads_text.Data2VecForMultipleChoice",
    "AutoModelForCTC": "heads_audio.Data2VecForCTC",
    "AutoModelForAudioClassification": "heads_audio.Data2VecForAudioClassification",
    "AutoModelForAudioFrameClassification": "heads_audio.Data2VecForAudioFrameClassification",
    "AutoModelForAudioXVector": "heads_xvector.Data2VecForXVector",
    "AutoModelForImageClassification": "heads_vision.Data2VecForImageClassification",
    "AutoModelForSemanticSegmentation": "heads_vision.Data2VecForSemanticSegmentation",
    "AutoModelForArrayClassification": "heads_arrays.Data2VecForArrayClassification",
    "AutoBackbone": "heads_vision.Data2VecBackbone",
}
