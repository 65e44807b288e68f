"""A byte-level BPE tokenizer with the special ids of RoBERTa, trained on the data or loaded.

Ids: <s> 0, <pad> 1, </s> 2, <unk> 3, then 256 bytes and merges, <mask> last. Any text can be encoded without <unk>.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from d2v_train.inputs.byte_tokens import reads_bytes
from d2v_train.inputs.long_texts import cut_text


SUBWORD_SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
MASK_TOKEN = "<mask>"
LONGEST_WORD = 1000
"""Longest word in bytes that a tokenizer is trained on; a longer one counts as several."""
TRAINED_AT_ONCE = 2**16
"""Characters that a tokenizer is trained on at once, by each thread."""
SMALLEST_VOCABULARY = len(SUBWORD_SPECIALS) + 256 + 1


def build_tokenizer(texts: Iterable[str], vocab_size: int = 8192, max_length: int | None = None) -> Any:
    """Train a tokenizer; the same texts in the same order give the same tokenizer.

    Args:
        texts: Documents to train on.
        vocab_size: Number of entries, <mask> included. Little text gives fewer: see `len(tokenizer)`.
        max_length: Longest input of the model in tokens; stored with the tokenizer. None = no limit.

    Returns:
        `PreTrainedTokenizerFast`; after `save_pretrained`, `AutoTokenizer.from_pretrained` loads it.

    Raises:
        ValueError: If `vocab_size` is too small for the 256 bytes and the special tokens.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise ValueError(
            f"A vocabulary of {vocab_size} is too small for byte-level BPE; the 256 bytes and 5 special tokens alone "
            f"take {SMALLEST_VOCABULARY}."
        )
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    # Training splits text by it, and takes time that grows with the square of the longest word.
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.Split(Regex(f".{{{LONGEST_WORD}}}"), "isolated")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        min_frequency=2,
        special_tokens=SUBWORD_SPECIALS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((piece for text in texts for piece in cut_text(text, TRAINED_AT_ONCE)), trainer)
    return finish_tokenizer(tokenizer, max_length)


def finish_tokenizer(tokenizer: Tokenizer, max_length: int | None = None) -> Any:
    """Return a byte-level BPE model as a tokenizer of transformers.

    Args:
        tokenizer: Model with <s> 0, <pad> 1, </s> 2 and <unk> 3; <mask> is added if it is missing.
        max_length: Longest input of the model in tokens. None = no limit.
    """
    from transformers import PreTrainedTokenizerFast

    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    extra = {} if max_length is None else {"model_max_length": max_length}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token=MASK_TOKEN,
        model_input_names=["input_ids", "attention_mask"],
        **extra,
    )


def load_tokenizer(name: str, **options: Any) -> Any:
    """Load the tokenizer of a folder or of the Hub, with `options` of `AutoTokenizer.from_pretrained`.

    Raises:
        ValueError: If it lacks one of the tokens that packing and masking need.
    """
    tokenizer = AutoTokenizer.from_pretrained(name, **options)
    # Tokenizers like that of BERT have [CLS] and [SEP] instead of <s> and </s>.
    tokenizer.bos_token = tokenizer.bos_token or tokenizer.cls_token
    tokenizer.eos_token = tokenizer.eos_token or tokenizer.sep_token
    needed = ("eos_token", "pad_token") if reads_bytes(tokenizer) else ("bos_token", "eos_token", "pad_token")
    missing = [token for token in needed if getattr(tokenizer, token) is None]
    if missing:
        raise ValueError(
            f"The tokenizer {name!r} has no {', '.join(missing)}. Use another one, or train one: `build_tokenizer`."
        )
    return tokenizer


def check_vocabulary(tokenizer: Any, rows: int, how: str) -> None:
    """Check that a model has an embedding for every token, which is not checked on a GPU.

    Args:
        tokenizer: Tokenizer of the model's inputs.
        rows: Size of the model's vocabulary.
        how: How the user names another tokenizer, for the message.

    Raises:
        ValueError: If there are more tokens.
    """
    if len(tokenizer) > rows:
        raise ValueError(
            f"The tokenizer {tokenizer.name_or_path} has {len(tokenizer)} tokens, the model {rows}. Name the one that "
            f"the model was trained with {how}."
        )


# The order of the published models; the first is the blank of CTC.
CTC_SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
WORD_DELIMITER = "|"
