"""The program that says what a source is read as, and the same account in all programs that read data."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from media_files import write_picture, write_recording, write_text

from d2v_train.programs import (
    finetune_audio_classification,
    finetune_ctc,
    finetune_glue,
    finetune_image_classification,
)
from d2v_train.programs.cli import main as command
from d2v_train.programs.data import main
from d2v_train.programs.pretrain import run_program as pretrain
from d2v_train.programs.probe import main as probe


ROOT = Path(__file__).resolve().parents[3]
OTHERS = ["README.md", "a.m4a", "b.heic", "c.csv", "d.zip", "e.xyz", "f", "g.parquet", "h.pdf", "i.JSON"]
COUNT = 2000


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """2,000 pictures, recordings, lines of text and other files; one class is a link, some files are broken."""
    root = tmp_path_factory.mktemp("mixed")
    source, other = root / "source", root / "other"
    contents = {
        "png": [write_picture(root / f"{n}.png", (n * 200, 90, 40), (9, 9)).read_bytes() for n in range(2)],
        "wav": [write_recording(root / f"{n}.wav", seconds=0.4 + n / 10).read_bytes() for n in range(2)],
    }
    rows = ["file_name,label,text"]
    for number in range(COUNT - 3):
        name, kind = ("cat", "dog")[number % 2], ("png", "wav", "png", "wav", "")[number // 2 % 5]
        folder = (source if name == "cat" else other) / name
        folder.mkdir(parents=True, exist_ok=True)
        if kind == "wav":
            rows.append(f"{name}/{number}.wav,{name},{'no' if number % 2 else 'yes'}")
        path = folder / (f"{number}.{kind}" if kind else f"{number}{OTHERS[number // 10 % len(OTHERS)]}")
        if number % 100 == 9:
            path.symlink_to(root / "nothing")
        else:
            path.write_bytes(contents[kind][number % 2] if kind and number % 200 else b"broken")
    (source / "dog").symlink_to(other / "dog")
    write_text(source / "metadata.csv", "\n".join(rows))
    lines = [{"text": f"{'rain' if n % 2 else 'song'} number {n} of the day", "label": n % 2} for n in range(100)]
    write_text(source / "train.jsonl", "\n".join(map(json.dumps, lines)))
    write_text(source / "[notes].docx")
    return source


def accounts(caplog) -> dict[str, str]:
    """What was logged of the data, by modality; each account once."""
    told = [one.getMessage() for one in caplog.records if one.getMessage().startswith("Data for ")]
    found = {message.split()[2].rstrip(":"): message for message in told}
    assert len(found) == len(told)
    return found


def check(message: str, modality: str) -> None:
    """The account holds all files, and the numbers of its lines add up."""
    used, every = map(int, re.search(r"(\d+) of (\d+) files used", message).groups())
    left_out = sum(int(count) for count in re.findall(r"^  not used, .*: (\d+) \(", message, re.MULTILINE))
    assert every == COUNT and used + left_out == every and used == (1 if modality == "text" else 800)


def settings(saved_model, source, folder, *more):
    values = {"model_name_or_path": saved_model, "output_dir": folder, "dataset_name": source, "max_steps": 1}
    values |= {"logging_steps": 1, "save_strategy": "no", "eval_strategy": "no", "max_train_samples": 40}
    words = [str(word) for name, value in values.items() for word in (f"--{name}", value)]
    return [*words, "--use_cpu", "--disable_tqdm", "true", "--do_train", "--max_bad_fraction", "0.5", *more]


@pytest.mark.parametrize("modality", ["vision", "audio", "text"])
def test_pretraining_says_what_it_reads(mixed, tmp_path, caplog, modality):
    with caplog.at_level(logging.INFO):
        options = [
            f"data.{modality}={mixed}",
            f"output_dir={tmp_path / 'run'}",
            "cpu=true",
            "health.max_bad_fraction=0.9",
        ]
        pretrain([f"tiny_{modality}", *options, "--dry_run"])
    ((name, message),) = accounts(caplog).items()
    assert name == modality
    check(message, name)


@pytest.mark.parametrize("modality", ["vision", "audio", "text"])
def test_a_probe_says_what_it_reads(saved_model, mixed, caplog, modality):
    with caplog.at_level(logging.INFO):
        probe([str(saved_model), "--modality", modality, "--data", str(mixed), "--max_samples", "20", "--seeds", "0",
               "--few", "2"])  # fmt: skip
    ((name, message),) = accounts(caplog).items()
    assert name == modality
    check(message, name)


@pytest.mark.parametrize(
    "program, modality, more",
    [
        (finetune_image_classification, "vision", []),
        (finetune_audio_classification, "audio", []),
        (finetune_ctc, "audio", []),
        (finetune_glue, "text", ["--text_column", "text", "--label_column", "label"]),
    ],
)
def test_fine_tuning_says_what_it_reads(saved_model, mixed, tmp_path, caplog, program, modality, more):
    with caplog.at_level(logging.INFO):
        program.run_program(settings(saved_model, mixed, tmp_path / "run", *more))
    ((name, message),) = accounts(caplog).items()
    assert name == modality
    check(message, name)


def test_the_command_prints_every_modality_and_the_rest(mixed, capsys):
    assert command(["data", str(mixed)]) is None
    printed = capsys.readouterr().out
    heads = [line for line in printed.splitlines() if not line.startswith(" ")]
    assert [head.split(":")[0] for head in heads] == ["text", "vision", "audio", "used for none of them"]
    assert "pictures, one folder per class (2 classes); samples: train 800; 800 of 2000 files used" in heads[1]
    assert "recordings, metadata; samples: train 799; 800 of 2000 files used" in heads[2]
    assert heads[3].endswith(", ...)")
    for name in ("text", "vision", "audio"):
        main([str(mixed), "--modality", name])
        check(capsys.readouterr().out, name)


def test_json_names_every_file(mixed, capsys):
    main([str(mixed), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["text", "vision", "audio"]
    on_disk = {f"{part}/{path.name}" for part in ("cat", "dog") for path in (mixed / part).iterdir()}
    on_disk |= {path.name for path in mixed.iterdir() if path.is_file()}
    for account in found.values():
        names = [*account["used"], *(name for part in account["left_out"].values() for name in part)]
        assert sorted(names) == sorted(on_disk) and len(names) == account["files"] == COUNT


def test_mistakes_are_sentences(tmp_path):
    for arguments, message in (
        ([str(tmp_path / "absent")], "does not exist"),
        ([str(tmp_path)], "As vision: .*\n.*As audio|As text: .*\n"),
        ([str(tmp_path), "--modality", "audio"], "modality audio"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(arguments)


def test_a_modality_that_cannot_be_read_is_named_beside_those_that_can(tmp_path, caplog, capsys):
    write_picture(tmp_path / "a.png")
    write_text(tmp_path / "metadata.csv", 'file_name,text\na.png,"open\n')
    write_text(tmp_path / "said.txt", "words")
    main([str(tmp_path)])
    assert "It cannot be read as vision" in caplog.text and "metadata.csv is not CSV" in caplog.text
    assert capsys.readouterr().out.startswith("text: ")


def test_the_launcher_prints_to_standard_output(tmp_path):
    write_picture(tmp_path / "a.png")
    done = subprocess.run(
        [sys.executable, "recipes/data.py", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"vision: {tmp_path}: pictures, without classes; samples: train 1; 1 of 1 files used\n"
