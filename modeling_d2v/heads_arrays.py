"""Task head for arrays: classification of a series, a picture of any channels, or a volume.

Shapes: B samples, C channels, L labels.
"""

from collections import OrderedDict
from typing import Unpack

from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.utils import TransformersKwargs, can_return_tuple

from .arguments import known_arguments
from .configuration_data2vec import Data2VecConfig
from .heads import Data2VecHead, sequence_loss


class Data2VecForArrayClassification(Data2VecHead):
    """Classifier of arrays: mean of the tokens, layer norm, dropout and a linear layer.

    See `sequence_loss` for the kinds of labels.
    """

    modality = "arrays"
    main_input_name = "array_values"
    input_modalities = ("arrays",)

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__(config)
        self.fc_norm = nn.LayerNorm(self.config.hidden_size, eps=self.config.layer_norm_eps)
        self.dropout = nn.Dropout(self.config.arrays_config.classifier_dropout)
        self.classifier = nn.Linear(self.config.hidden_size, self.config.num_labels)
        self.post_init()

    @known_arguments
    @can_return_tuple
    def forward(
        self,
        array_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutput:
        """Compute logits (B, L).

        Args:
            array_values: (B, side, ..., C).
            attention_mask: (B, length) of series, 1 = real, 0 = padding.
            labels: (B,) class ids or numbers, or (B, L) numbers or flags.
            num_items_in_batch: Labels of the whole step where gradients are accumulated.

        Raises:
            ValueError: The labels do not fit `num_labels` and `problem_type`.
        """
        output = self.data2vec(array_values=array_values, attention_mask=attention_mask, return_dict=True, **kwargs)
        logits = self.classifier(self.dropout(self.fc_norm(output.pooler_output)))
        loss = None if labels is None else sequence_loss(self.config, logits, labels, num_items_in_batch)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
        )


class AutoModelForArrayClassification(_BaseAutoModelClass):
    """Auto class of classifiers of arrays, of which transformers has none."""

    _model_mapping = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())
