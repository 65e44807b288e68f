"""Sentences about digits: as many of each, the last digit word as the label, nothing in both splits."""

import numpy as np
import pytest

from d2v_train.data.builtin import DIGIT_WORDS
from d2v_train.data.builtin_sentences import SENTENCES, THINGS, digit_sentences_table, load_digit_sentences


def words(sentence):
    return sentence.strip(".").split()


@pytest.mark.parametrize("split", SENTENCES)
def test_every_digit_is_the_last_digit_word_of_as_many_sentences(split):
    sentences, labels = load_digit_sentences(split)
    assert len(sentences) == len(set(sentences)) == SENTENCES[split]
    assert np.bincount(labels).tolist() == [SENTENCES[split] // 10] * 10
    for sentence, label in zip(sentences, labels, strict=True):
        assert [word for word in words(sentence) if word in DIGIT_WORDS][-1] == DIGIT_WORDS[label]
    about_numbers = [sentence for sentence in sentences if {"plus", "minus"} & set(words(sentence))]
    assert len(about_numbers) > 0.3 * len(sentences)


def test_sums_are_right():
    for split in SENTENCES:
        for sentence in load_digit_sentences(split)[0]:
            named = [DIGIT_WORDS.index(word) for word in words(sentence) if word in DIGIT_WORDS]
            if "plus" in words(sentence):
                assert named[0] + named[1] == named[2]
            elif "minus" in words(sentence):
                assert named[0] - named[1] == named[2]


def test_splits_share_neither_things_nor_sums():
    train, test = (set(load_digit_sentences(split)[0]) for split in ("train", "test"))
    assert not train & test and not set(THINGS["train"].split()) & set(THINGS["test"].split())
    pairs = []
    for sentences in (train, test):
        sums = (words(sentence) for sentence in sentences if {"plus", "minus"} & set(words(sentence)))
        pairs.append({tuple(word for word in each if word in (*DIGIT_WORDS, "plus", "minus")) for each in sums})
    assert all(pairs) and not pairs[0] & pairs[1]


def test_the_table_is_always_the_same():
    load_digit_sentences.cache_clear()
    first = digit_sentences_table("test")
    load_digit_sentences.cache_clear()
    again = digit_sentences_table("test")
    assert [first.values[i] for i in range(5)] == [again.values[i] for i in range(5)]
    assert first.label_names == DIGIT_WORDS and (first.labels == again.labels).all()
