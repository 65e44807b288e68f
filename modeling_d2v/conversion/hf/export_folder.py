"""Export of a checkpoint folder to one that transformers loads without this package.

Beside the weights it holds the input preparation, as classes of transformers (`Wav2Vec2Processor`,
`BeitImageProcessor`, a tokenizer), and a card with the origin of the model and the differences.
"""

import json
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers import Wav2Vec2Processor

from modeling_d2v.conversion.hf.export import Exported, to_transformers
from modeling_d2v.conversion.hf.load import from_transformers
from modeling_d2v.conversion.tensors import STUDENT, TEACHER, Unused, third
from modeling_d2v.heads_audio import Data2VecForCTC
from modeling_d2v.model_card import CARD, choose_license, license_text, read_license
from modeling_d2v.modeling_data2vec import Data2VecPreTrainedModel
from modeling_d2v.pretraining_data2vec import Data2VecForPreTraining
from modeling_d2v.processing_data2vec import Data2VecProcessor
from modeling_d2v.sharing.drafts import check_place, draft_of
from modeling_d2v.sharing.publishing import find_checkpoint, load_saved_model


# Fields of `Data2VecImageProcessor` that belong to the class, not to its function.
_OWN_FIELDS = ("image_processor_type", "processor_class", "auto_map", "num_channels")
_CARD = """---
{metadata}
---

# {name}

A data2vec model of the class `{theirs}`, exported from a `{ours}`. transformers loads it without further code:

```python
from transformers import {theirs}

model = {theirs}.from_pretrained("{name}")
```

## What is different

{notes}

## Licence

{license}
"""


def export_to_transformers(
    checkpoint: str | PathLike,
    folder: str | PathLike,
    *,
    overwrite: bool = False,
    dtype: torch.dtype | None = None,
    license: str | None = None,
    verify: bool = False,
    weights: str = "student",
    **options: Any,
) -> Exported:
    """Write a model of this package as a folder of transformers.

    Args:
        checkpoint: Folder of a model of any class, or of a finished pretraining run.
        folder: Destination; it appears when it is complete.
        overwrite: Replace it if it exists.
        dtype: Dtype of the weights. Default: that of the checkpoint.
        license: Licence of the weights, for the card. Default: that of the checkpoint's card.
        verify: Load the result, convert it back, and compare every tensor with the checkpoint's.
        weights: Weights of a pretraining checkpoint: "student" or "teacher".
        options: Options of `to_transformers`: `modality`, `mask_token`.

    Returns:
        The model, and tensors and settings that were left out.

    Raises:
        FileExistsError: The folder exists, and `overwrite` is not set.
        FileNotFoundError, ValueError: There is no model, transformers cannot compute it, its licence does not allow
            `license`, or the written tensors differ.
    """
    source, folder = find_checkpoint(checkpoint), Path(folder)
    if folder.exists() and not overwrite:
        raise FileExistsError(f"{folder} exists. Choose another folder, or set `overwrite`.")
    check_place(folder, source)
    stated = read_license(source)
    license = choose_license(license, stated) if license else stated
    model = load_saved_model(source)
    left_out: list[Unused] = []
    if isinstance(model, Data2VecForPreTraining):
        others = ("decoders.", TEACHER if weights == "student" else STUDENT)
        left_out = [Unused(name, "serves pretraining alone") for name in model.state_dict() if name.startswith(others)]
        model = model.trained_encoder(weights)
    if dtype is not None:
        model = model.to(dtype)
    exported = to_transformers(model, **options)
    exported.unused.extend(left_out)
    savers = [exported.model.save_pretrained, *_input_files(model, exported, source)]
    with draft_of(folder) as draft:
        for save in savers:
            save(draft)
        for path in draft.glob("*_config.json"):
            _forget_our_classes(path)
        (draft / CARD).write_text(_card(model, exported, folder.name, license), encoding="utf-8")
        if verify:
            compared = _verify(draft, model, exported.unused)
            exported.notes.append(f"Verified: {compared} tensors, read back and turned back, are the checkpoint's.")
    return exported


def _verify(folder: Path, source: Data2VecPreTrainedModel, unused: list[Unused]) -> int:
    """Convert what was written back to our model, and compare its tensors with those of the source.

    Returns:
        The number of compared tensors.
    """
    left_out, state = {entry.name for entry in unused}, source.state_dict()
    again = {name: x for name, x in from_transformers(folder)[0].state_dict().items() if name not in left_out}
    wrong = []
    for name, found in again.items():
        wanted = state.get(name)
        if f"{name}#k" in left_out and wanted is not None:
            found, wanted = (torch.cat((third(x, "q"), third(x, "v"))) for x in (found, wanted))
        if wanted is None or not torch.equal(found, wanted):
            wrong.append(name)
    if wrong:
        raise ValueError(f"The written model differs from the checkpoint in {', '.join(wrong[:10])}.")
    return len(again)


def _input_files(model: Data2VecPreTrainedModel, exported: Exported, source: Path) -> list[Callable[[Path], Any]]:
    """Return functions that save the input preparation, in the classes of transformers."""
    try:
        processor = Data2VecProcessor.from_pretrained(source)
    except OSError:
        exported.notes.append("The checkpoint has no tokenizer, feature extractor or image processor to export.")
        return []
    parts = {name: getattr(processor, name) for name in processor.get_attributes()}
    modality = exported.model.config.model_type.removeprefix("data2vec-")
    if modality == "vision":
        return [_image_processor(parts["image_processor"]).save_pretrained] if "image_processor" in parts else []
    if modality == "text":
        return [parts["tokenizer"].save_pretrained] if "tokenizer" in parts else []
    # Of a joint model, the tokenizer is that of its texts.
    speech = ["feature_extractor", "tokenizer"] if isinstance(model, Data2VecForCTC) else ["feature_extractor"]
    speech = [name for name in speech if name in parts]
    if len(speech) == 2:
        return [Wav2Vec2Processor(**{name: parts[name] for name in speech}).save_pretrained]
    return [parts[name].save_pretrained for name in speech]


def _forget_our_classes(path: Path) -> None:
    """Remove references to our processor and its code, which tokenizers and feature extractors keep."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    own = settings.pop("auto_map", None)
    if settings.get("processor_class") == Data2VecProcessor.__name__:
        own = settings.pop("processor_class")
    if own is not None:
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _image_processor(ours: Any) -> Any:
    """Return the image processor of BEiT, which transformers uses for data2vec-vision.

    It prepares images with grey, transparency or 16 bits differently; RGB images are prepared alike.
    """
    from transformers.models.beit.image_processing_pil_beit import BeitImageProcessorPil

    fields = {name: value for name, value in ours.to_dict().items() if name not in _OWN_FIELDS}
    return BeitImageProcessorPil(**fields | {"do_convert_rgb": ours.num_channels == 3})


def _card(model: Data2VecPreTrainedModel, exported: Exported, name: str, license: str | None) -> str:
    metadata = ["library_name: transformers", "tags:", "- data2vec"]
    notes = exported.notes + [f"`{n}` is left out: it {why}." for n, why in _grouped(exported.unused)]
    return _CARD.format(
        metadata="\n".join(metadata if license is None else [f"license: {license}", *metadata]),
        name=name,
        ours=type(model).__name__,
        theirs=type(exported.model).__name__,
        notes="\n".join(f"- {note}" for note in notes) or "Nothing.",
        license=license_text(license, has_code=False),
    )


def _grouped(unused: list[Unused]) -> list[tuple[str, str]]:
    """Return one entry for each reason, with the first name."""
    first: dict[str, str] = {}
    for name, reason in unused:
        first.setdefault(reason, name)
    return [(name, reason) for reason, name in first.items()]
