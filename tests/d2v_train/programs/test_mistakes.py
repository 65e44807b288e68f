"""What users get wrong ends in one sentence; what the program gets wrong keeps its traceback."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from tiny_run import PROGRAM, ROOT, pretrain, tiny, write_config

from d2v_train.options.errors import OptionError
from d2v_train.runs.checkpoints import CheckpointFolder


@pytest.fixture
def config(tmp_path):
    return write_config(tmp_path, tiny("audio", max_steps=1))


@pytest.fixture
def clips(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in range(3):
        soundfile.write(folder / f"{name}.wav", np.random.default_rng(name).uniform(-0.5, 0.5, 4_000), 16_000)
    return folder


@pytest.mark.parametrize(
    "override, words",
    [
        ("data.audio=./no/such/folder", "'./no/such/folder'"),
        ("data.audio={empty}", "audio"),
        ("audio.split=holdout", "'holdout'"),
        ("audio.dataset={only_groups: [nobody]}", "'nobody'"),
        ("audio.dataset={max_sample: 3}", "audio.dataset"),
        ("audio.transform={crop_second: 3}", "'crop_seconds'"),
        ("audio.transform={crop_seconds: big}", "crop_seconds"),
        ("model.hidden_size=97", "hidden_size"),
        ("model.hidden_size=big", "hidden_size"),
        ("model.preset=huge", "preset"),
        ("init_from=./no/such/model", "init_from=./no/such/model"),
        ("init_from={empty}", "init_from="),
        ("logging.report_to=nowhere", "report_to.*'nowhere'"),
    ],
)
def test_mistake_is_explained(config, tmp_path, override, words):
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match=words) as error:
        pretrain(config, tmp_path / "run", override.replace("{empty}", str(tmp_path / "empty")))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_output_folder_that_cannot_be_one(config, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in ("file", "file/inside"):
        with pytest.raises(OptionError, match=f"output_dir={tmp_path / folder}"):
            pretrain(config, tmp_path / folder)


def test_program_ends_in_one_sentence_without_a_traceback(config, tmp_path):
    command = [sys.executable, str(PROGRAM), str(config), f"output_dir={tmp_path / 'run'}"]
    done = subprocess.run([*command, "audio.split=holdout"], cwd="/", capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("OptionError: The data cannot be set up: There is no split")


def test_resume_notices_other_data(config, tmp_path, clips):
    pretrain(config, tmp_path / "run", f"data.audio={clips}")
    saved = json.loads((CheckpointFolder(tmp_path / "run" / "checkpoints").newest() / "progress.json").read_text())
    assert saved["data"]["audio"]["records"] == saved["data"]["audio"]["samples"] == 3
    longer = [f"data.audio={clips}", "max_steps=2", "optim.schedule_steps=1"]
    (clips / "1.wav").rename(clips / "9.wav")
    with pytest.raises(OptionError, match="audio.*names.*output_dir.*init_from="):
        pretrain(config, tmp_path / "run", *longer)
    (clips / "9.wav").rename(clips / "1.wav")
    soundfile.write(clips / "3.wav", np.zeros(4_000), 16_000)
    with pytest.raises(OptionError, match="3 -> 4"):
        pretrain(config, tmp_path / "run", *longer)
    (clips / "3.wav").unlink()
    assert pretrain(config, tmp_path / "run", *longer)["steps"] == 2


def test_program_runs_without_what_it_does_not_need(tmp_path):
    (tmp_path / "a.txt").write_text("some words")
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT / 'recipes')!r})\n"
        "import clone\n"
        "for name in ('soundfile', 'soxr', 'PIL'):\n"
        "    sys.modules[name] = None\n"
        "import d2v_train.pretraining.session\n"
        "from d2v_train.data.records import open_dataset\n"
        f"assert open_dataset('text', {str(tmp_path / 'a.txt')!r})[0]['text'] == 'some words'\n"
        "from d2v_train.data.decoding import decode_audio, decode_image\n"
        "from d2v_train.support.extras import MissingDependencyError\n"
        "for decode, extra in ((decode_audio, 'audio'), (decode_image, 'vision')):\n"
        "    try:\n"
        "        decode(b'anything')\n"
        "    except MissingDependencyError as error:\n"
        "        assert f'[{extra}]' in str(error)\n"
        "    else:\n"
        "        raise AssertionError(extra)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
