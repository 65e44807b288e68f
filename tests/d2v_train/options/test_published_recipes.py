"""Configurations of published models: complete, as they were published, of the size that they had, able to run."""

import math
import re
from pathlib import Path

import pytest
import torch

from d2v_train.health.advice import advice_at_start
from d2v_train.measuring.flops import BatchShape, StepFlops
from d2v_train.models.build import build_config
from d2v_train.options.files import find_config, load_options, pretraining_configs
from d2v_train.pretraining.scaling import scale_batch
from d2v_train.programs.smoke import parameters
from modeling_d2v import Data2VecConfig, Data2VecForPreTraining
from modeling_d2v.presets import preset_names


# name: preset, devices, what each took, steps, warm-up, learning rate, weight decay, betas, clipping, millions of
# parameters of the encoder (width, blocks and front end decide them)
PUBLISHED = {
    "audio_base_ls960": ("audio-base", 8, 1_000_000, 400_000, 8_000, 7.5e-4, 0.01, [0.9, 0.98], 0, 93.2),
    "audio_large_librilight": ("audio-large", 48, 320_000, 600_000, 10_000, 4e-4, 0.01, [0.9, 0.98], 1, 313.3),
    "audio_spectrogram_base": ("audio-spectrogram-base", 4, 12, 400_000, 53_333, 5e-4, 0.05, [0.9, 0.95], 4, 85.3),
    "audio_spectrogram_large": ("audio-spectrogram-large", 4, 12, 400_000, 53_333, 4e-4, 0.05, [0.9, 0.95], 4, 302.6),
    "vision_base_imagenet1k": ("vision-base", 16, 16, 375_300, 50_040, 1e-3, 0.05, [0.9, 0.95], 4, 85.7),
    "vision_large_imagenet1k": ("vision-large", 64, 8, 375_300, 50_040, 4e-4, 0.05, [0.9, 0.95], 4, 303.1),
    "vision_huge_imagenet1k": ("vision-huge", 32, 8, 500_000, 50_040, 4e-4, 0.05, [0.9, 0.95], 4, 630.4),
    "text_base": ("text-base", 16, 4, 1_000_000, 4_000, 2e-4, 0.01, [0.9, 0.98], 1, 124.1),
    "text_large": ("text-large", 32, 2, 600_000, 4_000, 1e-4, 0.01, [0.9, 0.98], 1, 354.3),
    "audio_base_ls960_v1": ("audio-base-v1", 16, 3_800_000, 400_000, 12_000, 5e-4, 0.01, [0.9, 0.98], 0, 93.2),
    "audio_large_librilight_v1": ("audio-large-v1", 16, 3_800_000, 400_000, 12_000, 5e-4, 0.01, [0.9, 0.98], 0, 313.3),
    "vision_base_imagenet1k_v1": ("vision-base-v1", 16, 128, 500_000, 6_250, 2e-3, 0.05, [0.9, 0.999], 3, 85.7),
    "vision_large_imagenet1k_v1": ("vision-large-v1", 64, 64, 249_600, 24_960, 1e-3, 0.05, [0.9, 0.999], 3, 303.2),
    "text_base_v1": ("text-base-v1", 16, 16, 1_000_000, 10_000, 2e-4, 0.01, [0.9, 0.98], 5, 124.1),
}
SHORTENED = {
    "audio_base_1gpu": "audio_base_ls960",
    "vision_base_1gpu": "vision_base_imagenet1k",
    "text_base_1gpu": "text_base",
}
IMAGES = 1_281_167
"""Of ImageNet-1K's training set."""


def test_every_published_model_has_its_configuration_and_every_configuration_is_tested():
    assert sorted(row[0] for row in PUBLISHED.values()) == sorted(preset_names())
    names = {path.stem for path in pretraining_configs() if not path.stem.startswith(("tiny_", "joint_"))}
    assert names == {*PUBLISHED, *SHORTENED}


@pytest.mark.parametrize("name", PUBLISHED)
def test_optimizer_schedule_and_batch_are_the_published_ones(name):
    preset, devices, each, steps, warmup, rate, decay, betas, clip, _ = PUBLISHED[name]
    options = load_options(name)
    optim, (modality,) = options.optim, options.modalities
    assert options.model["preset"] == preset and modality == preset.split("-")[0]
    assert (options.max_steps, options.schedule_steps, options.warmup_steps) == (steps, steps, warmup)
    assert (optim.lr, optim.weight_decay, optim.betas, optim.max_grad_norm) == (rate, decay, betas, clip)
    patches = build_config(options).modality_config(modality).traits.geometry == "grid"
    assert optim.eps == (1e-8 if patches else 1e-6)
    # The optimizer with groups came with 2.0, and its base model of speech does not use it yet.
    assert optim.decay_all == (preset in ("audio-base", "audio-base-v1", "audio-large-v1", "text-base-v1"))
    section = getattr(options, modality)
    if modality == "audio" and not patches:
        assert section.batch_tokens == devices * each // 320 and section.batch_size is None
        assert section.micro_batch_tokens == each // 320 and section.transform["crop_seconds"] == 20
    else:
        assert section.batch_size == devices * each and section.micro_batch_size == each
    assert options.batch_scale == 1 and options.mixed_precision == "bf16"
    # What the configuration spells out of the model, for its reader, is what the preset says.
    assert build_config(options).to_dict() == Data2VecConfig.preset(preset).to_dict()


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_full_model_has_the_published_size(name):
    preset, *_, millions = PUBLISHED[name]
    config = build_config(load_options(name))
    with torch.device("meta"):
        model = Data2VecForPreTraining(config)
    encoder = sum(parameter.numel() for parameter in model.data2vec.parameters())
    assert encoder / 1e6 == pytest.approx(millions, abs=0.1)
    mine = config.modality_config(config.modalities[0])
    wide = "large" in preset or "huge" in preset
    assert config.num_hidden_layers + mine.prenet_depth == (32 if "huge" in preset else 24 if wide else 12)
    assert parameters(config) > encoder


@pytest.mark.parametrize(
    "name, epochs, warm",
    [
        ("vision_base_imagenet1k", 75, 10),
        ("vision_large_imagenet1k", 150, 20),
        ("vision_huge_imagenet1k", 100, 10),
        ("vision_base_imagenet1k_v1", 800, 10),
        ("vision_large_imagenet1k_v1", 800, 80),
        ("vision_base_1gpu", 15, 2),
    ],
)
def test_images_are_seen_a_whole_number_of_times(name, epochs, warm):
    options = load_options(name)
    # The published epochs leave out the images that fill no batch.
    assert f"{epochs} epochs" in find_config(name).read_text().splitlines()[0]
    assert options.max_steps * options.vision.batch_size / IMAGES == pytest.approx(epochs, rel=3e-3)
    assert options.warmup_steps * options.vision.batch_size / IMAGES == pytest.approx(warm, rel=3e-3)
    assert options.vision.transform["flip"] and options.vision.transform["crop_scale"][1] == 1


def test_the_joint_run_of_base_size_has_the_published_objectives_and_batches():
    joint = load_options("joint_base")
    config = build_config(joint)
    assert joint.modalities == config.modalities == ["text", "vision", "audio"]
    for name, single in (("text", "text_base"), ("vision", "vision_base_imagenet1k"), ("audio", "audio_base_ls960")):
        own, published = getattr(joint, name), getattr(load_options(single), name)
        assert (own.batch_size, own.batch_tokens) == (published.batch_size, published.batch_tokens)
        assert own.transform == published.transform and own.split == published.split
        ours = config.modality_config(name).to_dict()
        theirs = Data2VecConfig.preset(f"{name}-base").modality_config(name).to_dict()
        different = {field for field, value in theirs.items() if ours[field] != value}
        assert different <= {"prenet_depth", "average_top_k_layers"}
        assert ours["prenet_depth"] + config.num_hidden_layers == 12
    with torch.device("meta"):
        model = Data2VecForPreTraining(config)
    shared = sum(parameter.numel() for parameter in model.data2vec.encoder.shared_parameters().values())
    assert shared / 1e6 == pytest.approx(70.9, abs=0.1)


def test_speech_of_1_0_learns_in_three_stages():
    options = load_options("audio_base_ls960_v1")
    assert (options.warmup_steps, options.hold_steps) == (12_000, 360_000)
    assert options.optim.curve == "exponential" and options.optim.min_lr == pytest.approx(0.01 * options.optim.lr)


@pytest.mark.parametrize("name, whole", SHORTENED.items())
def test_runs_for_one_gpu_are_published_ones_in_short(name, whole):
    short, full = load_options(name), load_options(whole)
    share = short.max_steps / full.max_steps
    (modality,) = short.modalities
    assert 0.05 < share <= 0.25 and short.batch_scale == 0.25
    assert short.model["ema_end_decay"] == pytest.approx(1 - (1 - full.model["ema_end_decay"]) / share)
    assert short.model["ema_anneal_end_step"] == pytest.approx(full.model["ema_anneal_end_step"] * share)
    # Text is published with a warm-up of 0.4 %, hardly any of a short run.
    warmup = 1000 if modality == "text" else full.optim.warmup * share
    assert short.optim.warmup == pytest.approx(warmup, rel=0.01)
    trained = scale_batch(short)
    before, after = getattr(full, modality), getattr(trained, modality)
    assert (after.batch_tokens or after.batch_size) == (before.batch_tokens or before.batch_size) / 4
    assert trained.max_steps == 4 * short.max_steps and trained.optim.lr == full.optim.lr / 2
    assert trained.model["ema_decay"] == pytest.approx(short.model["ema_decay"] ** 0.25, abs=1e-12)


@pytest.mark.parametrize("name", [*PUBLISHED, *SHORTENED])
def test_the_work_that_a_configuration_states_is_that_of_its_steps(name):
    stated = float(re.search(r"^# Work: ([\d.]+) EFLOP", find_config(name).read_text(), re.M)[1])
    options = load_options(name)
    assert options.max_steps * work_of_a_step(options) / 1e18 == pytest.approx(stated, rel=0.02)


def work_of_a_step(options):
    """Of a batch of the configured size, all recordings as long as the crop."""
    config = build_config(options)
    (modality,) = options.modalities
    mine, section = config.modality_config(modality), getattr(options, modality)
    if modality == "audio":
        shape = (round(section.transform["crop_seconds"] * 16_000),)
    else:
        shape = (512,) if modality == "text" else (3, mine.image_size, mine.image_size)
    grid = mine.token_grid(shape) or (int(mine.num_tokens(shape[0])),)
    tokens = math.prod(grid)
    samples = section.batch_size or section.batch_tokens / tokens
    masked = round(tokens * mine.mask_prob)
    one = BatchShape(1, shape, grid, mine.num_masks, tokens - masked, masked * mine.num_masks)
    return samples * sum(StepFlops(config).parts(modality, one).values())


@pytest.mark.parametrize("name", [*PUBLISHED, *SHORTENED])
def test_the_advice_at_the_start_has_nothing_against_it(name):
    options = scale_batch(load_options(name))
    assert list(advice_at_start(options, build_config(options))) == []


@pytest.mark.parametrize("name", [*PUBLISHED, *SHORTENED])
def test_the_guide_lists_it(name):
    guide = (Path(__file__).resolve().parents[3] / "docs" / "pretraining.md").read_text()
    (line,) = [line for line in guide.splitlines() if line.startswith(f"| `{name}`")]
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    options = load_options(name)
    (modality,) = options.modalities
    section = getattr(options, modality)
    assert cells[1] == options.model["preset"] and cells[3] == f"{options.max_steps:,}"
    assert cells[2].split()[0] == f"{section.batch_tokens or section.batch_size:,}"
    assert cells[4] == re.search(r"^# Work: ([\d.]+) EFLOP", find_config(name).read_text(), re.M)[1]
