"""One processor for all inputs of a checkpoint: text, images, audio and arrays.

It also decodes the outputs of a CTC model, greedily or with a language model.

Shapes: B samples, T frames, V tokens of the vocabulary.
"""

import json
from collections.abc import Callable
from functools import partial, wraps
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
    Wav2Vec2PhonemeCTCTokenizer,
)
from transformers.utils.hub import cached_file

from .ctc_beam_search import BeamSearch, WordModel, load_language_model
from .feature_extraction_data2vec import Data2VecArrayFeatureExtractor


_IGNORED = -100
LOADERS = {
    "tokenizer": AutoTokenizer,
    "image_processor": AutoImageProcessor,
    "feature_extractor": AutoFeatureExtractor,
    # Not an Auto class, which would find that of audio in the same folder.
    "array_feature_extractor": Data2VecArrayFeatureExtractor,
}
_INPUTS = {
    "tokenizer": "text",
    "image_processor": "images",
    "feature_extractor": "audio",
    "array_feature_extractor": "arrays",
}
_PARTS = {name: part for part, name in _INPUTS.items()}
AUDIO_MASK = "audio_attention_mask"
MOST_CHANNELS = 32  # a dimension of this size or below is no length of a waveform: a frame needs hundreds of samples
CANCELLED = 1e-4  # power of the mean of all channels, relative to the loudest one, below which they cancel each other
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def _first_is_own(call: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate `__call__`, whose first argument is `images`: of a processor without them it is its own input."""

    @wraps(call)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        parts = self.get_attributes()
        if args and args[0] is not None and "image_processor" not in parts:
            first, rest = args[0], args[1:]
            sample = first[0] if isinstance(first, list | tuple) and first else first
            is_text = parts == ["tokenizer"] or ("tokenizer" in parts and isinstance(sample, str))
            name = "text" if is_text else _INPUTS[parts[-1]]
            if name in kwargs:
                raise TypeError(f"`{name}` was given twice, by place and by name.")
            return call(self, None, *rest, **kwargs, **{name: first})
        return call(self, *args, **kwargs)

    return checked


class Data2VecProcessor(ProcessorMixin):
    """Tokenizer, image processor and feature extractors of a checkpoint, at least one of them.

    `save_pretrained` and `from_pretrained` keep exactly the parts that exist. The Auto class of each part finds it in
    the same folder.

    Args:
        tokenizer: Tokenizer of text, or of the transcripts of a CTC model.
        image_processor: Processor of images.
        feature_extractor: Feature extractor of waveforms.
        array_feature_extractor: Feature extractor of arrays.

    Raises:
        ValueError: No part is given.

    Example:
        >>> processor = AutoProcessor.from_pretrained("runs/speech/final")
        >>> inputs = processor(audio=waveforms, sampling_rate=16000, padding=True, return_tensors="pt")
        >>> texts = processor.batch_decode(model(**inputs).logits)
    """

    _auto_class = "AutoProcessor"

    def __init__(
        self,
        tokenizer: Any = None,
        image_processor: Any = None,
        feature_extractor: Any = None,
        array_feature_extractor: Any = None,
    ) -> None:
        given = dict(
            zip(LOADERS, (tokenizer, image_processor, feature_extractor, array_feature_extractor), strict=True)
        )
        parts = {name: part for name, part in given.items() if part is not None}
        if not parts:
            raise ValueError(f"A Data2VecProcessor needs at least one of {', '.join(LOADERS)}.")
        # The base class saves and prints the parts that this returns: those of the instance, not of the class.
        self.get_attributes = partial(list, parts)
        # As saving sets it: what was saved and what is loaded are the same.
        self.auto_map = {"AutoProcessor": f"{__name__.rsplit('.', 1)[-1]}.{type(self).__name__}"}
        super().__init__(**parts)

    def __getattr__(self, name: str) -> Any:
        if name in LOADERS:
            raise AttributeError(
                f"This processor has no {name}; it has {' and '.join(self.get_attributes())}. Save the checkpoint "
                f"with one, or make a Data2VecProcessor({name}=...)."
            )
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")

    @_first_is_own
    def __call__(
        self,
        images: Any = None,
        text: Any = None,
        audio: Any = None,
        arrays: Any = None,
        **kwargs: Any,
    ) -> BatchFeature | BatchEncoding:
        """Prepare inputs of one modality, or the union of those of several; a model takes one at a time.

        An argument without a name is the input of a processor with one part: `processor(waveforms)`.

        Args:
            images: One or several images, as the image processor takes them.
            text: One or several texts. With `audio`, and a tokenizer without a mask token, it is the transcript, and
                becomes `labels`, padded with -100.
            audio: One or several waveforms (samples,) of one channel, as arrays, tensors or lists.
            arrays: One or several arrays (side, ..., channels), as `Data2VecArrayFeatureExtractor` takes them.
            kwargs: Keyword arguments of the part that is used, such as `sampling_rate=16000`, `padding=True`,
                `text_pair=...` or `return_tensors="pt"`; also as `text_kwargs={...}`, `images_kwargs` and
                `audio_kwargs`. Those of a call with a transcript are the feature extractor's. Without `sampling_rate`
                (Hz) the feature extractor warns: audio of another rate is not noticed.

        Returns:
            `input_ids` and `attention_mask`, `pixel_values` (with `labels` if `segmentation_maps` are given), and
            `input_values` and `attention_mask` (and `labels` with a transcript), `array_values`. Beside
            the mask of a text that of the waveforms is `audio_attention_mask`.

        Raises:
            ValueError: There is no input, or the part for it is missing; the sampling rate is not the model's;
                recordings are empty or have several channels; or the number of transcripts differs.
        """
        given = {"images": images, "text": text, "audio": audio, "arrays": arrays}
        given = {name: value for name, value in given.items() if value is not None}
        if not given:
            raise ValueError("Nothing to prepare: a call takes `images`, `text`, `audio` or `arrays`.")
        if "audio" in given and "text" in given and self._part("tokenizer").mask_token is None:
            transcript = given.pop("text")
        else:
            transcript = None
        options = self._options(list(given), kwargs)
        prepared: dict[str, Any] = {}
        for name, value in given.items():
            if name == "audio":
                prepared[name] = self._prepare_audio(value, transcript, options[name])
            else:
                prepared[name] = self._part(_PARTS[name])(value, **options[name])
        if len(prepared) == 1:
            return next(iter(prepared.values()))
        if "text" in prepared and "attention_mask" in prepared.get("audio", ()):
            prepared["audio"][AUDIO_MASK] = prepared["audio"].pop("attention_mask")
        return BatchFeature({key: value for part in prepared.values() for key, value in part.items()})

    def load_audio(self, audio: Any) -> np.ndarray:
        """Read a recording as the model takes it, with soundfile and soxr: neither ffmpeg nor torchaudio is needed.

        Args:
            audio: Path of a file, or an open one, in a format of libsndfile (WAV, FLAC, Ogg, MP3, ...).

        Returns:
            (samples,) float32 at the sampling rate of the feature extractor, the mean of all channels, or the loudest
            one where they cancel each other. Pipelines and `processor(audio=...)` take it.

        Raises:
            ImportError: soundfile, or soxr for another sampling rate, is not installed.
            ValueError: The file cannot be read, or has no samples.

        Example:
            >>> recogniser = pipeline("automatic-speech-recognition", folder)
            >>> recogniser(AutoProcessor.from_pretrained(folder).load_audio("speech.flac"))
        """
        rate = self._part("feature_extractor").sampling_rate
        try:
            import soundfile
        except ImportError as error:
            raise ImportError("Reading recordings needs soundfile: `pip install soundfile soxr`.") from error
        try:
            samples, given = soundfile.read(audio, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, OSError, TypeError) as error:
            raise ValueError(f"{audio} cannot be read as a recording: {error}") from error
        if not samples.size:
            raise ValueError(f"{audio} is a recording without samples.")
        mixed, power = samples.mean(axis=1), np.square(samples).mean(axis=0)
        if np.square(mixed).mean() < CANCELLED * power.max():
            mixed = samples[:, power.argmax()]
        if given != rate:
            try:
                import soxr
            except ImportError as error:
                raise ImportError(
                    f"{audio} has {given} Hz, and resampling it to {rate} Hz needs soxr: `pip install soxr`."
                ) from error
            mixed = soxr.resample(mixed, given, rate)
        return np.ascontiguousarray(mixed, dtype=np.float32)

    def _options(self, names: list[str], kwargs: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the keyword arguments of each part that is used."""
        kwargs = {name: value for name, value in kwargs.items() if name != "videos" or value is not None}
        nested = [f"{name}_kwargs" for name in (*_PARTS, "common")]
        if len(names) == 1 and not any(name in kwargs for name in nested):
            return {names[0]: kwargs}
        maps = {name: kwargs.pop(name) for name in ("segmentation_maps",) if name in kwargs}
        own = {"return_tensors": kwargs.get("return_tensors"), **kwargs.pop("arrays_kwargs", {})}
        tokenizer = getattr(self, "tokenizer", None)
        merged = self._merge_kwargs(tokenizer_init_kwargs=getattr(tokenizer, "init_kwargs", {}), **kwargs)
        options = {name: own if name == "arrays" else merged[f"{name}_kwargs"] for name in names}
        if "images" in options:
            options["images"].update(maps)
        for name in ("return_mm_token_type_ids", "return_text_replacement_offsets"):  # of prompts with placeholders
            options.get("text", {}).pop(name, None)
        return options

    @property
    def model_input_names(self) -> list[str]:
        """Return the names of everything that a call may return as an input."""
        names = list(super().model_input_names)
        both = {"tokenizer", "feature_extractor"} <= set(self.get_attributes())
        return [*names, AUDIO_MASK] if both and self.tokenizer.mask_token is not None else names

    def _prepare_audio(self, audio: Any, text: Any, kwargs: dict[str, Any]) -> BatchFeature:
        extractor = self._part("feature_extractor")
        given = kwargs.get("sampling_rate")
        if given is not None and given != extractor.sampling_rate:
            raise ValueError(
                f"`sampling_rate` is {given} Hz; this model needs audio of {extractor.sampling_rate} Hz. Resample it, "
                f"for example with soxr, and pass `sampling_rate={extractor.sampling_rate}`."
            )
        waveforms = self._waveforms(audio)
        inputs = extractor(waveforms, **{"return_attention_mask": True, **kwargs})
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
        """Return one recording or several as arrays (samples,)."""
        shape = getattr(audio, "shape", ())
        if len(shape) == 2 and shape[1] <= MOST_CHANNELS < shape[0]:
            audio = [audio]  # one recording as soundfile reads it, (samples, channels)
        rows = audio if len(audio) and np.ndim(audio[0]) else [audio]
        # The feature extractor would treat tensors as recordings of several channels.
        waveforms = [np.asarray(row.detach().cpu() if isinstance(row, Tensor) else row) for row in rows]
        # One channel: (samples, 1), or (1, samples) as torchaudio reads it.
        waveforms = [x.reshape(-1) if x.ndim == 2 and 1 in x.shape else x for x in waveforms]
        for i, waveform in enumerate(waveforms):
            if waveform.ndim != 1 or not waveform.size:
                raise ValueError(
                    f"Recording {i} has shape {waveform.shape}; it must be (samples,) with at least one sample. Skip "
                    "empty recordings, and take the mean over the channels of those that have several: "
                    "`audio.mean(axis=1)` of (samples, channels), as soundfile reads them."
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
        """Decode token ids, or the logits of a CTC model greedily, to texts.

        Args:
            sequences: Ids (B, T), or logits (B, T, V) as tensor or array; lists of ids of any lengths.
            lengths: (B,) real frames of each sample: `config.audio_config.num_frames(attention_mask.sum(dim=1))`.
                Later frames are ignored. Default: all T.
            kwargs: Keyword arguments of the tokenizer. A `Wav2Vec2CTCTokenizer` takes `output_word_offsets=True` and
                `output_char_offsets=True`; an offset times `config.inputs_to_logits_ratio / sampling_rate` is in
                seconds.

        Returns:
            The result of the tokenizer's `batch_decode`: a list of texts, or texts with offsets.
        """
        if isinstance(sequences, Tensor | np.ndarray):
            sequences = self._greedy(torch.as_tensor(sequences), lengths)
        return self._part("tokenizer").batch_decode(sequences, **kwargs)

    def decode(self, sequence: Any, **kwargs: Any) -> Any:
        """Decode one sample: ids (T,) or logits (T, V); see `batch_decode`."""
        if isinstance(sequence, Tensor | np.ndarray):
            sequence = self._greedy(torch.as_tensor(sequence)[None], None)[0]
        return self._part("tokenizer").decode(sequence, **kwargs)

    def _greedy(self, sequences: Tensor, lengths: Any) -> Tensor:
        """Return ids (B, T) of ids or logits, with the pad token, the blank of CTC, at padding."""
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
        """Decode logits of a CTC model by beam search, with a language model over words.

        Args:
            logits: (B, T, V).
            language_model: ARPA or binary file of KenLM (needs the extra "lm"), or a `WordModel`; `None` for beam
                search alone. Its words must have the case of the tokenizer's.
            lengths: (B,) real frames of each sample; default: all T.
            options: `alpha`, `beta`, `beam_width`, ... of `BeamSearch`.

        Raises:
            ImportError: kenlm is needed and not installed.
            ValueError: The logits have another shape, or the tokenizer has no blank or not all V tokens.
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
        # A language model of phonemes has them as its words.
        phonemes = isinstance(tokenizer, Wav2Vec2PhonemeCTCTokenizer)
        return BeamSearch(labels, blank, delimiter, tuple(ignored), language_model, phonemes=phonemes, **options)

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        """Return the parts of the folder in the order of `__init__`, `None` for missing ones."""
        name, options = pretrained_model_name_or_path, {key: kwargs[key] for key in _HUB_OPTIONS if key in kwargs}

        def file(filename: str) -> str | None:
            return cached_file(
                name,
                filename,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
                **options,
            )

        saved = processor_dict or {}
        found = set(saved) & (set(LOADERS) - {"tokenizer"})
        alone = None if found else file("preprocessor_config.json")
        if alone:
            # A folder whose parts were saved one by one.
            keys = json.loads(Path(alone).read_text(encoding="utf-8"))
            found = {part for part in ("image_processor", "feature_extractor") if f"{part}_type" in keys}
            if keys.get("feature_extractor_type") == Data2VecArrayFeatureExtractor.__name__:
                found = found - {"feature_extractor"} | {"array_feature_extractor"}
        if file("tokenizer_config.json"):
            found.add("tokenizer")
        if not found:
            raise OSError(
                f"{name} has no tokenizer, image processor or feature extractor: save them into it, or make a "
                "Data2VecProcessor of your own."
            )

        def load(part: str, loader: Any) -> Any:
            if part == "array_feature_extractor" and part in saved:
                return loader.from_dict(saved[part])
            return loader.from_pretrained(name, **kwargs)

        return [load(part, loader) if part in found else None for part, loader in LOADERS.items()]

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> list[str]:
        """Save the parts as in transformers; `AutoFeatureExtractor` finds that of arrays if there is none of audio."""
        if "array_feature_extractor" in self.get_attributes() and "feature_extractor" not in self.get_attributes():
            self.array_feature_extractor.save_pretrained(save_directory)
        return super().save_pretrained(save_directory, *args, **kwargs)
