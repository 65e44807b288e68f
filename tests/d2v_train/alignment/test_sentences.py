"""Sentences are found by the words that they name, in lower case, singular and plural."""

import pytest

from d2v_train.alignment.sentences import SentenceFinder, forms, sentences_of


@pytest.mark.parametrize(
    "word, plural",
    [("dog", "dogs"), ("goose", "geese"), ("torch", "torches"), ("potato", "potatoes"), ("butterfly", "butterflies"),
     ("loaf", "loaves"), ("cliff", "cliffs"), ("ox", "oxen"), ("valley", "valleys")],
)  # fmt: skip
def test_plurals(word, plural):
    assert {(word,), (plural,)} <= forms(word)


def test_only_the_last_word_of_a_phrase_has_a_plural():
    assert forms("rocking chair") == {("rocking", "chair"), ("rocking", "chairs")}


def test_sentences_end_at_marks_and_have_a_length():
    text = 'He ran to the old barn. "Stop there!" she said to the tall man; nobody heard it at all.'
    assert list(sentences_of(text)) == [
        "He ran to the old barn.", "she said to the tall man;", "nobody heard it at all."]  # fmt: skip


def test_names_in_capitals_are_not_words():
    assert SentenceFinder(["teddy"]).named("Teddy has a teddy") == ["teddy"]


def test_the_longer_phrase_is_found():
    finder = SentenceFinder(["cream", "ice cream"])
    assert finder.named("ice cream and cream") == ["ice cream", "cream"]


def test_sentences_that_name_two_words_are_left_out_if_asked():
    texts = [("The dog saw a cat in there. The dog slept on the floor. The dog saw another dog there.", "a book")]
    finder = SentenceFinder(["dog", "cat"])
    assert finder.search(texts)["dog"].count == 3
    alone = finder.search(texts, alone=True)
    assert alone["dog"].ordered() == [("The dog slept on the floor.", "a book")]
    assert alone["cat"].count == 0


def test_what_is_kept_does_not_depend_on_the_order_of_the_texts():
    texts = [(f"The dog ran to house number {i} today.", "book") for i in range(50)]
    finder = SentenceFinder(["dog"])
    kept = [finder.search(order, limit=5)["dog"].ordered() for order in (texts, texts[::-1])]
    assert kept[0] == kept[1] and len(kept[0]) == 5
