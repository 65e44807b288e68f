"""Encoders of transformers fine-tune with the four programs, and the result needs no code of this package."""

import json
import re

import numpy as np
import pytest
import soundfile
import torch
from backbone_factory import encoder
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoProcessor,
    BertTokenizer,
    ViTImageProcessor,
    Wav2Vec2FeatureExtractor,
    pipeline,
)

from d2v_train.finetuning.arguments import ModelArguments
from d2v_train.finetuning.models import load_config
from d2v_train.finetuning.plain_models import PlainConfig, load_plain_model, plain_layer_scale, plain_loss
from d2v_train.inputs.tokenizer import build_tokenizer
from d2v_train.programs import (
    finetune_audio_classification,
    finetune_ctc,
    finetune_glue,
    finetune_image_classification,
)


SHORT = "--do_train --do_eval --max_steps 3 --per_device_train_batch_size 4 --use_cpu --disable_tqdm true"
SPANS = "--mask_time_length 2 --mask_feature_length 2 --gradient_accumulation_steps 1"
WORDS = ["good", "bad"]


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.csv"
    rows = [f"a {WORDS[i % 2]} film {i},{WORDS[i % 2]}" for i in range(24)]
    path.write_text("\n".join(["text,label", *rows]))
    return path


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(20):
        folder = tmp_path / "images" / WORDS[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 100, (40, 40, 3)) + 120 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "images"


@pytest.fixture
def recordings(tmp_path):
    """Tones of two classes, with transcripts."""
    lines = []
    for number in range(16):
        word = WORDS[number % 2]
        (tmp_path / "sound" / word).mkdir(parents=True, exist_ok=True)
        tone = np.sin(np.arange(9600 + 200 * number) / (5 + 20 * (number % 2)))
        soundfile.write(tmp_path / "sound" / word / f"{number}.wav", tone, 16000)
        lines.append(json.dumps({"file_name": f"{word}/{number}.wav", "text": word, "label": word}))
    (tmp_path / "sound" / "metadata.jsonl").write_text("\n".join(lines))
    return tmp_path / "sound"


def saved(tmp_path, kind, processor=None, **overrides):
    folder = tmp_path / kind
    encoder(kind, **overrides).save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return folder


def check_plain(run):
    """The folder of a run holds no code of this package and names no class of it."""
    files = {path.name for path in run.iterdir()}
    assert not [name for name in files if name.endswith(".py")] and "auto_map" not in (run / "config.json").read_text()
    card = (run / "README.md").read_text()
    assert "modeling_d2v" not in card and "## Data" in card and "pipeline(" in card


def test_texts_with_roberta(tmp_path, texts):
    tokenizer = build_tokenizer(["a good film", "a bad film"] * 10, 300)
    source = saved(tmp_path, "roberta", tokenizer, vocab_size=len(tokenizer), type_vocab_size=1)
    run = tmp_path / "run"
    words = f"--model_name_or_path {source} --train_file {texts} --output_dir {run} {SHORT} --layer_decay 0.8"
    found = finetune_glue.run_program(words.split())
    assert 0 <= found["eval_accuracy"] <= 1
    check_plain(run)
    config = AutoConfig.from_pretrained(run)
    assert config.architectures == ["RobertaForSequenceClassification"] and config.label2id == {"bad": 0, "good": 1}
    assert config.hidden_dropout_prob == encoder("roberta").config.hidden_dropout_prob
    assert pipeline("text-classification", str(run))("a good film")[0]["label"] in WORDS
    model = AutoModelForSequenceClassification.from_pretrained(run)
    before = AutoModel.from_pretrained(source).state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in model.roberta.state_dict().items())
    # The same command trains nothing more, and a result is a checkpoint to evaluate.
    assert finetune_glue.run_program(words.split())["train_loss"] == pytest.approx(found["train_loss"])
    again = (
        f"--model_name_or_path {run} --validation_file {texts} --output_dir {tmp_path / 'more'} --do_eval --use_cpu"
    )
    assert "eval_accuracy" in finetune_glue.run_program(again.split())


def test_scores_of_texts_with_bert(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("\n".join(["text,label", *(f"{WORDS[i % 2]} film,{4.25 + i % 2}" for i in range(24))]))
    vocabulary = {name: i for i, name in enumerate("[PAD] [UNK] [CLS] [SEP] [MASK] good bad film".split())}
    source = saved(tmp_path, "bert", BertTokenizer(vocab=vocabulary), pad_token_id=0)
    run = tmp_path / "run"
    finetune_glue.run_program(
        f"--model_name_or_path {source} --train_file {path} --output_dir {run} {SHORT} --learning_rate 1e-7".split()
    )
    model = AutoModelForSequenceClassification.from_pretrained(run)
    assert model.classifier.bias.item() == pytest.approx(4.75, abs=0.3)  # starts at the mean of the scores


@pytest.mark.parametrize("kind", ["vit", "beit"])
def test_images(tmp_path, images, kind):
    """With mixup and soft labels, which the loss of transformers would refuse or read as flags."""
    processor = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.4] * 3, image_std=[0.3] * 3)
    source = saved(tmp_path, kind, processor)
    run = tmp_path / "run"
    found = finetune_image_classification.run_program(
        f"--model_name_or_path {source} --dataset_name {images} --output_dir {run} {SHORT}".split()
    )
    assert 0 <= found["eval_accuracy"] <= 1
    check_plain(run)
    config = AutoConfig.from_pretrained(run)
    assert config.problem_type == "single_label_classification" and config.hidden_dropout_prob == 0
    kept = json.loads((run / "preprocessor_config.json").read_text())
    assert kept["image_processor_type"].startswith("ViTImageProcessor") and kept["image_mean"] == [0.4] * 3
    picture = str(next(images.rglob("*.png")))
    assert {entry["label"] for entry in pipeline("image-classification", str(run))(picture)} == set(WORDS)


def test_an_encoder_without_an_image_processor_gets_one_for_its_size(tmp_path, images):
    source, run = saved(tmp_path, "vit"), tmp_path / "run"
    words = f"--model_name_or_path {source} --dataset_name {images} --output_dir {run} {SHORT}"
    with pytest.raises(ValueError, match="--image_size is 64.*positions for 32 pixels"):
        finetune_image_classification.run_program([*words.split(), "--image_size", "64"])
    finetune_image_classification.run_program(words.split())
    processor = AutoProcessor.from_pretrained(run)
    pixels = processor(Image.new("L", (50, 90)), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 32, 32)
    assert AutoModelForImageClassification.from_pretrained(run)(pixels).logits.shape == (1, 2)


@pytest.mark.parametrize("kind", ["wav2vec2", "data2vec-audio"])
def test_speech_recognition(tmp_path, recordings, kind):
    source = saved(tmp_path, kind, Wav2Vec2FeatureExtractor(do_normalize=True))
    run = tmp_path / "run"
    words = f"--dataset_name {recordings} {SHORT} {SPANS} --model_name_or_path"
    found = finetune_ctc.run_program([*words.split(), str(source), "--output_dir", str(run)])
    assert found["eval_wer"] >= 0 and np.isfinite(found["eval_loss"])
    check_plain(run)
    config = AutoConfig.from_pretrained(run)
    assert config.architectures[0].endswith("ForCTC") and config.ctc_loss_reduction == "mean"
    processor = AutoProcessor.from_pretrained(run)
    assert type(processor).__name__ == "Wav2Vec2Processor"
    assert config.vocab_size == len(processor.tokenizer) and config.pad_token_id == processor.tokenizer.pad_token_id
    sound = soundfile.read(next(recordings.rglob("*.wav")))[0].astype(np.float32)
    assert isinstance(pipeline("automatic-speech-recognition", str(run))(sound)["text"], str)
    # A result brings its vocabulary.
    finetune_ctc.run_program([*words.split(), str(run), "--output_dir", str(tmp_path / "more")])
    assert AutoConfig.from_pretrained(tmp_path / "more").vocab_size == config.vocab_size


def test_classes_of_recordings(tmp_path, recordings):
    source = saved(tmp_path, "hubert", Wav2Vec2FeatureExtractor(do_normalize=False))
    run = tmp_path / "run"
    found = finetune_audio_classification.run_program(
        f"--model_name_or_path {source} --dataset_name {recordings} --output_dir {run} {SHORT} --mask_time_length 2 "
        "--label_smoothing_factor 0.1".split()
    )
    assert 0 <= found["eval_accuracy"] <= 1
    check_plain(run)
    assert json.loads((run / "preprocessor_config.json").read_text())["do_normalize"] is False
    sound = soundfile.read(next(recordings.rglob("*.wav")))[0].astype(np.float32)
    assert {entry["label"] for entry in pipeline("audio-classification", str(run))(sound)} == set(WORDS)


def test_what_does_not_fit_is_a_sentence(tmp_path, texts, images):
    source = saved(tmp_path, "vit")
    words = f"--model_name_or_path {source} --output_dir {tmp_path / 'run'} {SHORT}"
    with pytest.raises(ValueError, match="'text'.*it takes vision"):
        finetune_glue.run_program(f"{words} --train_file {texts}".split())
    with pytest.raises(ValueError, match="--push_to_hub publishes models of this package"):
        finetune_image_classification.run_program(f"{words} --dataset_name {images} --push_to_hub".split())
    vision = saved(tmp_path, "clip_vision_model")
    with pytest.raises(ValueError, match="no AutoModelForImageClassification for.*'clip_vision_model'"):
        finetune_image_classification.run_program(
            f"--model_name_or_path {vision} --dataset_name {images} --output_dir {tmp_path / 'run'} {SHORT}".split()
        )


def test_settings_have_the_names_of_transformers(tmp_path, caplog):
    config = load_config(
        ModelArguments(model_name_or_path=str(saved(tmp_path, "roberta"))),
        hidden_dropout=0.3,
        attention_dropout=0.2,
        mlp_dropout=0.3,
        id2label={0: "a", 1: "b", 2: "c"},
    )
    assert isinstance(config, PlainConfig) and config.modalities == ["text"] and config.num_labels == 3
    assert (config.plain.hidden_dropout_prob, config.plain.attention_probs_dropout_prob) == (0.3, 0.2)
    assert config.text_config.max_position_embeddings == 40 and config.vision_config is None
    with caplog.at_level("INFO"):
        config.override({"drop_path_rate": 0.1, "hidden_dropout": None})
    assert "RobertaConfig has no drop_path_rate" in caplog.text and config.plain.hidden_dropout_prob == 0.3


@pytest.mark.parametrize(
    "kind, auto, low, high",
    [
        (
            "roberta",
            AutoModelForSequenceClassification,
            "embeddings.word_embeddings",
            "classifier.dense",
        ),
        (
            "wav2vec2",
            AutoModelForAudioClassification,
            "feature_extractor.conv_layers.0.conv",
            "projector",
        ),
        ("vit", AutoModelForImageClassification, "embeddings.patch_embeddings.projection", "classifier"),
    ],
)
def test_layers_have_their_distance_from_the_head(kind, auto, low, high):
    model = load_plain_model(auto, None, PlainConfig(encoder(kind).config, "x"))
    scales = {name: plain_layer_scale(name, model, 0.5) for name, _ in model.named_parameters()}
    assert scales[f"{model.base_model_prefix}.{low}.weight"] == 0.5**4 and scales[f"{high}.weight"] == 1
    for number in range(3):
        inside = {scale for name, scale in scales.items() if re.search(rf"(?<!conv_)layers?\.{number}\.", name)}
        assert inside == {0.5 ** (3 - number)}


def test_the_loss_takes_soft_labels():
    config = PlainConfig(encoder("vit").config, "x")
    config.override({"id2label": {0: "a", 1: "b"}, "problem_type": "single_label_classification"})
    logits = torch.randn(3, 2)
    soft = torch.tensor([[1.0, 0.0], [0.3, 0.7], [0.0, 1.0]])
    expected = torch.nn.functional.cross_entropy(logits, soft)
    assert torch.allclose(plain_loss(config)({"logits": logits}, soft), expected)
