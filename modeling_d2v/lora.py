"""What LoRA (Hu et al. 2021) adapts in a data2vec model, for the `peft` library.

Low-rank updates go into the four linear layers of every block, those of the prenet included; the front ends stay as
they are, and the task head is trained as a whole: it starts from random weights.
"""

from typing import Any

from torch import nn
from transformers import PreTrainedModel


# Ends of module names. "projection" alone would also match the front ends.
LORA_TARGETS = ("attention.qkv", "attention.projection", "mlp.fc1", "mlp.fc2")


def lora_settings(model: PreTrainedModel) -> dict[str, Any]:
    """Keyword arguments of `peft.LoraConfig` for a task head or an encoder.

    Query, key and value are one linear layer: they share the rank that is given to it. An output matrix that is tied
    to the token embedding stays frozen with it.

    Args:
        model: any model of this package.

    Returns:
        `target_modules`, and `modules_to_save` with the modules of the head (`None` for an encoder).

    Example:
        >>> model = AutoModelForCTC.from_pretrained("runs/speech/final", vocab_size=32)
        >>> model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, **lora_settings(model)))
        >>> model.print_trainable_parameters()
    """
    tied = set(model.all_tied_weights_keys)
    head = [
        name
        for child, module in model.named_children()
        if child not in (model.base_model_prefix, "modality_encoders", "encoder", "teacher", "decoders")
        for name in _trainable(child, module, tied)
    ]
    return {"target_modules": list(LORA_TARGETS), "modules_to_save": head or None}


def _trainable(name: str, module: nn.Module, tied: set[str]) -> list[str]:
    """The module, or those inside it, that peft can train as a whole: no containers, and no tied weights."""
    parameters = [f"{name}.{parameter}" for parameter, _ in module.named_parameters()]
    if not parameters:
        return []
    if not isinstance(module, nn.ModuleList | nn.ModuleDict) and tied.isdisjoint(parameters):
        return [name]
    return [inner for child, part in module.named_children() for inner in _trainable(f"{name}.{child}", part, tied)]
