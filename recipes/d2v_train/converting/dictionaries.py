"""Tokenizers of checkpoints of fairseq: its dictionaries, and the byte-level BPE of GPT-2 that its text models use.

A dictionary lists the rows of a model's table: <s> 0, <pad> 1, </s> 2, <unk> 3, then one symbol per line, and for text
models <mask> last. The symbols of a letter dictionary are characters, with "|" between words; those of a text
dictionary are GPT-2's ids written as numbers.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models
from transformers import Wav2Vec2CTCTokenizer

from d2v_train.inputs.tokenizer import MASK_TOKEN, SUBWORD_SPECIALS, WORD_DELIMITER, finish_tokenizer
from d2v_train.support.text import lines_of


_OVERWRITE = "#fairseq:overwrite"


def read_dictionary(path: str | Path) -> list[str]:
    """Return the symbols of a dictionary file, the four special ones first.

    Args:
        path: Text file of lines "symbol count", as fairseq writes them.

    Raises:
        ValueError: A line is invalid, or a symbol occurs twice; the message names the line.
        FileNotFoundError: There is no such file.
    """
    symbols = list(SUBWORD_SPECIALS)
    known = set(symbols)
    for number, line in enumerate(lines_of(_text(path)), start=1):
        entry = line.rstrip()
        overwrite = entry.endswith(f" {_OVERWRITE}")
        symbol, _, count = entry.removesuffix(f" {_OVERWRITE}").rpartition(" ")
        if not symbol or not count.lstrip("-").isdigit():
            raise ValueError(
                f'Line {number} of {path} is {line[:60]!r}; a dictionary of fairseq has lines of "symbol count", such '
                'as "E 2306733".'
            )
        if symbol in known and not overwrite:
            raise ValueError(f"Line {number} of {path} gives {symbol!r} a second row.")
        if symbol not in known:
            symbols.append(symbol)
            known.add(symbol)
    return symbols


def letter_tokenizer(symbols: Sequence[str], rows: int) -> Wav2Vec2CTCTokenizer:
    """Return the tokenizer of a speech model with a letter dictionary; ids are the rows of the model.

    The blank of fairseq's CTC is row 0, its <s>; in transformers the blank is <pad>. These two names are exchanged:
    row 0 is <pad> here, and row 1, which the model never predicts, <s>.

    Args:
        symbols: Symbols of the dictionary, in order.
        rows: Rows of the model's output layer.

    Raises:
        ValueError: The numbers of symbols and of the model's rows differ.
    """
    _check_rows(symbols, rows)
    names = ["<pad>", "<s>", *symbols[2:]]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.json"
        file.write_text(json.dumps({name: i for i, name in enumerate(names)}), encoding="utf-8")
        return Wav2Vec2CTCTokenizer(
            str(file),
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
            pad_token="<pad>",
            word_delimiter_token=WORD_DELIMITER,
        )


def bpe_tokenizer(
    symbols: Sequence[str], encoder: str | Path, merges: str | Path, rows: int, max_length: int | None = None
) -> Any:
    """Return the tokenizer of a text model; ids are the rows of the model.

    Args:
        symbols: Symbols of the dictionary, in order.
        encoder: `encoder.json` of GPT-2: ids by token.
        merges: `vocab.bpe` of GPT-2.
        rows: Rows of the model's token embedding.
        max_length: Longest input of the model in tokens.

    Raises:
        ValueError: The files do not belong together, or not to the model.
        FileNotFoundError: A file is missing.
    """
    symbols = list(symbols) if MASK_TOKEN in symbols else [*symbols, MASK_TOKEN]
    _check_rows(symbols, rows)
    try:
        token_of = {str(number): token for token, number in json.loads(_text(encoder)).items()}
    except (json.JSONDecodeError, AttributeError):
        raise ValueError(f"{encoder} is not a JSON dictionary of tokens; give GPT-2's encoder.json first.") from None
    vocabulary = {token_of.get(symbol, symbol): i for i, symbol in enumerate(symbols)}
    known = sum(symbol in token_of for symbol in symbols)
    if known < len(symbols) // 2 or len(vocabulary) < len(symbols):
        raise ValueError(
            f"Only {known} of the {len(symbols)} symbols of the dictionary are ids in {encoder}: the two do not "
            "belong together. Text models of fairseq have a dictionary of GPT-2's ids, written as numbers."
        )
    lines = [line for line in lines_of(_text(merges)) if line and not line.startswith("#version")]
    pairs = [tuple(line.split(" ")) for line in lines]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f'{merges} has lines that are not pairs "left right"; give GPT-2\'s vocab.bpe second.')
    # Dictionaries of small data sets lack tokens, which fairseq reads as <unk>: here they stay in existing pieces.
    pairs = [pair for pair in pairs if {*pair, "".join(pair)} <= vocabulary.keys()]
    return finish_tokenizer(Tokenizer(models.BPE(vocabulary, pairs, unk_token="<unk>")), max_length)


def _check_rows(symbols: Sequence[str], rows: int) -> None:
    if len(symbols) != rows:
        raise ValueError(
            f"The dictionary has {len(symbols)} symbols, the four special ones included, but the model has {rows} "
            "rows: this is not the dictionary that the model was trained with."
        )


def _text(path: str | Path) -> str:
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        return Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a UTF-8 text file.") from None
