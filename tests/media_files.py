"""Small pictures, recordings and other files for tests of folders."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from PIL import Image

from d2v_train.data.records import open_dataset


def write_picture(path: Path, colour=(200, 30, 60), size=(6, 4), **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    return path


def write_recording(path: Path, seconds: float = 0.1, rate: int = 16_000, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * rate)), rate, **options)
    return path


def write_text(path: Path, content: str | bytes = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_parquet(path, **columns) -> None:
    pq.write_table(pa.table(columns), path)


def classes(dataset) -> dict | None:
    """Number of samples of each class, by its name; of a missing label by None."""
    if dataset.labels is None:
        return None
    names = dataset.label_names
    found = Counter(None if label < 0 else names[label] if names else label for label in dataset.labels.tolist())
    return dict(found)


def opened(modality: str, source, split: str = "train", **options):
    return open_dataset(modality, str(source), split, **options)


def files_of(dataset) -> list[str]:
    return [dataset.name_of(index) for index in range(len(dataset))]


def check_account(inventory, root: Path) -> None:
    """Every visible file below a folder is in the account once."""
    named = [*inventory.used, *(name for names in inventory.left_out.values() for name in names)]
    assert len(named) == len(set(named)) == inventory.files
    on_disk = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if not path.is_dir() and not any(part.startswith(".") for part in path.relative_to(root).parts)
    }
    assert set(named) >= on_disk
