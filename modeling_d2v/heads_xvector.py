"""The x-vector head (Snyder et al. 2018): one embedding per recording, to distinguish speakers.

Shapes: B samples, T frames, D hidden size, K width of a layer over time, X width of the embedding, L speakers.
"""

from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_outputs import XVectorOutput
from transformers.utils import TransformersKwargs, can_return_tuple

from .arguments import known_arguments
from .configuration_data2vec import Data2VecConfig
from .heads import IGNORED, check_class_ids, cross_entropy
from .heads_audio import Data2VecAudioHead


class TDNNLayer(nn.Module):
    """Linear layer over `kernel` frames that lie `dilation` apart, ReLU: a convolution without padding."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.offsets = range(0, kernel * dilation, dilation)
        self.kernel = nn.Linear(kernel * inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, K) to (B, T - (kernel - 1) * dilation, K')."""
        length = x.shape[1] - self.offsets[-1]
        return F.relu(self.kernel(torch.cat([x[:, start : start + length] for start in self.offsets], dim=-1)))


class AMSoftmax(nn.Module):
    """Additive margin softmax (Wang et al. 2018): the cosine to the right class must be larger by a margin.

    Args:
        width: X.
        num_labels: L.
        scale: Factor of the cosines.
        margin: Subtracted from the cosine of the right class.
    """

    def __init__(self, width: int, num_labels: int, scale: float = 30.0, margin: float = 0.4) -> None:
        super().__init__()
        self.scale, self.margin = scale, margin
        self.weight = nn.Parameter(torch.randn(width, num_labels))

    def forward(self, x: Tensor, labels: Tensor, num_items: Tensor | int | None = None) -> Tensor:
        """Compute the loss of x (B, X) and class ids (B,), -100 where there is none, in float32."""
        check_class_ids(labels, self.weight.shape[1])
        labels = labels.flatten().to(x.device)
        cosines = F.normalize(x.float(), dim=1) @ F.normalize(self.weight.float(), dim=0)
        right = F.one_hot(labels.clamp(min=0), self.weight.shape[1]) * (labels != IGNORED)[:, None]
        return cross_entropy(self.scale * (cosines - self.margin * right), labels, num_items)


class Data2VecForXVector(Data2VecAudioHead):
    """Speaker recognition and verification: layers over time, mean and deviation of their output, two linear layers.

    `embeddings`, the output of the first linear layer, are compared by their cosine.
    """

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__(config)
        audio = self.config.audio_config
        widths = [audio.tdnn_dim[0], *audio.tdnn_dim]
        shapes = zip(widths[:-1], widths[1:], audio.tdnn_kernel, audio.tdnn_dilation, strict=True)
        self.layer_sum = self.make_layer_sum()
        self.projector = nn.Linear(self.config.hidden_size, widths[0])
        self.tdnn = nn.ModuleList([TDNNLayer(*shape) for shape in shapes])
        self.context = sum(layer.offsets[-1] for layer in self.tdnn)  # frames after the first that an output sees
        self.feature_extractor = nn.Linear(2 * widths[-1], audio.xvector_output_dim)
        self.classifier = nn.Linear(audio.xvector_output_dim, audio.xvector_output_dim)
        self.objective = AMSoftmax(audio.xvector_output_dim, self.config.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, AMSoftmax):
            init.normal_(module.weight)

    def statistics(self, hidden: Tensor, real: Tensor) -> Tensor:
        """Return mean and standard deviation over time (B, 2 K) of the frames (B, T, D) in `real` (B, T).

        Outputs that see padding are left out. A recording shorter than the receptive field is padded with zeros and
        has one output.
        """
        x = F.pad(self.projector(hidden) * real[..., None], (0, 0, 0, self.context))
        for layer in self.tdnn:
            x = layer(x)
        first = real & (real.cumsum(dim=1) == 1)
        whole = real & F.pad(real, (0, self.context))[:, self.context :]
        weight = (whole | first)[..., None].float()  # (B, T, 1)
        count = weight.sum(dim=1)
        x = x.float()
        mean = (x * weight).sum(dim=1) / count.clamp(min=1)
        variance = ((x - mean[:, None]).square() * weight).sum(dim=1) / (count - 1).clamp(min=1)
        # The slope of the root at 0 is infinite: channels that never vary must not make the gradient NaN.
        return torch.cat([mean, variance.clamp(min=1e-12).sqrt()], dim=1).to(hidden.dtype)

    @known_arguments
    @can_return_tuple
    def forward(
        self,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> XVectorOutput:
        """Compute embeddings (B, X), and logits (B, X), which the loss compares with one vector per speaker.

        Args:
            input_values, attention_mask: (B, samples).
            mask_time_indices: (B, T) bool, True = frame hidden, instead of those drawn in training.
            labels: (B,) ids of speakers.
            num_items_in_batch: Labels of the whole step where gradients are accumulated.

        Raises:
            ValueError: An id is outside `num_labels`.
        """
        output, hidden, real = self.encode(input_values, attention_mask, mask_time_indices, **kwargs)
        embeddings = self.feature_extractor(self.statistics(hidden, real))
        logits = self.classifier(embeddings)
        loss = None if labels is None else self.objective(logits, labels, num_items_in_batch)
        return XVectorOutput(
            loss=loss,
            logits=logits,
            embeddings=embeddings,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )
