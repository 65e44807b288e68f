"""The conversion program: folders that the Auto classes load, input preparation, refusals that leave nothing."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCTC,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoProcessor,
    AutoTokenizer,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
)

from d2v_train.models.build import build_config, build_model
from d2v_train.options.files import load_options
from d2v_train.programs.convert import is_transformers, run_program
from d2v_train.programs.pretrain import run_program as pretrain
from d2v_train.support.jsonl import read_log
from modeling_d2v import Data2VecModel
from modeling_d2v.conversion.fairseq.convert import WEIGHTS_NAME, Converted
from modeling_d2v.model_card import read_license
from tests.modeling_d2v.reference_fixtures import WHOLE, load_reference, relative_error
from tests.modeling_d2v.source_checkpoints import content_of, image_classifier, recogniser, text_classifier, write


ROOT = Path(__file__).resolve().parents[3]


def convert(content, tmp_path, *options):
    """Writes a source, converts it, and gives the folder and what the program said."""
    source = write(content, tmp_path / "source.pt")
    return tmp_path / "out", run_program([str(source), str(tmp_path / "out"), *options])


@pytest.mark.parametrize("name", ["d2v2_image_base", "d2v2_audio_base", "d2v1_text_base"])
def test_a_pretrained_model(name, tmp_path, capsys):
    out, summary = convert(content_of(name), tmp_path, "--verify")
    said = capsys.readouterr().out
    model = AutoModelForPreTraining.from_pretrained(out)
    assert type(AutoModel.from_pretrained(out)) is Data2VecModel
    assert summary.parameters == sum(value.numel() for value in model.state_dict().values())
    for part in (summary.kind, "Data2VecForPreTraining", f"{summary.parameters:,} parameters", "verified:", str(out)):
        assert part in said
    licence = "cc-by-nc-4.0" if "image" in name else "mit"
    assert summary.license == read_license(out) == licence and f"licence     {licence}:" in said
    assert list(tmp_path.glob(".*")) == []


def test_licences_can_be_said(tmp_path):
    out, _ = convert(content_of("d2v2_image_base"), tmp_path, "--license", "apache-2.0")
    assert read_license(out) == "apache-2.0"


def test_unused_tensors_are_listed_with_the_reason(tmp_path, capsys):
    convert(content_of("d2v1_image_base"), tmp_path)
    said = capsys.readouterr().out
    assert "unused      4 tensors of the source:" in said
    assert re.search(r"final_proj\.\w+ and 1 more: created but never applied by the reference", said)


def test_a_speech_recogniser_with_its_dictionary(tmp_path):
    content, _ = recogniser("d2v2_audio_base", rows=7)
    content["task_state"] = {"target_dictionary": {"symbols": ["<s>", "<pad>", "</s>", "<unk>", "|", "E", "T"]}}
    out, _ = convert(content, tmp_path)
    processor = AutoProcessor.from_pretrained(out)
    logits = torch.nn.functional.one_hot(torch.tensor([[6, 6, 0, 5, 4, 0, 6]]), 7).float()
    assert processor.batch_decode(logits) == ["TE T"]
    inputs = processor(audio=[torch.randn(4000).numpy()], sampling_rate=16000, return_tensors="pt")
    assert inputs["input_values"].std().item() == pytest.approx(1, abs=0.01)
    model = AutoModelForCTC.from_pretrained(out)
    assert model(**inputs).logits.shape[2] == len(processor.tokenizer) and model.config.audio_config.pad_token_id == 0
    # A file says it where the checkpoint does not, or better.
    (tmp_path / "dict.ltr.txt").write_text("| 9\nA 8\nB 7\n")
    run_program([str(tmp_path / "source.pt"), str(out), "--overwrite", "--dict", str(tmp_path / "dict.ltr.txt")])
    assert AutoTokenizer.from_pretrained(out)("AB A").input_ids == [5, 6, 4, 5]


def test_what_is_missing_for_the_inputs_is_said(tmp_path):
    _, summary = convert(recogniser("d2v1_audio_base")[0], tmp_path)
    assert summary.notes == ["no tokenizer: give the letter dictionary of its 9 tokens (--dict dict.ltr.txt)"]
    _, summary = convert(content_of("d2v2_text_base"), tmp_path, "--overwrite")
    assert summary.notes == ["no tokenizer: give its files (--dict dict.txt --bpe encoder.json vocab.bpe)"]


def test_the_card_promises_a_processor_only_where_there_is_one(tmp_path):
    out, _ = convert(content_of("d2v2_text_base"), tmp_path)
    card = (out / "README.md").read_text()
    assert "AutoProcessor" not in card and "import AutoModelForPreTraining\n\nmodel = " in card
    out, _ = convert(content_of("d2v2_audio_base"), tmp_path, "--overwrite")
    assert (out / "README.md").read_text().count("AutoProcessor") == 2


def test_waveforms_are_standardised_where_they_were(tmp_path):
    content = content_of("d2v1_audio_base")
    for normalize in (True, False):
        content["cfg"]["task"] = {"normalize": normalize}
        out, _ = convert(content, tmp_path, "--overwrite")
        assert AutoFeatureExtractor.from_pretrained(out).do_normalize is normalize


def test_an_image_classifier(tmp_path):
    out, _ = convert(image_classifier()[0], tmp_path)
    processor = AutoImageProcessor.from_pretrained(out)
    assert processor.size == {"shortest_edge": 73} and processor.crop_size == {"height": 64, "width": 64}
    assert list(processor.image_mean) == [0.485, 0.456, 0.406]
    assert AutoModelForImageClassification.from_pretrained(out).config.num_labels == 6


def with_channels(content, channels):
    """The image model with another number of channels."""
    content = copy.deepcopy(content)
    content["cfg"]["model"]["modalities"]["image"]["in_chans"] = channels
    for state in (content["model"], content["model"]["_ema"]):
        for name in [name for name in state if name.endswith("local_encoder.proj.weight")]:
            state[name] = torch.randn(state[name].shape[0], channels, *state[name].shape[2:])
    return content


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
def test_images_of_other_channels(channels, tmp_path):
    content = with_channels(content_of("d2v2_image_base"), channels)
    out, summary = convert(content, tmp_path, "--verify")
    processor = AutoImageProcessor.from_pretrained(out)
    assert list(processor.image_mean) == list(processor.image_std) == [0.5] * channels
    assert any(note.startswith(f"images of {channels} channels") for note in summary.notes)
    model = AutoModelForPreTraining.from_pretrained(out)
    assert model.config.vision_config.num_channels == channels


def test_images_of_three_channels_need_no_note(tmp_path):
    _, summary = convert(content_of("d2v2_image_base"), tmp_path)
    assert not any("channels" in note for note in summary.notes)


def test_a_text_classifier(tmp_path):
    out, summary = convert(text_classifier("d2v2_text_base")[0], tmp_path, "--verify", "--dtype", "bfloat16")
    model = AutoModelForSequenceClassification.from_pretrained(out)
    assert model.dtype == torch.bfloat16 and summary.task == "text classification"


def test_the_encoder_of_the_teacher(tmp_path):
    out, _ = convert(content_of("d2v2_image_base"), tmp_path, "--encoder_only", "--weights", "teacher", "--verify")
    model, expected = (
        AutoModel.from_pretrained(out),
        load_reference("d2v2_image_base").model().trained_encoder("teacher"),
    )
    assert all(torch.equal(model.get_parameter(name), value) for name, value in expected.named_parameters())


def test_pretraining_goes_on_from_a_converted_model(tmp_path):
    """Its first loss under the recorded mask is the recorded one; the program itself draws masks of its own."""
    out, _ = convert(content_of("d2v2_audio_base"), tmp_path)
    options = [f"output_dir={tmp_path / 'run'}", f"init_from={out}", "model=null", "cpu=true"]
    changed = ["model.audio_config.mask_noise_std=0.0", "model.fairseq_compatible_padding=true"]
    loaded = load_options(ROOT / "recipes/d2v_train/configs/tiny_audio.yaml", [*options, *changed])
    model = build_model(loaded, build_config(loaded)).eval()
    reference = load_reference("d2v2_audio_base")
    with torch.no_grad():
        loss = model(**reference.batch()).loss.item()
    recorded = reference.tensors["out.AUDIO_regression.loss_sum"].item() / reference.num_items
    assert loss == pytest.approx(recorded, rel=1e-5)
    short = ["max_steps=2", "logging.every=1", "audio.transform.crop_seconds=[0.2,0.4]", "audio.dataset.max_samples=8"]
    pretrain([str(ROOT / "recipes/d2v_train/configs/tiny_audio.yaml"), *options, *short])
    assert read_log(tmp_path / "run" / "log.jsonl")[-1]["step"] == 2
    assert AutoModel.from_pretrained(tmp_path / "run" / "final").config.hidden_size == 36


class Touch:
    """Pickled as a call that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def refused(tmp_path, source, *options, match):
    """The program ends with one paragraph, and writes nothing."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((ValueError, OSError), match=match):
        run_program([str(source), str(tmp_path / "out"), *options])
    assert sorted(tmp_path.rglob("*")) == before


def test_malicious_files_run_nothing(tmp_path):
    canary = tmp_path / "canary"
    content = content_of("d2v2_text_base") | {"extra_state": Touch(canary)}
    refused(tmp_path, write(content, tmp_path / "source.pt"), match=r"posix\.system")
    assert not canary.exists()


def test_broken_and_other_files(tmp_path):
    whole = write(content_of("d2v2_text_base"), tmp_path / "source.pt")
    whole.write_bytes(whole.read_bytes()[:5000])
    refused(tmp_path, whole, match="damaged")
    content = {"model": {"quantizer.vars": torch.ones(2)}, "cfg": {"model": {"_name": "wav2vec2"}}}
    refused(tmp_path, write(content, whole), match=r"wav2vec 2\.0.*data2vec")
    refused(tmp_path, tmp_path / "nothing.pt", match="checkpoint")


def test_what_is_found_out_late_leaves_nothing_either(tmp_path, monkeypatch):
    content = content_of("d2v2_text_base")
    content["model"] = {**content["model"], "blocks.0.norm1.weight": torch.full((32,), float("nan"))}
    source = write(content, tmp_path / "source.pt")
    refused(tmp_path, source, match="infinite")
    refused(tmp_path, source, "--allow_nonfinite", "--dict", str(tmp_path / "no.txt"), match="There is no file")
    assert (
        run_program([str(source), str(tmp_path / "out"), "--allow_nonfinite", "--verify"])
        .notes[-1]
        .startswith("verified")
    )


def test_folders_are_replaced_only_when_told(tmp_path):
    out, _ = convert(content_of("d2v2_text_base"), tmp_path)
    (out / "mine.txt").write_text("mine")
    source = tmp_path / "source.pt"
    refused(tmp_path, source, match="exists.*--overwrite")
    # A conversion that fails leaves the old folder as it was.
    refused(tmp_path, source, "--overwrite", "--dict", str(tmp_path / "no.txt"), match="There is no file")
    run_program([str(source), str(out), "--overwrite"])
    assert not (out / "mine.txt").exists()
    (out / "config.json").unlink()
    refused(tmp_path, source, "--overwrite", match="folder")


@pytest.mark.parametrize("option", ["source", "--settings"])
def test_a_folder_is_not_replaced_with_its_source_in_it(option, tmp_path):
    out, _ = convert(content_of("d2v2_text_base"), tmp_path)
    source, settings = tmp_path / "source.pt", tmp_path / "cfg.json"
    settings.write_text(json.dumps(content_of("d2v2_text_base")["cfg"]))
    if option == "source":
        source = source.rename(out / "source.pt")
    else:
        settings = settings.rename(out / "cfg.json")
    refused(tmp_path, source, "--overwrite", "--settings", str(settings), match="replaced")


def test_a_folder_that_cannot_take_the_place_leaves_the_old_one(tmp_path, monkeypatch):
    out, _ = convert(content_of("d2v2_text_base"), tmp_path)
    (out / "mine.txt").write_text("mine")
    rename = Path.rename

    def interrupted(path, target):
        if path.name.endswith(".draft"):
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_program([str(tmp_path / "source.pt"), str(out), "--overwrite"])
    assert (out / "mine.txt").exists() and not list(tmp_path.glob(".*"))


def test_the_program_ends_in_one_sentence_and_leaves_nothing(tmp_path):
    """A bad file, an interruption, an end and a full disk, one after the other in a process that may take signals."""
    write(content_of("d2v2_text_base"), tmp_path / "source.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT / "recipes")!r})
import clone
from safetensors import SafetensorError
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
from d2v_train.programs.convert import main
from modeling_d2v.conversion.fairseq.convert import Converted

def full():
    raise SafetensorError("No space left on device")

def run(source):
    print(main([source, "out"]), sorted(os.listdir()))

save = Converted.save
run("empty.pt")
for happen in (lambda: os.kill(os.getpid(), signal.SIGINT), lambda: os.kill(os.getpid(), signal.SIGTERM), full):
    Converted.save = lambda *args, **options: (save(*args, **options), happen())
    run("source.pt")
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    bad, *others = done.stdout.splitlines()
    assert re.fullmatch(r"d2v convert: .*empty.* \['empty.pt', 'source.pt'\]", bad)
    assert others == [
        "d2v convert: interrupted. Nothing was written. ['empty.pt', 'source.pt']",
        "d2v convert: interrupted. Nothing was written. ['empty.pt', 'source.pt']",
        "d2v convert: No space left on device ['empty.pt', 'source.pt']",
    ]


def test_verification_can_fail(tmp_path, monkeypatch):
    source, save = write(content_of("d2v2_text_base"), tmp_path / "source.pt"), Converted.save

    def spoil(converted, folder, *args, **options):
        save(converted, folder, *args, **options)
        with open(folder / WEIGHTS_NAME, "r+b") as file:
            file.seek(-12, os.SEEK_END)  # before the count of updates
            file.write(b"\0\0\0\0")

    monkeypatch.setattr(Converted, "save", spoil)
    refused(tmp_path, source, "--verify", match=r"differs from the source in data2vec\.\S+\.$")


def tiny_ctc(folder):
    """A speech recogniser of transformers with its tokenizer and feature extractor."""
    config = transformers.Data2VecAudioConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, conv_dim=[8] * 7,
        num_conv_pos_embedding_groups=4, conv_pos_kernel_size=5, vocab_size=6, pad_token_id=0,
    )  # fmt: skip
    model = transformers.Data2VecAudioForCTC(config).eval()
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text('{"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "E": 5}')
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), pad_token="<pad>", word_delimiter_token="|").save_pretrained(
        folder
    )
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder)
    return model


def test_a_model_of_transformers(tmp_path):
    model = tiny_ctc(tmp_path / "theirs")
    out = tmp_path / "out"
    summary = run_program([str(tmp_path / "theirs"), str(out), "--verify"])
    assert (summary.kind, summary.architecture) == ("transformers data2vec-audio", "Data2VecForCTC")
    processor = AutoProcessor.from_pretrained(out)
    inputs = processor(audio=[torch.randn(4000).numpy()], sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        logits = AutoModelForCTC.from_pretrained(out)(**inputs).logits
        assert relative_error(logits, model(**inputs).logits) < 1e-5
    assert processor.tokenizer("E").input_ids == [5]
    summary = run_program([str(tmp_path / "theirs"), str(out), "--encoder_only", "--overwrite"])
    assert summary.architecture == "Data2VecModel"
    assert {(entry.name, entry.reason) for entry in summary.unused} == {
        ("lm_head.weight", "belongs to the head"),
        ("lm_head.bias", "belongs to the head"),
    }


def test_the_licence_of_a_model_of_transformers_is_kept(tmp_path):
    theirs, out = tmp_path / "theirs", tmp_path / "out"
    tiny_ctc(theirs)
    (theirs / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    refused(tmp_path, theirs, "--license", "mit", match="commercial")
    summary = run_program([str(theirs), str(out)])
    assert summary.license == read_license(out) == "cc-by-nc-4.0"
    card = (out / "README.md").read_text()
    assert "Converted from `theirs`, a model of transformers data2vec-audio." in card
    assert "fine-tuned" not in card and "reference implementation" not in card
    (theirs / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert run_program([str(theirs), str(out), "--overwrite"]).license == "apache-2.0"


def test_other_models_of_transformers(tmp_path):
    transformers.BertConfig().save_pretrained(tmp_path / "theirs")
    refused(tmp_path, tmp_path / "theirs", match="'bert'")


def test_weights_of_transformers_are_read_safely(tmp_path):
    tiny_ctc(tmp_path / "theirs")
    weights, canary = tmp_path / "theirs" / "model.safetensors", tmp_path / "canary"
    weights.write_bytes(weights.read_bytes()[:-5])
    refused(tmp_path, tmp_path / "theirs", match="safetensors")
    weights.unlink()
    torch.save({"a": Touch(canary)}, tmp_path / "theirs" / "pytorch_model.bin")
    refused(tmp_path, tmp_path / "theirs", match=r"posix\.system")
    assert not canary.exists()


def test_settings_come_from_a_file(tmp_path):
    content = content_of("d2v2_text_base")
    (tmp_path / "cfg.json").write_text(json.dumps(content.pop("cfg")))
    source = write(content, tmp_path / "source.pt")
    refused(tmp_path, source, match="settings")
    run_program([str(source), str(tmp_path / "out"), "--settings", str(tmp_path / "cfg.json")])
    for text in ("{", "[1]"):
        (tmp_path / "cfg.json").write_text(text)
        with pytest.raises(ValueError, match="--settings"):
            run_program([str(source), str(tmp_path / "other"), "--settings", str(tmp_path / "cfg.json")])


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("source.pt", ["--architecture", "Data2VecTextModel"]),
        (".", ["--weights", "teacher"]),
        (".", ["--dict", "dict.txt", "--bpe", "encoder.json", "vocab.bpe"]),
        (".", ["--to", "transformers", "--encoder_only"]),
    ],
)
def test_options_are_not_ignored_in_silence(source, options, tmp_path):
    refused(tmp_path, tmp_path / source, *options, match="change nothing")


def test_files_folders_and_names_on_the_hub_are_told_apart(tmp_path):
    assert all(map(is_transformers, (str(tmp_path), "facebook/data2vec-text-base", "me/speech-1.0")))
    assert not any(map(is_transformers, ("nothing.pt", "models/nothing.pth", "./models/base", "a/b/c", "/a/b")))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path):
    """A checkpoint of 300 MB is converted with less than 1.3 times that, beside what importing the libraries takes."""
    content = content_of("d2v1_text_base")
    for state in (content["model"], content["model"]["encoder._ema"]):
        for key in [key for key in state if key.endswith("embed_tokens.weight")]:
            state[key] = torch.randn(1_200_000, 32)
    source = write(content, tmp_path / "source.pt")
    size = source.stat().st_size
    code = (
        "import resource\n"
        "from d2v_train.programs.convert import run_program\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"run_program([{str(source)!r}, {str(tmp_path / 'out')!r}])\n"
        "print('peak', (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    peak = int(done.stdout.split()[-1])
    assert size > 300e6 and peak < 1.3 * size, f"{peak / size:.2f} times the file"


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_every_shared_checkpoint_through_the_command_line(name, shared_dir, tmp_path):
    source = shared_dir / "reference" / "fairseq" / f"{name}.pt"
    command = [sys.executable, "recipes/convert.py", source, tmp_path / "out", "--verify"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "verified:" in done.stdout
    reference = load_reference(name)
    inputs = {key: value for key, value in reference.batch().items() if key != "mask"}
    model = AutoModel.from_pretrained(tmp_path / "out", fairseq_compatible_padding=True)
    expected = reference.tensors["out.features.x"]
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state[:, -expected.shape[1] :]
    assert relative_error(hidden, expected) < 1e-5


def test_weights_alone_are_converted_by_their_kind(tmp_path, capsys):
    state = content_of("d2v1_image_base")["model"]
    with pytest.raises(ValueError, match="no settings"):
        convert(state, tmp_path)
    out, summary = convert(state, tmp_path, "--kind", "fairseq-v1-vision", "--verify")
    assert any(note.startswith("The file has no settings") for note in summary.notes)
    assert AutoModel.from_pretrained(out).config.num_attention_heads == 4
    with pytest.raises(SystemExit):
        convert(state, tmp_path, "--kind", "v1")
    assert "fairseq-v1-vision" in capsys.readouterr().err


def test_what_the_tensors_say_against_the_settings_is_said(tmp_path):
    content = copy.deepcopy(content_of("d2v1_image_base"))
    content["cfg"]["model"] |= {"mlp_ratio": 2, "num_heads": 8}
    _, summary = convert(content, tmp_path, "--verify")
    assert any(note.startswith("mlp_ratio=2") for note in summary.notes)
    assert any(note.startswith("num_heads=8: the tensors have 4") for note in summary.notes)
