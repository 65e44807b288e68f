"""The byte-level BPE tokenizer: ids, lossless round trip, determinism, saving and loading."""

import json
import random
import subprocess
import sys
import time

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

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


@pytest.mark.parametrize("letters", ["abcdefghijklmnop", "\u4f60\u597d\u554a\u4e00", "0123456789", "-=+.,;:"])
def test_training_on_a_word_takes_time_in_proportion_to_its_length(letters):
    def seconds(length):
        word = "".join(random.Random(0).choices(letters, k=length))
        started = time.process_time()
        tokenizer = build_tokenizer([*TEXTS, word], 1000)
        taken = time.process_time() - started
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == word
        return taken

    # 14 times as long where the whole word is searched at each merge.
    assert seconds(200_000) < 9 * max(seconds(50_000), 0.1)


def test_words_of_ordinary_length_are_trained_on_as_ever():
    texts = [*TEXTS, "x" * 999 + " " + "yz" * 400]
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain = Tokenizer(models.BPE(unk_token="<unk>"))
    plain.pre_tokenizer = words
    plain.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=399,
            min_frequency=2,
            special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    trained = json.loads(build_tokenizer(texts, 400).backend_tokenizer.to_str())
    assert trained["model"] == json.loads(plain.to_str())["model"] and trained["pre_tokenizer"]["type"] == "ByteLevel"


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="261"):
        build_tokenizer(TEXTS, 200)
    tokenizer = build_tokenizer(TEXTS, 300)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="pad_token"):
        load_tokenizer(str(tmp_path))
