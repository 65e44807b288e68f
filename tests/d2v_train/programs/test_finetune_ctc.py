"""The program that fine-tunes speech recognition, run on recordings whose letters are tones."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from recordings import options, spoken, texts_of, write_checkpoint, write_recordings
from safetensors.torch import load_file
from transformers import AutoConfig, AutoProcessor, pipeline
from transformers.models.wav2vec2 import Wav2Vec2CTCTokenizer

from d2v_train.data.tables import SplitNotFoundError
from d2v_train.finetuning.command_line import parse_arguments
from d2v_train.finetuning.speech.arguments import CTCDataArguments, CTCModelArguments, CTCTrainingArguments
from d2v_train.finetuning.speech.transcripts import build_ctc_tokenizer
from d2v_train.programs.finetune_ctc import run_program as main
from d2v_train.support.extras import MissingDependencyError, need


ROOT = Path(__file__).resolve().parents[3]
TEXTS = texts_of(12)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    return write_checkpoint(tmp_path_factory.mktemp("pretrained"))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    write_recordings(folder / "train", TEXTS)
    write_recordings(folder / "validation", TEXTS[:5])
    return folder


@pytest.fixture(scope="module")
def learned(checkpoint, recordings, tmp_path_factory) -> tuple[Path, dict[str, float]]:
    """A run that learns its recordings by heart."""
    folder = tmp_path_factory.mktemp("learned")
    return folder, main(run_options(checkpoint, folder, recordings, max_steps=220, freeze_feature_encoder="false"))


def run_options(checkpoint, folder, data, *more, **values) -> list[str]:
    defaults = {"dataset_name": data, "gradient_accumulation_steps": 1, "max_grad_norm": 1}
    return options(checkpoint, folder, "--do_train", "--do_eval", *more, **{**defaults, **values})


def losses(folder: Path) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def predictions(folder: Path, name: str = "eval") -> list[dict[str, str]]:
    lines = (folder / f"predictions_{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_a_tiny_model_learns_recordings_by_heart(learned):
    folder, results = learned
    assert results["eval_wer"] == results["eval_cer"] == 0
    heard = predictions(folder)
    assert [line["id"] for line in heard] == [f"validation/{number}.wav" for number in range(5)]
    assert [line["hypothesis"] for line in heard] == [line["reference"] for line in heard] == TEXTS[:5]


def test_the_pipeline_hears_what_the_program_heard(learned):
    recognise = pipeline("automatic-speech-recognition", str(learned[0]))
    assert [recognise(spoken(text, seed=number))["text"] for number, text in enumerate(TEXTS[:5])] == TEXTS[:5]


def test_the_folder_of_a_run(learned):
    folder = learned[0]
    processor = AutoProcessor.from_pretrained(folder)
    assert set(processor.tokenizer.get_vocab()) == {"<pad>", "<s>", "</s>", "<unk>", "|", "A", "B", "C", "D"}
    audio = AutoConfig.from_pretrained(folder).audio_config
    assert (audio.vocab_size, audio.pad_token_id, audio.apply_spec_augment) == (9, 0, False)
    card = (folder / "README.md").read_text()
    assert "automatic-speech-recognition" in card and "| eval_wer | 0 |" in card
    assert not (folder / "left_out.json").exists() and not (folder / "bad_samples.json").exists()


def test_padding_changes_no_prediction(learned, recordings, tmp_path):
    # Barely trained, a model says something about every frame, of padding too.
    main(run_options(str(learned[0]), tmp_path / "a", recordings, max_steps=1, learning_rate=3e-2))
    heard = {}
    for size in (1, 5):
        argv = options(str(tmp_path / "a"), tmp_path / str(size), "--do_eval", per_device_eval_batch_size=size)
        main([*argv, "--dataset_name", str(recordings)])
        heard[size] = predictions(tmp_path / str(size))
    assert heard[1] == heard[5] and any(line["hypothesis"] for line in heard[1])


def test_the_vocabulary_of_a_checkpoint_is_kept(learned, tmp_path, caplog):
    data = write_recordings(tmp_path / "data", ["ABBA", "CAB"])
    (data / "metadata.csv").write_text("file_name,text\n0.wav,abba!\n1.wav,cäb\n", encoding="utf-8")
    argv = run_options(
        str(learned[0]), tmp_path / "run", data, "--chars_to_ignore", "!", "?", validation_split="train"
    )
    results = main([*argv, "--learning_rate", "0"])
    assert len(AutoProcessor.from_pretrained(tmp_path / "run").tokenizer) == 9
    assert "lacks 1 characters" in caplog.text and "'Ä' (1)" in caplog.text
    assert [line["reference"] for line in predictions(tmp_path / "run")] == ["ABBA", "C<unk>B"]
    # What cannot be written counts as an error.
    assert results["eval_wer"] == 1 / 2


def test_a_vocabulary_in_small_letters(checkpoint, recordings, tmp_path):
    main(run_options(checkpoint, tmp_path, recordings, "--case", "lower", max_steps=1))
    assert set(AutoProcessor.from_pretrained(tmp_path).tokenizer.get_vocab()) >= {"a", "b", "c", "d"}
    assert predictions(tmp_path)[0]["reference"] == TEXTS[0].lower()


def test_a_run_that_was_cut_off_ends_like_one_that_was_not(checkpoint, recordings, tmp_path):
    def once(name):
        # Three epochs, in which masks and dropout are drawn and recordings sorted by length.
        values = {"max_steps": 9, "save_strategy": "steps", "save_steps": 4, "apply_spec_augment": "true"}
        drawn = {"mask_time_length": 2, "hidden_dropout": 0.1, "layerdrop": 0.2, "freeze_encoder_steps": 5}
        main(run_options(checkpoint, tmp_path / name, recordings, **values, **drawn))
        return load_file(tmp_path / name / "model.safetensors"), losses(tmp_path / name)

    whole, curve = once("whole")
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", tmp_path / "cut" / "checkpoint-4")
    shutil.copy(tmp_path / "whole" / "options.json", tmp_path / "cut")
    resumed, second_curve = once("cut")
    assert curve == second_curve and len(set(curve)) == 9
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_what_is_trained(checkpoint, recordings, tmp_path):
    before = load_file(Path(checkpoint) / "model.safetensors")

    def changed(folder):
        after = {name: value for name, value in load_file(folder / "model.safetensors").items() if name in before}
        assert len(after) > 40
        return {name for name, value in after.items() if not torch.equal(value, before[name])}

    main(run_options(checkpoint, tmp_path / "default", recordings, max_steps=2))
    default = changed(tmp_path / "default")
    assert not any("conv_layers" in name for name in default) and any("encoder.blocks" in name for name in default)
    main(run_options(checkpoint, tmp_path / "all", recordings, max_steps=2, freeze_feature_encoder="false"))
    assert any("conv_layers" in name for name in changed(tmp_path / "all"))
    main(run_options(checkpoint, tmp_path / "head", recordings, max_steps=2, freeze_encoder_steps=2))
    assert changed(tmp_path / "head") == set()


def test_recordings_that_cannot_be_used(checkpoint, recordings, tmp_path, capsys):
    data = tmp_path / "data"
    texts = [*TEXTS, "", "ABC " * 40, "AB", "AB", "AB", "A"]
    shutil.copytree(write_recordings(tmp_path / "made", texts), data)
    for number, text in ((13, "AB"), (17, "A" * 60)):  # far shorter than their transcripts; far too long
        soundfile.write(data / f"{number}.wav", spoken(text, seed=number), 16_000)
    whole = (data / "14.wav").read_bytes()
    (data / "14.wav").write_bytes(whole[: len(whole) // 2])
    (data / "15.wav").write_bytes(b"")
    (data / "16.wav").unlink()
    argv = run_options(checkpoint, tmp_path / "run", data, validation_split="train", max_steps=6, max_bad_fraction=0.3)
    main([*argv, "--max_duration_in_seconds", "5", "--min_duration_in_seconds", "0.1"])
    left_out = json.loads((tmp_path / "run" / "left_out.json").read_text())
    assert left_out == {
        "training": {
            "longer than --max_duration_in_seconds 5": ["17.wav"],
            "with a transcript too long for its frames": ["13.wav"],
        },
        "validation": {},
    }
    bad = json.loads((tmp_path / "run" / "bad_samples.json").read_text())
    found = {"truncated": ["14.wav"], "missing": ["16.wav"], "empty": ["15.wav"], "no label": ["12.wav"]}
    assert bad["validation"] == found
    assert bad["training"] == bad["validation"]
    assert len(predictions(tmp_path / "run")) == 14
    printed = capsys.readouterr().out
    assert (
        "training data: 15 of 17 recordings are used" in printed and "too long for its frames: 1 (13.wav)" in printed
    )
    assert all(loss == loss and loss > 0 for loss in losses(tmp_path / "run"))
    with pytest.raises(ValueError, match="4 of 17"):
        main([*argv, "--output_dir", str(tmp_path / "strict"), "--max_bad_fraction", "0.1"])


def test_a_loss_of_0_stands_in_for_an_infinite_one(learned, tmp_path):
    data = write_recordings(tmp_path / "data", ["AB", "ABCD"])
    (data / "metadata.csv").write_text(f"file_name,text\n0.wav,{'AB' * 90}\n1.wav,ABCD\n")
    argv = options(str(learned[0]), tmp_path / "run", "--do_eval", dataset_name=data, validation_split="train")
    results = main(argv)
    assert 0 <= results["eval_loss"] < 1 and results["eval_wer"] == 1 / 2
    assert main([*argv, "--ctc_zero_infinity", "false"])["eval_loss"] == float("inf")


def test_texts_of_recordings_without_transcripts(learned, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for number in range(2):
        soundfile.write(data / f"{number}.wav", spoken(TEXTS[number], seed=number), 16_000)
    results = main(options(str(learned[0]), tmp_path / "run", "--do_predict", test_dir=data))
    assert predictions(tmp_path / "run", "test") == [
        {"id": f"{number}.wav", "hypothesis": TEXTS[number]} for number in range(2)
    ]
    assert "test_wer" not in results
    write_recordings(data, TEXTS[:2])
    results = main(options(str(learned[0]), tmp_path / "run", "--do_predict", test_dir=data))
    assert results["test_wer"] == 0 and predictions(tmp_path / "run", "test")[1]["reference"] == TEXTS[1]


def test_recordings_are_held_out_where_there_is_no_validation_split(learned, tmp_path, caplog):
    data = write_recordings(tmp_path / "data", TEXTS)
    argv = run_options(str(learned[0]), tmp_path / "run", data, max_steps=1, learning_rate=0, train_val_split=0.25)
    main(argv)
    assert "25 % of the samples are held out of the training data (3, 9 stay)" in caplog.text
    heard = predictions(tmp_path / "run")
    assert len(heard) == 3 and [line["hypothesis"] for line in heard] == [line["reference"] for line in heard]
    with pytest.raises(SplitNotFoundError, match="'evening'"):
        main([*argv, "--validation_split", "evening"])


def test_early_stopping_follows_the_word_error_rate(learned, recordings, tmp_path):
    values = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2, "max_steps": 20}
    argv = run_options(str(learned[0]), tmp_path, recordings, **values, learning_rate=0, early_stopping_patience=2)
    main(argv)
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    # No learning, no improvement: two evaluations after the first one are waited for.
    assert state["global_step"] == 6 and state["best_metric"] == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--text_column", "words"], "words"),
        (["--train_split", "night"], "'night'"),
        (["--tokenizer_name", "{checkpoint}"], "Wav2Vec2CTCTokenizer"),
        (["--max_duration_in_seconds", "0.01"], "training data"),
        (["--dataset_name", "nowhere/at/all"], "exist"),
    ],
)
def test_mistakes_are_explained(checkpoint, recordings, tmp_path, more, message):
    more = [word.format(checkpoint=checkpoint) for word in more]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        main(run_options(checkpoint, tmp_path / "run", recordings, *more))


def test_evaluation_needs_a_vocabulary_and_speech(checkpoint, recordings, tmp_path):
    with pytest.raises(ValueError, match="characters"):
        main(options(checkpoint, tmp_path, "--do_eval", dataset_name=recordings))
    from model_factory import tiny_config

    tiny_config("text").save_pretrained(tmp_path / "text")
    with pytest.raises(ValueError, match="'audio'"):
        main(run_options(str(tmp_path / "text"), tmp_path / "run", recordings))


def test_a_missing_library_is_named_before_the_training(checkpoint, recordings, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jiwer", None)
    need.cache_clear()
    with pytest.raises(MissingDependencyError, match="'audio'"):
        main(run_options(checkpoint, tmp_path / "run", recordings))
    assert not (tmp_path / "run").exists()


def test_an_unknown_option_names_the_nearest(checkpoint, recordings, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(run_options(checkpoint, tmp_path, recordings, "--mask_time_probability", "0.1"))
    assert "--mask_time_prob." in capsys.readouterr().err


def parsed(*argv) -> tuple:
    classes = (CTCModelArguments, CTCDataArguments, CTCTrainingArguments)
    words = ["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "o", "--use_cpu"]
    return parse_arguments(*classes, argv=[*argv, *words])


def test_defaults_are_the_published_settings():
    model, _, args = parsed()
    assert (args.max_steps, args.learning_rate, args.tri_stage_phases) == (80_000, 3e-5, (0.1, 0.4, 0.5))
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps == 128
    assert (args.adam_beta2, args.weight_decay, args.max_grad_norm) == (0.98, 0, 0)
    assert (model.mask_time_prob, model.mask_feature_prob, model.layerdrop) == (0.65, 0.5, 0.1)
    assert (model.hidden_dropout, model.activation_dropout, model.freeze_feature_encoder) == (0, 0.1, True)
    _, _, args = parsed("--num_train_epochs", "3")
    assert (args.max_steps, args.num_train_epochs) == (-1, 3)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "recipes" / "d2v_train" / "configs").glob("ctc_*.yaml")), ids=lambda path: path.stem
)
def test_every_option_of_a_configuration_exists_and_is_taken(path):
    values = yaml.safe_load(path.read_text())
    taken = {name: value for part in parsed(str(path)) for name, value in vars(part).items()}
    assert values == {name: taken[name] for name in values}


def test_one_option_file_and_the_command_line(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text("learning_rate: 1.0e-4\nchars_to_ignore: ['?', '!']\nfreeze_feature_encoder: false\n")
    model, data, args = parsed(str(path), "--learning_rate", "2e-4")
    assert (args.learning_rate, data.chars_to_ignore, model.freeze_feature_encoder) == (2e-4, ["?", "!"], False)


def test_a_tokenizer_of_a_folder(checkpoint, recordings, tmp_path):
    build_ctc_tokenizer(["ZYX DCBA"]).save_pretrained(tmp_path / "tokenizer")
    main(
        run_options(checkpoint, tmp_path / "run", recordings, "--tokenizer_name", tmp_path / "tokenizer", max_steps=1)
    )
    kept = AutoProcessor.from_pretrained(tmp_path / "run").tokenizer
    assert kept.get_vocab() == Wav2Vec2CTCTokenizer.from_pretrained(tmp_path / "tokenizer").get_vocab()
    assert "Z" in kept.get_vocab()


@pytest.mark.slow
def test_two_processes_compute_the_losses_of_one(checkpoint, recordings, tmp_path):
    program = str(ROOT / "recipes" / "finetune_ctc.py")
    results = {}
    for name, batch, launcher in (
        ("one", 4, []),
        ("two", 2, ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29713"]),
    ):
        values = {"per_device_train_batch_size": batch, "max_steps": 7, "per_device_eval_batch_size": 2}
        done = subprocess.run(
            [sys.executable, *launcher, program, *run_options(checkpoint, tmp_path / name, recordings, **values)],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        results[name] = json.loads(done.stdout.splitlines()[-1])
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), abs=2e-4)
    assert predictions(tmp_path / "one") == predictions(tmp_path / "two")
    assert results["one"]["eval_wer"] == results["two"]["eval_wer"]


@pytest.mark.slow
@pytest.mark.shared
def test_real_speech_is_learned_by_heart(shared_dir, tmp_path):
    """The documented check with four of its eight recordings, from random weights."""
    from d2v_train.programs.pretrain import run_program as pretrain

    pretrain(["tiny_audio", f"output_dir={tmp_path / 'pretrained'}", "max_steps=2", "cpu=true"])
    config = str(ROOT / "recipes" / "d2v_train" / "configs" / "ctc_overfit.yaml")
    argv = ["--dataset_name", str(shared_dir / "data" / "librispeech_small"), "--output_dir", str(tmp_path / "run")]
    count = ["--max_train_samples", "4", "--max_eval_samples", "4", "--max_steps", "400", "--use_cpu"]
    start = ["--config_name", str(tmp_path / "pretrained" / "final"), "--from_scratch"]
    results = main([config, *argv, *count, *start, "--do_train", "--do_eval", "--disable_tqdm", "True"])
    assert results["eval_wer"] == 0
    recognise = pipeline("automatic-speech-recognition", str(tmp_path / "run"))
    from d2v_train.data.records import open_dataset

    raw = open_dataset("audio", argv[1], max_samples=4, text_column="text")
    assert [recognise(raw[i]["audio"].copy())["text"] for i in range(4)] == raw.transcripts


PHONEMES = {"A": "AA1", "B": "b", "C": "tS", "D": "D"}


def write_phonemes(folder: Path, texts: list[str], between: str = " | ") -> Path:
    """Recordings with the phonemes of their letters, and a token between words."""
    write_recordings(folder, texts)
    written = [between.join(" ".join(map(PHONEMES.get, word)) for word in text.split()) for text in texts]
    lines = [f"{number}.wav,{text}" for number, text in enumerate(written)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,text", *lines]) + "\n")
    return folder


def test_phonemes_are_learned_with_words_between_delimiters(checkpoint, tmp_path, caplog):
    data = tmp_path / "data"
    for part, texts in (("train", TEXTS), ("validation", TEXTS[:5])):
        write_phonemes(data / part, texts)
    values = {"max_steps": 150, "freeze_feature_encoder": "false", "per_device_train_batch_size": 8}
    results = main(run_options(checkpoint, tmp_path / "run", data, "--unit", "phoneme", **values))
    assert results["eval_per"] < 0.1 and results["eval_wer"] <= 0.3 and "eval_cer" not in results
    tokenizer = AutoProcessor.from_pretrained(tmp_path / "run").tokenizer
    assert set(tokenizer.get_vocab()) == {"<pad>", "<s>", "</s>", "<unk>", "|", *PHONEMES.values()}
    assert "lacks" not in caplog.text and "case" not in caplog.text
    assert "AA1 | tS D tS tS" in [line["reference"] for line in predictions(tmp_path / "run")]
    recognise = pipeline("automatic-speech-recognition", str(tmp_path / "run"))
    heard = [recognise(spoken(text, seed=number))["text"] for number, text in enumerate(TEXTS[:5])]
    assert heard == [line["hypothesis"] for line in predictions(tmp_path / "run")]
    # The unit of a checkpoint is its own.
    argv = options(str(tmp_path / "run"), tmp_path / "again", "--do_eval", dataset_name=data)
    assert main(argv)["eval_per"] == results["eval_per"]


def test_phonemes_without_words_have_a_phoneme_error_rate_alone(checkpoint, tmp_path):
    data = tmp_path / "data"
    for part in ("train", "validation"):
        write_phonemes(data / part, TEXTS[:4], between=" ")
    values = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1, "max_steps": 2}
    argv = run_options(checkpoint, tmp_path / "run", data, "--unit", "phoneme", **values)
    results = main([*argv, "--load_best_model_at_end", "True"])
    assert "eval_per" in results and "eval_wer" not in results and "eval_cer" not in results
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert state["best_metric"] == results["eval_per"]


@pytest.mark.parametrize(
    ("texts", "more", "logged", "tokens"),
    [
        (["ABı", "ABi"], [], "--language tr", {"A", "B", "I", "ı"}),
        (["ABı", "ABi"], ["--language", "tr"], None, {"A", "B", "I", "İ"}),
        (["ABß", "ABss"], [], None, {"A", "B", "ẞ", "S"}),
        (["a A", "b B"], [], "a \\(1\\) = A \\(1\\)", {"A", "B"}),
        (["a A", "b B"], ["--case", "keep"], None, {"a", "A", "b", "B"}),
    ],
)
def test_what_the_case_makes_equal_is_logged(checkpoint, tmp_path, caplog, texts, more, logged, tokens):
    data = write_recordings(tmp_path / "data", ["AB", "BA"])
    (data / "metadata.csv").write_text(f"file_name,text\n0.wav,{texts[0]}\n1.wav,{texts[1]}\n", encoding="utf-8")
    main(run_options(checkpoint, tmp_path / "run", data, *more, validation_split="train", max_steps=1))
    found = [line for line in caplog.messages if line.startswith("Training transcripts: ")]
    assert len(found) == (logged is not None) and (logged is None or re.search(logged, found[0]))
    tokenizer = AutoProcessor.from_pretrained(tmp_path / "run").tokenizer
    assert set(tokenizer.get_vocab()) - {"<pad>", "<s>", "</s>", "<unk>", "|"} == tokens
    # A run on the result needs no option to read transcripts in the same way.
    main(options(str(tmp_path / "run"), tmp_path / "again", "--do_eval", dataset_name=data, validation_split="train"))
    assert predictions(tmp_path / "again")[0]["reference"] == predictions(tmp_path / "run")[0]["reference"]


@pytest.mark.parametrize(
    ("tokens", "settings", "logged", "references"),
    [
        (["<pad>", "|", "A", "B", "C"], {"unk_token": None}, "'D' \\(\\d+\\)", 0),
        (["[PAD]", "A", "B", "C", "D", "[UNK]", "|"], {"pad_token": "[PAD]", "unk_token": "[UNK]"}, None, 1),
        (["A", "B", "C", "D", "<unk>", "<pad>"], {"word_delimiter_token": None}, "no word delimiter", 2),
    ],
)
def test_vocabularies_with_other_special_tokens(
    checkpoint, recordings, tmp_path, caplog, tokens, settings, logged, references
):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    settings = {"bos_token": None, "eos_token": None} | settings
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), **settings).save_pretrained(folder)
    argv = run_options(checkpoint, tmp_path / "run", recordings, "--tokenizer_name", folder, max_steps=2)
    results = main(argv)
    warned = [line for line in caplog.messages if "vocabulary" in line and "has 9 tokens" not in line]
    assert bool(warned) == (logged is not None) and (logged is None or re.search(logged, warned[0]))
    if references == 0:
        assert "left out of labels and references" in warned[0]
    assert ("eval_wer" in results) == (references != 2) and results["eval_loss"] > 0
    written = [line["reference"] for line in predictions(tmp_path / "run")]
    drop = {0: "D", 1: "", 2: " "}[references]
    assert written == [" ".join(text.replace(drop, "").split()) if drop else text for text in TEXTS[:5]]
    config = AutoConfig.from_pretrained(tmp_path / "run").audio_config
    assert (config.vocab_size, config.pad_token_id) == (len(tokens), tokens.index(settings.get("pad_token", "<pad>")))


def test_a_vocabulary_of_another_language_is_refused(checkpoint, recordings, tmp_path):
    build_ctc_tokenizer(["ЯЗЫК A"]).save_pretrained(tmp_path / "tokenizer")
    argv = run_options(checkpoint, tmp_path / "run", recordings, "--tokenizer_name", tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="characters of the training transcripts are not in the vocabulary"):
        main(argv)
    with pytest.raises(ValueError, match="--case is lower, but the letters of the vocabulary.*upper case"):
        main([*argv, "--case", "lower"])
    with pytest.raises(ValueError, match="--word_delimiter is '#', but the vocabulary .* has '|'"):
        main([*argv, "--word_delimiter", "#"])


def test_a_head_without_the_special_tokens_that_transformers_adds(learned, recordings, tmp_path):
    """A vocabulary of five tokens in a checkpoint with a head of five."""
    folder = tmp_path / "small"
    build_ctc_tokenizer(["A"]).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({"[PAD]": 0, "|": 1, "A": 2, "B": 3, "C": 4}))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("added_tokens_decoder")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    from modeling_d2v import Data2VecForCTC

    model = Data2VecForCTC.from_pretrained(learned[0], vocab_size=5, pad_token_id=0, ignore_mismatched_sizes=True)
    model.save_pretrained(folder)
    results = main(options(str(folder), tmp_path / "run", "--do_eval", dataset_name=recordings))
    assert results["eval_loss"] > 0 and all("D" not in line["reference"] for line in predictions(tmp_path / "run"))
