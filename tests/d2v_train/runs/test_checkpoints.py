"""Checkpoints: whole or passed over, exact, safe to read."""

import json
import os
import random
import re

import numpy as np
import pytest
import torch
from torch import nn

from d2v_train.options.sections import CheckpointOptions
from d2v_train.runs.checkpoints import CheckpointError, CheckpointFolder, read_run_checkpoint, step_of, what_is_missing
from d2v_train.support import atomic
from d2v_train.support.manifest import MANIFEST, write_manifest
from d2v_train.support.processes import Processes
from d2v_train.support.random_states import random_states, restore_random_states


def trained(steps=3):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(steps):
        model(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def save(folder, step, **options):
    model, optimizer = trained()
    return CheckpointFolder(folder, CheckpointOptions(**options)).save(
        step, model.state_dict(), optimizer.state_dict(), {"note": 1.5}
    )


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def test_content_comes_back_exactly(tmp_path):
    path = save(tmp_path, 7)
    model, optimizer = trained()
    content = read_run_checkpoint(path)
    assert equal(dict(content["model"]), dict(model.state_dict()))
    assert equal(content["optimizer"], optimizer.state_dict())
    assert content["progress"] == {"step": 7, "note": 1.5}


def test_random_numbers_go_on_where_they_were(tmp_path):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    np.random.normal()  # leaves a cached second value behind
    path = save(tmp_path, 1)

    def draw():
        return random.random(), random.gauss(0, 1), np.random.normal(), np.random.randint(99), torch.rand(()).item()

    states = random_states()
    expected = draw()
    draw()
    restore_random_states(states)
    assert draw() == expected
    restore_random_states(read_run_checkpoint(path)["own"]["random"])


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 3, 10):
        save(tmp_path, step, keep_last=2)
    assert [path.name for path in CheckpointFolder(tmp_path).whole()] == ["step_00000003", "step_00000010"]
    assert {path.name for path in tmp_path.iterdir()} == {"step_00000003", "step_00000010"}


def shorten(path):
    path.write_bytes(path.read_bytes()[:-1])


def zero(path):
    content = path.read_bytes()
    path.write_bytes(content[:-20] + bytes(20))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def empty_list(path):
    path.write_text(json.dumps({"step": 2, "files": {}}))


def without_checksums(path):
    path.write_text(path.read_text().replace('"crc32"', '"crc64"'))


def of_another_step(path):
    path.write_text(path.read_text().replace('"step": 2', '"step": 1'))


INCOMPLETE = [
    ("model.safetensors", shorten, "model.safetensors.*191.*192"),
    ("optimizer.pt", lambda path: path.unlink(), "optimizer.pt"),
    (MANIFEST, lambda path: path.unlink(), "manifest.json"),
    (MANIFEST, shorten, "manifest.json"),
    (MANIFEST, lambda path: path.write_text("[]"), "manifest.json"),
    (MANIFEST, lambda path: path.write_text('{"model.safetensors": 192}'), "manifest.json"),
    (MANIFEST, without_checksums, "manifest.json"),
    (MANIFEST, empty_list, "manifest.json.*model.safetensors"),
    (MANIFEST, of_another_step, "manifest.json.*step 1"),
]
# Only comparing checksums shows these.
OTHER_CONTENT = [
    ("model.safetensors", zero, "model.safetensors.*content"),
    ("progress.json", flip, "progress.json.*content"),
]


@pytest.mark.parametrize("name, damage, reason", INCOMPLETE)
def test_incomplete_checkpoint_is_not_loaded(tmp_path, name, damage, reason):
    torn = save(tmp_path, 2)
    damage(torn / name)
    with pytest.raises(CheckpointError, match=reason):
        read_run_checkpoint(torn)


@pytest.mark.parametrize("name, damage, reason", INCOMPLETE + OTHER_CONTENT)
def test_torn_checkpoint_is_passed_over(tmp_path, name, damage, reason):
    good, torn = save(tmp_path, 1), save(tmp_path, 2)
    damage(torn / name)
    folder = CheckpointFolder(tmp_path, CheckpointOptions(keep_last=2))
    assert folder.newest() == good
    ((path, found),) = folder.torn().items()
    assert path == torn and re.search(reason, found)
    # It does not count as one that is kept.
    folder.save(3, {}, {}, {})
    assert good in folder.whole() and torn not in folder.whole()
    folder.save(4, {}, {}, {})
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step_00000003", "step_00000004"]


def test_content_that_cannot_be_read_is_an_error_of_the_checkpoint(tmp_path):
    path = save(tmp_path, 1)
    zero(path / "optimizer.pt")
    with pytest.raises(CheckpointError, match="Remove"):
        read_run_checkpoint(path)


def test_old_ones_are_removed_only_after_the_new_one_is_there(tmp_path, monkeypatch):
    for step in (1, 2):
        save(tmp_path, step, keep_last=1)
    flushed = []
    flush, rename = atomic.flush, os.rename

    def note(source, target):
        if str(target).endswith(".step_00000002.old"):
            assert tmp_path in flushed and what_is_missing(tmp_path / "step_00000003", content=True) is None
        rename(source, target)

    monkeypatch.setattr(atomic, "flush", lambda path: (flush(path), flushed.append(path)))
    monkeypatch.setattr(os, "rename", note)
    path = save(tmp_path, 3, keep_last=1)
    assert list(tmp_path.iterdir()) == [path]
    assert {entry.name for entry in flushed} >= {"model.safetensors", "optimizer.pt", MANIFEST, ".step_00000003.draft"}


def test_some_are_kept_for_ever(tmp_path):
    for step in range(2, 14, 2):
        save(tmp_path, step, keep_last=1, keep_every=4)
    names = ["step_00000004", "step_00000008", "step_00000012"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_torn_checkpoint_is_replaced_by_a_later_save_of_its_step(tmp_path):
    torn = save(tmp_path, 2)
    (torn / MANIFEST).unlink()
    assert what_is_missing(save(tmp_path, 2)) is None


def test_draft_of_a_killed_save_is_neither_used_nor_kept(tmp_path):
    draft = tmp_path / ".step_00000005.draft"
    draft.mkdir()
    (draft / "model.safetensors").write_bytes(b"half")
    assert CheckpointFolder(tmp_path).newest() is None
    save(tmp_path, 6)
    assert not draft.exists()


def test_manifest_covers_every_file(tmp_path):
    path = save(tmp_path, 1)
    listed = json.loads((path / MANIFEST).read_text())["files"]
    assert listed.keys() | {MANIFEST} == {entry.name for entry in path.iterdir()}


def test_checkpoint_cannot_run_code(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (print, ("run",))

    path = save(tmp_path, 1)
    torch.save(Bomb(), path / "optimizer.pt")
    (path / MANIFEST).unlink()
    write_manifest(path, 1)
    with pytest.raises(CheckpointError, match="[Ww]eights.only"):
        read_run_checkpoint(path)


def test_each_process_gets_its_own_state_back(tmp_path):
    calls = []

    class Two(Processes):
        def gather(self, value):
            # The main process waits after its draft is made until the other one has written its file.
            if not calls:
                calls.append(1)
                own = tmp_path / ".step_00000001.draft" / "process_1.pt"
                torch.save({"random": random_states(), "state": "second"}, own)
            return [value]

    model, optimizer = trained()
    path = CheckpointFolder(tmp_path, processes=Two(count=2)).save(
        1, model.state_dict(), optimizer.state_dict(), {}, own_state="first"
    )
    assert read_run_checkpoint(path, 0)["own"]["state"] == "first"
    assert read_run_checkpoint(path, 1)["own"]["state"] == "second"
    assert read_run_checkpoint(path, 2)["own"] is None


def test_steps_are_read_from_names(tmp_path):
    names = {"step_00000012": 12, "step_x": None, "step_": None, "final": None, "step_-1": None}
    assert {name: step_of(tmp_path / name) for name in names} == names


def test_the_newest_sound_checkpoint_is_kept(tmp_path):
    folder = CheckpointFolder(tmp_path, CheckpointOptions(keep_last=1))
    for step, sound in ((2, 2), (4, 4), (6, 5), (8, 5), (10, 5)):
        folder.sound_step = sound
        folder.save(step, {"weight": torch.zeros(2)}, {}, {})
    assert [step_of(path) for path in folder.whole()] == [4, 10]
    assert step_of(folder.newest_sound()) == 4
    folder.sound_step = 12
    folder.save(12, {"weight": torch.zeros(2)}, {}, {})
    assert [step_of(path) for path in folder.whole()] == [12]
