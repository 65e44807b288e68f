"""Columns of labels: ids, scores, names, several of these; missing ones; and mixtures, which are refused."""

import decimal

import numpy as np
import pytest

from d2v_train.data.label_columns import encode_labels, recognise


NAN = np.nan


@pytest.mark.parametrize(
    "raw, expected, names",
    [
        ([1, 0, None], [1, 0, -1], None),
        ([1, -1, None], [1, -1, -1], None),
        ([True, False, None], [1, 0, -1], None),
        (["dog", None, "cat"], [1, -1, 0], ["cat", "dog"]),
        ([" cat", "cat ", "cat", "dog"], [0, 0, 0, 1], ["cat", "dog"]),
        (["a", "", "  ", "-1", None], [0, -1, -1, -1, -1], ["a"]),
        (["None", "NA", "null", "nan"], [1, 0, 3, 2], ["NA", "None", "nan", "null"]),
        (["10", "9", "2"], [2, 1, 0], ["2", "9", "10"]),
        (["ä|b", 'c"d', "e,f\n"], [2, 0, 1], ['c"d', "e,f", "ä|b"]),
        ([b"cat", b"dog"], [0, 1], ["cat", "dog"]),
        ([0.5, None], [0.5, NAN], None),
        ([1.0, 2.0], [1.0, 2.0], None),
        ([1.0, None, 2.0, NAN], [1, -1, 2, -1], None),
        ([1, 0.5, None], [1.0, 0.5, NAN], None),
        ([decimal.Decimal(3), decimal.Decimal("4.00")], [3, 4], None),
        ([None, None], [-1, -1], None),
        ([], [], None),
    ],
)
def test_labels_become_class_ids_or_scores(raw, expected, names):
    labels, found = encode_labels(raw, None, raw, "the table")
    np.testing.assert_array_equal(labels, expected)
    assert found == names
    assert labels.dtype == (np.float32 if float in map(type, expected) else np.int64)


@pytest.mark.parametrize(
    "raw, expected, names",
    [
        (["1", "0", ""], [1, 0, -1], None),
        (["1", "0", "-1"], [1, 0, -1], None),
        (["0.5", "1", ""], [0.5, 1.0, NAN], None),
        (["1.0", "", "2.0"], [1, -1, 2], None),
        (["True", "false", ""], [1, 0, -1], None),
        (["007", "7"], [1, 0], ["7", "007"]),
        (["1", "NA", "0"], [1, 2, 0], ["0", "1", "NA"]),
        (["None", "hate"], [0, 1], ["None", "hate"]),
        (["nan", "inf"], [1, 0], ["inf", "nan"]),
    ],
)
def test_text_is_read_as_numbers_if_all_of_it_is(raw, expected, names):
    labels, found = encode_labels(raw, None, raw, "the table", untyped=True)
    np.testing.assert_array_equal(labels, expected)
    assert found == names


@pytest.mark.parametrize(
    "raw, expected, names",
    [
        ([["cat"], ["cat", "dog"], [], None], [[1, 0], [1, 1], [0, 0], [NAN, NAN]], ["cat", "dog"]),
        ([[0, 2], [2], None], [[1, 1], [0, 1], [NAN, NAN]], ["0", "2"]),
        ([[0, 1, 1], [0, 0, 0], [1, 0, 0]], [[0, 1, 1], [0, 0, 0], [1, 0, 0]], ["0", "1", "2"]),
        ([[0.0, 1.0], [1.0, 1.0]], [[0, 1], [1, 1]], ["0", "1"]),
        ([[True, False], None], [[1, 0], [NAN, NAN]], ["0", "1"]),
        ([[True], [False]], [[1], [0]], ["0"]),
        ([[1], [0]], [[0, 1], [1, 0]], ["0", "1"]),
        ([[], []], np.zeros((2, 0)), []),
        ([[" cat", "cat "], -1], [[1], [NAN]], ["cat"]),
        ([np.array([3]), np.array([5, 3])], [[1, 0], [1, 1]], ["3", "5"]),
    ],
)
def test_lists_of_labels_become_rows_of_zeros_and_ones(raw, expected, names):
    labels, found = encode_labels(raw, None, [], "the table")
    assert labels.dtype == np.float32 and found == names
    np.testing.assert_array_equal(labels, expected)


def test_lists_of_ids_have_the_names_that_the_file_tells():
    labels, names = encode_labels([[2], [0, 1]], ["a", "b", "c"], [], "the table")
    assert names == ["a", "b", "c"] and labels.tolist() == [[0, 0, 1], [1, 1, 0]]
    assert encode_labels([[0, 1], [1, 0]], ["a", "b", "c"], [], "the table")[0].tolist() == [[1, 1, 0]] * 2
    with pytest.raises(ValueError, match="3 in row 1.*3 classes"):
        encode_labels([[2], [3]], ["a", "b", "c"], [], "the table")


def test_all_splits_have_the_same_classes():
    train, test = ["b", "c"], ["a", ""]
    assert encode_labels(train, None, test, "it")[1] == encode_labels(test, None, train, "it")[1] == ["a", "b", "c"]
    assert encode_labels([1.0, 2.0], None, [0.0, None], "it")[0].dtype == np.int64, (
        "a class of another split is missing"
    )
    assert encode_labels([["b"]], None, [["a", "c"]], "it")[0].tolist() == [[0, 1, 0]]
    assert encode_labels([-1, -1], None, ["a", "b"], "it")[0].tolist() == [-1, -1], "hidden test labels"


@pytest.mark.parametrize(
    "raw, untyped, message",
    [
        ([1, "x"], False, r"1 \(int\) in row 0, 'x' \(str\) in row 1"),
        (["a", None, ["b"]], False, r"'a' \(str\) in row 0, \['b'\] \(list of str\) in row 2"),
        ([{"a": 1}], False, r"\(dict\) in row 0"),
        ([["a"], [1]], False, r"several types.*row 0.*row 1"),
        ([[0.5, 0.2], [0.1, 0.9]], False, r"not class ids.*row 0"),
        (["0.5", "NA"], True, r"row 1 is the word 'NA'"),
    ],
)
def test_mixtures_are_refused_with_the_rows(raw, untyped, message):
    with pytest.raises(ValueError, match=message):
        encode_labels(raw, None, [], "the table", untyped)


def test_words_among_whole_numbers_are_names_and_said_to_be(caplog):
    encode_labels(["0", "1", "NA"], None, [], "the table", untyped=True)
    assert "row 2" in caplog.text and "'NA'" in caplog.text
    assert recognise(["1", " 2 ", ""], "it") == [1, 2, None]


def test_messages_about_names_that_repeat_tell_the_first_row():
    with pytest.raises(ValueError, match="row 3 is the word 'bad'"):
        encode_labels(["0.5", "1.5", "0.5", "bad", "bad"], None, (), "x", True)
    with pytest.raises(ValueError, match=r"'b' \(str\) in row 0, 0.5 \(float\) in another split"):
        encode_labels(["b", "b", "a"], None, [0.5], "x")
    ids, names = encode_labels(["b", " b", "", "a", "b", "-1"], None, ["c"], "x")
    assert ids.tolist() == [1, 1, -1, 0, 1, -1] and names == ["a", "b", "c"]


@pytest.mark.parametrize(
    "raw", [[["-1"], ["a"], []], [[None], ["a"], []], [[""], ["a"], []], [[float("nan")], ["a"], []]]
)
def test_a_list_of_missing_labels_is_a_missing_label_and_an_empty_one_is_not(raw):
    labels, names = encode_labels(raw, None, (), "x")
    assert np.isnan(labels[0]).all() and labels[1:].tolist() == [[1], [0]] and names == ["a"]


@pytest.mark.parametrize(
    "raw, untyped",
    [([1, 2**63], False), (["0", str(2**70)], True), ([0, -(2**63) - 1], False), ([None, 2**64], False)],
)
def test_numbers_too_large_for_a_class_id_are_refused_with_their_row(raw, untyped):
    with pytest.raises(ValueError, match="in row 1 of x is too large for a class id"):
        encode_labels(raw, None, (), "x", untyped)
