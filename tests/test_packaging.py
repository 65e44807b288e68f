"""What an installed package holds and can do without the clone: a wheel, built from a source distribution."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


ROOT = Path(__file__).resolve().parents[1]
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


def build(kind: str, source: Path, out: Path) -> Path:
    """Build a distribution as pip does, and return its file."""
    subprocess.run([sys.executable, "-c", BUILD, kind, str(out)], cwd=source, check=True, capture_output=True)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("distributions")
    source = folder / "source"
    source.mkdir()
    for name in ("modeling_d2v", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    shutil.unpack_archive(build("build_sdist", source, folder / "sdist"), folder / "unpacked")
    (unpacked,) = (folder / "unpacked").iterdir()
    return build("build_wheel", unpacked, folder / "wheel")


def test_a_wheel_holds_both_packages_with_their_data_and_nothing_else(wheel):
    train = ROOT / "recipes" / "d2v_train"
    generator = train / "data" / "builtin_files" / "make_digit_words.py"
    expected = {
        f"modeling_d2v/{path.relative_to(ROOT / 'modeling_d2v')}" for path in ROOT.glob("modeling_d2v/**/*.py")
    }
    files = [path for path in train.rglob("*") if path.is_file() and path.suffix != ".pyc" and path != generator]
    expected |= {f"d2v_train/{path.relative_to(train)}" for path in files}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (entries,) = [archive.read(name).decode() for name in archive.namelist() if name.endswith("entry_points.txt")]
    assert names == expected
    assert {"d2v_train/configs/tiny_joint.yaml", "d2v_train/configs/accelerate/fsdp2.yaml"} < names
    assert sum(name.startswith("d2v_train/data/builtin_files/") for name in names) == 4
    assert "d2v = d2v_train.programs.cli:main" in entries


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The programs of an environment with the wheel, and the libraries of this one but not its clone."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    install = ["-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps", str(wheel)]
    subprocess.run([sys.executable, *install], check=True)
    # A path in a .pth file is added without the .pth files in it, such as that of an editable installation.
    (packages,) = folder.glob("lib/python*/site-packages")
    paths = dict.fromkeys(sysconfig.get_paths()[name] for name in ("purelib", "platlib"))
    (packages / "libraries.pth").write_text("\n".join(paths) + "\n")
    return folder / "bin"


@pytest.mark.slow
def test_an_installed_package_pretrains_loads_probes_and_fine_tunes(installed, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def started(program: str, *words: str) -> str:
        command = [str(installed / program), *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    started("d2v", "pretrain", "tiny_vision", "output_dir=run", "max_steps=3", "cpu=true")
    (start,) = json.loads((tmp_path / "run" / "run.json").read_text())["starts"]
    assert start["end"]["reason"] == "finished" and start["commit"] is None

    files = started(
        "python",
        "-c",
        "import d2v_train, modeling_d2v; from transformers import AutoModel; "
        "print(d2v_train.__file__, modeling_d2v.__file__, type(AutoModel.from_pretrained('run/final')).__name__)",
    ).split()
    assert all(Path(file).is_relative_to(installed.parent) for file in files[:2]) and files[2] == "Data2VecModel"

    probe = started("d2v", "probe", "run/final", "--modality", "vision", "--max_samples", "120", "--no_simple")
    assert json.loads(probe)["test_samples"] == 120

    for number in range(16):
        folder = tmp_path / "pictures" / ("train", "test")[number // 8] / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.randint(100 * (number % 2), 100 * (number % 2) + 100, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    options = "--model_name_or_path run/final --dataset_name pictures --output_dir classes --do_train --do_eval"
    steps = "--max_steps 3 --per_device_train_batch_size 4 --use_cpu --report_to none"
    results = started("d2v", "finetune-images", *options.split(), *steps.split())
    assert json.loads(results.splitlines()[-1])["eval_accuracy"] >= 0
    assert (tmp_path / "classes" / "model.safetensors").exists()

    launcher = "--cpu --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no"
    module = "-m d2v_train.programs.pretrain tiny_vision output_dir=other cpu=true --dry_run"
    dry = started("python", "-m", "accelerate.commands.launch", *launcher.split(), *module.split())
    assert "memory" in dry and not (tmp_path / "other").exists()
