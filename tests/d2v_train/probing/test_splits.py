"""Parts to probe on: kept apart by groups, held out in every class, the same every time."""

from probed_model import write_pictures

from d2v_train.data.builtin import load_digit_words
from d2v_train.options.sections import ProbeDataOptions
from d2v_train.probing.splits import open_parts
from modeling_d2v import Data2VecConfig


def test_test_groups_are_tested_and_never_trained_on(saved_model):
    config = Data2VecConfig.from_pretrained(saved_model)
    voices = sorted(set(load_digit_words("train")[2]))
    section = ProbeDataOptions(test_split="train", test_groups=[voices[0]], exclude_groups=[voices[1]])
    train, test, held_out = open_parts("audio", config, section)
    assert not held_out
    assert set(test.groups) == {voices[0]}
    assert set(train.groups) == set(voices[2:])


def test_held_out_part_is_stratified_disjoint_and_the_same_every_time(saved_model, tmp_path):
    write_pictures(tmp_path, per_class=10, classes=3)
    config = Data2VecConfig.from_pretrained(saved_model)

    def names(max_samples=None):
        parts = open_parts("vision", config, ProbeDataOptions(data=str(tmp_path / "train")), max_samples)[:2]
        return [[part.name_of(index) for index in range(len(part))] for part in parts]

    train, test = names()
    assert len(train) == 24 and len(test) == 6 and not set(train) & set(test)
    assert sorted(name.split("/")[0] for name in test) == ["class0", "class0", "class1", "class1", "class2", "class2"]
    assert names() == [train, test]
    fewer = names(max_samples=5)
    assert [len(part) for part in fewer] == [5, 5]
    assert set(fewer[0]) <= set(train) and set(fewer[1]) <= set(test)


def test_what_the_data_is_read_as_is_logged_before_what_becomes_of_it(saved_model, tmp_path, caplog):
    write_pictures(tmp_path, per_class=5, classes=2)
    section = ProbeDataOptions(data=str(tmp_path / "train"))
    caplog.set_level("INFO")
    config = Data2VecConfig.from_pretrained(saved_model)
    open_parts("vision", config, section)
    account, held_out = caplog.messages
    assert account.startswith("Data for vision: ") and "train 10" in account
    assert "a fifth of every class of its split 'train' was held out" in held_out
    caplog.clear()
    open_parts("vision", config, section, account=False)
    assert len(caplog.messages) == 1
