"""A preregistration is read strictly, and stored with its hash and its commit."""

import hashlib
import subprocess

import pytest

from d2v_train.alignment.protocol import read_protocol
from d2v_train.options.errors import OptionError


def test_the_one_of_the_package():
    protocol, stored = read_protocol("align_concepts")
    assert protocol.all_measures == ("mutual_knn", "cka", "retrieval", "rsa", "direct")
    assert (protocol.neighbours, protocol.permutations, protocol.untrained) == (10, 999, 5)
    assert stored.file == "align_concepts.yaml"
    assert stored.sha256 == hashlib.sha256(stored.text.encode()).hexdigest()


def test_settings_follow_the_number_of_concepts():
    protocol, _ = read_protocol("align_concepts")
    assert protocol.settings("mutual_knn", 82) == {"k": 10}
    assert protocol.settings("mutual_knn", 12) == {}
    assert protocol.settings("retrieval", 82) == {"folds": 5}
    assert protocol.settings("retrieval", 8) == {"folds": 3}


def test_commit_and_later_changes(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("study: {permutations: 99}\n")
    assert read_protocol(path)[1].commit is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "fixed in advance"]):
        subprocess.run([*git, *command], check=True)
    stored = read_protocol(path)[1]
    assert stored.commit and stored.committed.startswith("20") and not stored.changed_since
    path.write_text("study: {permutations: 199}\n")
    assert read_protocol(path)[1].changed_since


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("a: [", "is not YAML"),
        ("concepts: 3", "has no section `study`"),
        ("study: {permutation: 99}", "study has no field permutation"),
        ("study: {permutations: 3}", "study.permutations is 3"),
        ("study: {measures: [cka]}", "the verdict is defined for"),
        ("study: {described: [svcca]}", "study.described names svcca"),
        ("study: {nuisances: [weather]}", "study.nuisances names weather"),
    ],
)
def test_mistakes(tmp_path, text, sentence):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(OptionError, match=sentence):
        read_protocol(path)


def test_there_is_none(tmp_path):
    with pytest.raises(OptionError, match="There is no preregistration"):
        read_protocol(tmp_path / "none.yaml")
