"""One object that prepares everything a checkpoint takes: text, images, audio, or those of them that it knows.

It also turns the outputs of a CTC model into text, greedily or with a language model.

Shapes: B samples, T frames, V tokens of the vocabulary.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoTokenizer,
    BatchEncoding,
    BatchFeature,
    ProcessorMixin,
)
from transformers.utils.hub import cached_file

from .ctc_beam_search import BeamSearch, WordModel, load_language_model


_IGNORED = -100
LOADERS = {
    "tokenizer": AutoTokenizer,
    "image_processor": AutoImageProcessor,
    "feature_extractor": AutoFeatureExtractor,
}
_INPUTS = {"tokenizer": "text", "image_processor": "images", "feature_extractor": "audio"}
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


class Data2VecProcessor(ProcessorMixin):
    """Tokenizer, image processor and feature extractor of a checkpoint, or those of them that it has.

    `save_pretrained` and `from_pretrained` keep exactly the parts that are there. The Auto class of each part finds it
    in the same folder.

    Args:
        tokenizer: for text, or for the transcripts of a CTC model.
        image_processor: for images.
        feature_extractor: for waveforms.

    Raises:
        ValueError: if there is none of them.

    Example:
        >>> processor = AutoProcessor.from_pretrained("runs/speech/final")
        >>> inputs = processor(audio=waveforms, sampling_rate=16000, padding=True, return_tensors="pt")
        >>> texts = processor.batch_decode(model(**inputs).logits)
    """

    _auto_class = "AutoProcessor"

    def __init__(self, tokenizer: Any = None, image_processor: Any = None, feature_extractor: Any = None) -> None:
        given = {"tokenizer": tokenizer, "image_processor": image_processor, "feature_extractor": feature_extractor}
        parts = {name: part for name, part in given.items() if part is not None}
        if not parts:
            raise ValueError(f"A Data2VecProcessor needs at least one of {', '.join(LOADERS)}.")
        # The base class saves and shows what this names: the parts of the instance, not all that the class can have.
        self.get_attributes = partial(list, parts)
        super().__init__(**parts)

    def __getattr__(self, name: str) -> Any:
        if name in LOADERS:
            raise AttributeError(
                f"This processor has no {name}; it has {' and '.join(self.get_attributes())}. Save the checkpoint "
                f"with one, or make a Data2VecProcessor({name}=...)."
            )
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")

    def __call__(
        self,
        images: Any = None,
        text: Any = None,
        audio: Any = None,
        sampling_rate: int | None = None,
        **kwargs: Any,
    ) -> BatchFeature | BatchEncoding:
        """Input of the model, of one modality; with `audio`, `text` is the transcript and becomes `labels`.

        Args:
            images: an image or several, as the image processor takes them.
            text: a text or several.
            audio: a waveform (samples,) or several, each of one channel, as arrays, tensors or lists.
            sampling_rate: Hz of the waveforms; needed with `audio`.
            kwargs: of the part that is used, such as `padding=True`, `truncation=True`, `text_pair=...` or
                `return_tensors="pt"`. With `audio` and `text` they are the feature extractor's, and the transcripts
                are padded with -100.

        Returns:
            `input_ids` and `attention_mask`, or `pixel_values` (with `labels` if `segmentation_maps` are given), or
            `input_values` and `attention_mask` (and `labels` with `text`).

        Raises:
            ValueError: for no input, images beside another one, a part that is missing, another sampling rate than
                the model's, recordings that are empty or of several channels, or another number of transcripts.
        """
        given = {"images": images, "text": text, "audio": audio}
        names = [name for name, value in given.items() if value is not None]
        if names not in (["images"], ["text"], ["audio"], ["text", "audio"]):
            raise ValueError(
                "A call prepares one modality: `images`, `text` or `audio`, or `audio` with its transcript as `text`; "
                f"got {' and '.join(names) or 'nothing'}."
            )
        if audio is not None:
            return self._prepare_audio(audio, text, sampling_rate, kwargs)
        if images is not None:
            return self._part("image_processor")(images, **kwargs)
        return self._part("tokenizer")(text, **kwargs)

    def _prepare_audio(self, audio: Any, text: Any, sampling_rate: int | None, kwargs: dict[str, Any]) -> BatchFeature:
        extractor = self._part("feature_extractor")
        if sampling_rate != extractor.sampling_rate:
            given = "is not given" if sampling_rate is None else f"is {sampling_rate} Hz"
            raise ValueError(
                f"`sampling_rate` {given}; this model takes audio of {extractor.sampling_rate} Hz. Resample it, for "
                f"example with soxr, and pass `sampling_rate={extractor.sampling_rate}`."
            )
        waveforms = self._waveforms(audio)
        inputs = extractor(waveforms, sampling_rate=sampling_rate, **{"return_attention_mask": True, **kwargs})
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            if len(texts) != len(waveforms):
                raise ValueError(f"`audio` holds {len(waveforms)} recordings and `text` {len(texts)} transcripts.")
            tokens = self._part("tokenizer")(texts, padding=bool(kwargs.get("padding")), return_attention_mask=True)
            inputs["labels"] = [
                [token if real else _IGNORED for token, real in zip(*row, strict=True)]
                for row in zip(tokens["input_ids"], tokens["attention_mask"], strict=True)
            ]
            inputs = inputs.convert_to_tensors(kwargs.get("return_tensors"))
        return inputs

    @staticmethod
    def _waveforms(audio: Any) -> list[np.ndarray]:
        """Arrays (samples,) out of one recording or several."""
        rows = audio if len(audio) and np.ndim(audio[0]) else [audio]
        # The feature extractor would take tensors for recordings of several channels.
        waveforms = [np.asarray(row.detach().cpu() if isinstance(row, Tensor) else row) for row in rows]
        for i, waveform in enumerate(waveforms):
            if waveform.ndim != 1 or not waveform.size:
                raise ValueError(
                    f"Recording {i} has shape {waveform.shape}; it must be (samples,) with at least one sample. Skip "
                    "empty recordings, and take the mean over the channels of those that have several."
                )
        return waveforms

    def _part(self, name: str) -> Any:
        if name not in self.get_attributes():
            raise ValueError(
                f"This processor prepares {' and '.join(_INPUTS[part] for part in self.get_attributes())}, not "
                f"{_INPUTS[name]}: the checkpoint has no {name}. Make a Data2VecProcessor with one."
            )
        return getattr(self, name)

    def batch_decode(self, sequences: Any, lengths: Any = None, **kwargs: Any) -> Any:
        """Texts of token ids, or the greedy texts of a CTC model.

        Args:
            sequences: ids (B, T), or logits (B, T, V) as tensor or array; lists of ids of any lengths.
            lengths: (B,) real frames of each sample: `config.audio_config.num_frames(attention_mask.sum(dim=1))`.
                What lies behind them is not read. Default: all T.
            kwargs: of the tokenizer. A `Wav2Vec2CTCTokenizer` takes `output_word_offsets=True` and
                `output_char_offsets=True`; an offset times `config.inputs_to_logits_ratio / sampling_rate` is in
                seconds.

        Returns:
            what the tokenizer's `batch_decode` gives: a list of texts, or texts with offsets.
        """
        if isinstance(sequences, Tensor | np.ndarray):
            sequences = self._greedy(torch.as_tensor(sequences), lengths)
        return self._part("tokenizer").batch_decode(sequences, **kwargs)

    def decode(self, sequence: Any, **kwargs: Any) -> Any:
        """The same for one sample: ids (T,) or logits (T, V)."""
        if isinstance(sequence, Tensor | np.ndarray):
            sequence = self._greedy(torch.as_tensor(sequence)[None], None)[0]
        return self._part("tokenizer").decode(sequence, **kwargs)

    def _greedy(self, sequences: Tensor, lengths: Any) -> Tensor:
        """Ids (B, T) of ids or logits, the pad token, which is the blank of CTC, where there is nothing to read."""
        pad = self._part("tokenizer").pad_token_id
        empty = sequences == _IGNORED  # how Trainer pads ids and logits
        if sequences.is_floating_point():
            sequences, empty = sequences.argmax(dim=-1), empty.all(dim=-1)
        if lengths is not None:
            places = torch.arange(sequences.shape[1], device=sequences.device)
            empty = empty | (places >= torch.as_tensor(lengths, device=sequences.device)[:, None])
        return sequences.masked_fill(empty, pad) if empty.any() else sequences

    def decode_with_lm(
        self, logits: Any, language_model: str | Path | WordModel | None = None, lengths: Any = None, **options: Any
    ) -> list[str]:
        """The most likely texts of a CTC model by beam search, with a language model over words.

        Args:
            logits: (B, T, V).
            language_model: ARPA or binary file of KenLM (needs the extra "lm"), or a `WordModel`; `None` for beam
                search alone. Its words must be written as the tokenizer writes them, in upper or lower case.
            lengths: (B,) real frames of each sample; default: all T.
            options: `alpha`, `beta`, `beam_width`, ... of `BeamSearch`.

        Raises:
            ImportError: if kenlm is needed and not installed.
            ValueError: for logits of another shape, or if the tokenizer has no blank, or does not know all the V
                tokens.
        """
        logits = torch.as_tensor(logits).detach()
        if logits.dim() != 3:
            raise ValueError(
                f"`logits` must have shape (batch, frames, vocabulary); got {tuple(logits.shape)}. For one recording "
                "pass `logits[None]`."
            )
        if isinstance(language_model, str | Path):
            language_model = load_language_model(str(language_model))
        search = self._beam_search(logits.shape[-1], language_model, options)
        log_probs = logits.float().log_softmax(dim=-1).cpu().numpy()
        lengths = [log_probs.shape[1]] * len(log_probs) if lengths is None else [int(length) for length in lengths]
        return [search(row[:length])[0].text for row, length in zip(log_probs, lengths, strict=True)]

    def _beam_search(self, vocab_size: int, language_model: WordModel | None, options: dict[str, Any]) -> BeamSearch:
        tokenizer = self._part("tokenizer")
        blank = tokenizer.pad_token_id
        if blank is None or vocab_size > len(tokenizer):
            raise ValueError(
                f"The logits have {vocab_size} tokens, the tokenizer {len(tokenizer)} with the pad token (the blank "
                f"of CTC) {tokenizer.pad_token!r}. Use the tokenizer that the model was trained with."
            )
        labels = tokenizer.convert_ids_to_tokens(list(range(vocab_size)))
        if getattr(tokenizer, "do_lower_case", False):
            labels = [label.lower() for label in labels]
        delimiter = getattr(tokenizer, "word_delimiter_token_id", None)
        ignored = {i for i in tokenizer.all_special_ids if i < vocab_size} - {blank, delimiter}
        return BeamSearch(labels, blank, delimiter, tuple(ignored), language_model, **options)

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        """The parts that the folder has, in the order of `__init__`, `None` for the others."""
        name, options = pretrained_model_name_or_path, {key: kwargs[key] for key in _HUB_OPTIONS if key in kwargs}

        def file(filename: str) -> str | None:
            return cached_file(
                name,
                filename,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
                **options,
            )

        found = set(processor_dict or {}) & {"image_processor", "feature_extractor"}
        alone = None if found else file("preprocessor_config.json")
        if alone:
            # A folder whose parts were saved one by one.
            keys = json.loads(Path(alone).read_text(encoding="utf-8"))
            found = {part for part in ("image_processor", "feature_extractor") if f"{part}_type" in keys}
        if file("tokenizer_config.json"):
            found.add("tokenizer")
        if not found:
            raise OSError(
                f"{name} has no tokenizer, image processor or feature extractor: save them into it, or make a "
                "Data2VecProcessor of your own."
            )
        return [loader.from_pretrained(name, **kwargs) if part in found else None for part, loader in LOADERS.items()]
