"""Processors of transformers, and their files, from the transforms of a run."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from d2v_train.inputs.modalities import DATA_KINDS
from modeling_d2v import Data2VecConfig, Data2VecProcessor


def input_processor(config: Data2VecConfig, transforms: dict[str, Any], tokenizer: Any = None) -> Data2VecProcessor:
    """Return the processor of the inputs of a model, for each modality of its run; arguments as in `export`."""
    kinds = {name: DATA_KINDS[name] for name in transforms}
    return Data2VecProcessor(
        **{kind.processor: kind.make_processor(config, transforms[name], tokenizer) for name, kind in kinds.items()}
    )


def input_files(config: Data2VecConfig, transforms: dict[str, Any], tokenizer: Any = None) -> dict[str, bytes]:
    """Return the files of `input_processor` by name, which make a checkpoint usable without an export."""
    with TemporaryDirectory() as folder:
        input_processor(config, transforms, tokenizer).save_pretrained(folder)
        files = sorted(path for path in Path(folder).iterdir() if path.is_file() and path.suffix != ".py")
        # Not every file is text: vocabularies of sentencepiece are not.
        return {path.name: path.read_bytes() for path in files}
