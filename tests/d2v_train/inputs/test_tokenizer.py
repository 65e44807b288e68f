"""The byte-level BPE tokenizer: ids, lossless round trip, determinism, saving and loading."""

import subprocess
import sys

import pytest

from d2v_train.inputs.tokenizer import build_tokenizer, load_tokenizer


TEXTS = ["the cat sat on the mat", "the dog sat on the log", "a cat and a dog, a mat and a log"] * 4


def test_special_ids_are_those_of_roberta():
    tokenizer = build_tokenizer(TEXTS, 300)
    special = [tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]
    assert special == [0, 1, 2, 3]
    assert tokenizer.cls_token_id == 0 and tokenizer.sep_token_id == 2
    assert tokenizer.mask_token_id == len(tokenizer) - 1
    assert len(tokenizer) <= 300


def test_one_text_and_a_pair():
    tokenizer = build_tokenizer(TEXTS, 300)
    a, b = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("the cat", "dog"))
    assert tokenizer("the cat")["input_ids"] == [0, *a, 2]
    assert tokenizer("the cat", "dog")["input_ids"] == [0, *a, 2, 2, *b, 2]
    assert len(a) < len("the cat")


def test_any_text_survives():
    tokenizer = build_tokenizer(TEXTS, 300)
    for text in ("na\u00efve \u4f60\u597d \U0001f600", "tabs\tand\nlines  and   spaces", "\x00\x7f"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == text
        assert tokenizer.unk_token_id not in ids


def test_saved_and_loaded(tmp_path):
    tokenizer = build_tokenizer(TEXTS, 300, max_length=64)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded("the cat <mask> sat")["input_ids"] == tokenizer("the cat <mask> sat")["input_ids"]
    assert loaded.mask_token_id == tokenizer.mask_token_id and loaded.mask_token_id in loaded("<mask>")["input_ids"]
    assert loaded.model_max_length == 64 and loaded.pad_token_id == 1


def test_another_process_trains_the_same_tokenizer():
    code = (
        "from d2v_train.inputs.tokenizer import build_tokenizer;"
        f"print(build_tokenizer({TEXTS!r}, 300).backend_tokenizer.to_str(), end='')"
    )
    outputs = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout}
    outputs.add(build_tokenizer(TEXTS, 300).backend_tokenizer.to_str())
    assert len(outputs) == 1


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="261"):
        build_tokenizer(TEXTS, 200)
    tokenizer = build_tokenizer(TEXTS, 300)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="pad_token"):
        load_tokenizer(str(tmp_path))
