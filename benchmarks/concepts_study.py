"""Does the latent of "dog" resemble a picture of a dog? Data, models and study of docs/align.md, in one command.

    python benchmarks/concepts_study.py --data ../shared/data --parts data
    python benchmarks/concepts_study.py --data ../shared/data --parts train --jobs 2
    python benchmarks/concepts_study.py --data ../shared/data --parts align

`--data` holds imagenet_200_small, classic_books and librispeech_*. The program espeak-ng must be installed.
All parts can be started again: data that is there is kept, and runs resume from their checkpoints.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from d2v_train.alignment.results import PrimaryRow, Study
from d2v_train.alignment.sentences import SentenceFinder, sentences_of, stable_order
from d2v_train.alignment.speech import Voice, speak, voices, write_speech
from d2v_train.alignment.vocabulary import VocabularyRule, choose_concepts
from d2v_train.data.tables import SAMPLING_RATE


ROOT = Path(__file__).resolve().parents[1]
PREREGISTRATION = ROOT / "recipes" / "d2v_train" / "configs" / "align_concepts.yaml"
SEEDS = (0, 1, 2)
STEPS = 400
"""Optimizer steps of each modality, jointly or alone."""
SPEECH = (("speech", 4), ("librispeech_small", 1), ("librispeech_unlabelled", 1))
"""Sources of speech and how often each is drawn."""
TRAINING_PARAGRAPHS = 40_000
TRAINING_SENTENCES = 1_200
WORDS_PER_VOICE = 40


def books(folder: Path, preregistered: dict[str, Any], held_out: bool) -> Iterator[tuple[str, str]]:
    """Yield (paragraph, book) of the books that models are trained on, or of those that are held out."""
    for path in sorted(folder.glob("classic_books/*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(columns=["text", "book"]):
            for text, book in zip(batch["text"].to_pylist(), batch["book"].to_pylist(), strict=True):
                share = int(stable_order(book)[:8], 16) / 16**8
                if held_out == (path.name.startswith("validation") or share < preregistered["held_out_books"]):
                    yield text, book


def picture_classes(path: Path) -> tuple[list[str], dict[str, str]]:
    """Return the names of the classes in the order of their labels, and name -> id in WordNet."""
    table = pq.read_table(path, columns=["label", "wordnet_id"])
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    names = features["label"]["names"]
    pairs = set(zip(table["label"].to_pylist(), table["wordnet_id"].to_pylist(), strict=True))
    return names, {names[label]: wordnet_id for label, wordnet_id in sorted(pairs)}


def prepare_concepts(source: Path, folder: Path, preregistered: dict[str, Any]) -> list[dict[str, Any]]:
    """Choose the concepts and write their test sentences, pictures and spoken words; return the table."""
    table = folder / "concepts.json"
    if table.exists():
        return json.loads(table.read_text())["concepts"]
    settings = dict(preregistered["vocabulary"])
    least_test = settings.pop("least_test_sentences")
    rule = VocabularyRule(**settings)
    pictures = next((source / "imagenet_200_small").glob("test-*.parquet"))
    names, classes = picture_classes(pictures)
    candidates = sorted({word for name in names for word in rule.candidates(name)})
    counts: dict[str, int] = dict.fromkeys(candidates, 0)
    finder = SentenceFinder(candidates)
    for part in (False, True):
        for word, found in finder.search(books(source, preregistered, part), limit=1).items():
            counts[word] += found.count
    concepts, left_out = choose_concepts(classes, lambda word: counts[word], rule)
    finder = SentenceFinder([concept.word for concept in concepts])
    found = finder.search(books(source, preregistered, True), limit=4 * preregistered["exemplars"], alone=True)
    kept = []
    for concept in concepts:
        sentences = found[concept.word].ordered()[: preregistered["exemplars"]]
        if len(sentences) < least_test:
            reason = f"only {len(sentences)} sentences in held-out books name {concept.word!r} alone"
            left_out |= dict.fromkeys(concept.classes, reason)
            continue
        path = folder / "sentences" / f"{concept.word}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{sentence}\n" for sentence, _ in sentences), encoding="utf-8")
        kept.append({"name": concept.word, "word": concept.word, "group": concept.group,
                     "classes": list(concept.classes), "corpus_sentences": concept.sentences})  # fmt: skip
    write_pictures(pictures, names, kept, folder / "pictures", preregistered["exemplars"])
    for concept in kept:
        for voice in test_voices(preregistered):
            write_speech(concept["word"], voice, folder / "recordings" / concept["name"] / f"{voice.label}.flac")
    table.write_text(json.dumps({"concepts": kept, "left_out": left_out}, indent=1))
    return kept


def test_voices(preregistered: dict[str, Any]) -> list[Voice]:
    """Return the voices of the test recordings."""
    spoken = preregistered["voices"]
    return voices(**spoken["test"], speeds=spoken["speeds"], pitches=spoken["pitches"])


def write_pictures(path: Path, names: list[str], concepts: list[dict[str, Any]], folder: Path, count: int) -> None:
    """Write `count` pictures of each concept, in equal parts from its classes."""
    table = pq.read_table(path, columns=["image", "label"])
    by_class: dict[str, list[bytes]] = {name: [] for name in names}
    for image, label in zip(table["image"].to_pylist(), table["label"].to_pylist(), strict=True):
        by_class[names[label]].append(image["bytes"])
    for concept in concepts:
        target = folder / concept["name"]
        target.mkdir(parents=True, exist_ok=True)
        depth = max(len(by_class[name]) for name in concept["classes"])
        turns = [(name, i) for i in range(depth) for name in concept["classes"] if i < len(by_class[name])]
        for name, i in turns[:count]:
            (target / f"{name.replace(' ', '_')}_{i:02d}.jpg").write_bytes(by_class[name][i])


def prepare_training_data(source: Path, folder: Path, concepts: list[dict[str, Any]], preregistered: dict[str, Any],
                          jobs: int) -> None:  # fmt: skip
    """Write the training data: pictures, prose, words and sentences by training voices, read speech, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("imagenet_200_small", "librispeech_small", "librispeech_unlabelled"):
        if not (folder / name).exists():
            (folder / name).symlink_to((source / name).resolve())
    paragraphs = sorted((text for text, _ in books(source, preregistered, False)), key=stable_order)
    texts = folder / "text" / "train.parquet"
    if not texts.exists():
        texts.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": paragraphs[:TRAINING_PARAGRAPHS]}), texts)
    spoken = folder / "speech" / "train.parquet"
    if spoken.exists():
        return
    settings = preregistered["voices"]
    speakers = voices(**settings["train"], speeds=settings["speeds"], pitches=settings["pitches"])
    sentences = [next(iter(found)) for text in paragraphs[-20 * TRAINING_SENTENCES :]
                 if (found := list(sentences_of(text, 5, 12)))][:TRAINING_SENTENCES]  # fmt: skip
    clips = [(sentence, speakers[i % len(speakers)]) for i, sentence in enumerate(sentences)]
    words = [concept["word"] for concept in concepts]
    for i, speaker in enumerate(speakers):
        chosen = sorted(words, key=lambda word, i=i: stable_order(f"{i} {word}"))[:WORDS_PER_VOICE]
        clips += [(word, speaker) for word in chosen]
    with ThreadPoolExecutor(jobs) as pool:
        encoded = list(pool.map(lambda clip: encode(speak(*clip)), clips))
    spoken.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "audio": [{"bytes": data, "path": f"{i:05d}.flac"} for i, data in enumerate(encoded)],
        "text": [text for text, _ in clips],
        "speaker_id": [speaker.label for _, speaker in clips],
    }
    pq.write_table(pa.table(columns), spoken)


def encode(samples: Any) -> bytes:
    """Return samples as the bytes of a FLAC file."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLING_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def write_tokenizer(folder: Path) -> None:
    """Train the tokenizer that all models of text share."""
    from d2v_train.inputs.tokenizer import build_tokenizer

    if not (folder / "tokenizer").exists():
        texts = pq.read_table(folder / "text" / "train.parquet")["text"].to_pylist()
        build_tokenizer(texts[:20_000], 8192).save_pretrained(folder / "tokenizer")


def training_commands(folder: Path) -> list[tuple[Path, list[str]]]:
    """Return (folder of the run, overrides) of the joint and of the separate runs, seed by seed."""
    data = folder / "data"
    speech = ", ".join(f"{{source: {data / name}, ratio: {ratio}}}" for name, ratio in SPEECH)
    sources = {
        "vision": f"data.vision={data / 'imagenet_200_small'}",
        "audio": f"data.audio=[{speech}]",
        "text": f"data.text={data / 'text'}",
    }
    runs = []
    for seed in SEEDS:
        for name in ("joint", *sources):
            used = list(sources) if name == "joint" else [name]
            steps = STEPS * len(used)
            run = folder / "models" / f"{name}_{seed}"
            overrides = [f"output_dir={run}", f"seed={seed}", f"max_steps={steps}", "cpu=true",
                         f"model.ema_anneal_end_step={steps // 2}"]  # fmt: skip
            overrides += [sources[modality] for modality in used]
            for modality in sorted(set(sources) - set(used)):
                overrides += [f"{field}=null" for field in (modality, f"data.{modality}", f"model.{modality}_config")]
            if "text" in used:
                overrides.append(f"text.tokenizer={data / 'tokenizer'}")
            runs.append((run, overrides))
    return runs


def train(folder: Path, jobs: int) -> None:
    """Train all models that are not finished, `jobs` at a time, on one core each."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def run(pair: tuple[Path, list[str]]) -> int:
        path, overrides = pair
        if (path / "final" / "config.json").exists():
            return 0
        path.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(ROOT / "recipes" / "pretrain.py"), "joint_concepts", *overrides]
        with (path / "output.txt").open("a") as output:
            return subprocess.run(command, env=environment, stdout=output, stderr=output).returncode

    with ThreadPoolExecutor(jobs) as pool:
        runs = training_commands(folder)
        for (path, _), code in zip(runs, pool.map(run, runs), strict=True):
            print(path.name, "finished" if code == 0 else f"failed, see {path / 'output.txt'}", flush=True)


def align(folder: Path, arguments: list[str]) -> None:
    """Run `d2v align` on all models that are finished, and print the table of the primary measure."""
    models = folder / "models"
    finished = {path.parent.parent.name for path in models.glob("*/final/config.json")}
    given = []
    for seed in SEEDS:
        if f"joint_{seed}" in finished:
            given.append(f"joint {seed}={models / f'joint_{seed}' / 'final'}")
    for seed in SEEDS:
        parts = {modality: f"{modality}_{seed}" for modality in ("vision", "audio", "text")}
        if finished.issuperset(parts.values()):
            places = (f"{modality}:{models / name / 'final'}" for modality, name in parts.items())
            given.append(f"separate {seed}={','.join(places)}")
    command = [sys.executable, str(ROOT / "recipes" / "align.py"), str(folder / "concepts"), "--models", *given,
               "--output", str(folder / "align"), "--preregistration", str(PREREGISTRATION), *arguments]  # fmt: skip
    subprocess.run(command, check=True)
    print(table(Study.from_json(folder / "align" / "align.json")))


def table(study: Study) -> str:
    """Return the primary measure of every kind of model in Markdown, a row for each, mean and range over seeds."""
    kinds: dict[tuple[str, str, str], list[PrimaryRow]] = {}
    for row in study.primary:
        family = re.sub(r" \d+$", "", row.model)
        kinds.setdefault((family, row.first, row.second), []).append(row)
    lines = ["| model | pair | seeds | mutual kNN (range) | null | smallest p | trained minus untrained |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    verdicts = {(pair.kind, pair.first, pair.second): pair for pair in study.verdict.pairs}
    for (family, first, second), rows in kinds.items():
        scores = [row.score for row in rows]
        verdict = verdicts.get((family, first, second))
        minus = (
            f"{verdict.minus_untrained:+.3f} [{verdict.minus_low:+.3f}, {verdict.minus_high:+.3f}]" if verdict else ""
        )
        lines.append(
            f"| {family} | {first}, {second} | {len(rows)} | {sum(scores) / len(scores):.3f} ({min(scores):.3f} to "
            f"{max(scores):.3f}) | {rows[0].null_mean:.3f} | {min(row.p for row in rows):.3f} | {minus} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the chosen parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--folder", type=Path, default=Path("runs/concepts"), help="folder of what is made")
    parser.add_argument("--parts", nargs="+", default=["data", "train", "align"],
                        choices=["data", "train", "align"])  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--positive_control", action="store_true", help="passed to `d2v align`")
    args = parser.parse_args()
    folder = args.folder.resolve()
    preregistered = yaml.safe_load(PREREGISTRATION.read_text())
    if "data" in args.parts:
        concepts = prepare_concepts(args.data, folder / "concepts", preregistered)
        print(f"{len(concepts)} concepts: {', '.join(concept['name'] for concept in concepts)}")
        prepare_training_data(args.data, folder / "data", concepts, preregistered, args.jobs)
        write_tokenizer(folder / "data")
    if "train" in args.parts:
        train(folder, args.jobs)
    if "align" in args.parts:
        align(folder, ["--positive_control"] if args.positive_control else [])


if __name__ == "__main__":
    main()
