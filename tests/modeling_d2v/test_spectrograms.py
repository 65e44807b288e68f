"""The spectrogram front end: the energies of Kaldi, a grid of time and frequency, and nothing that padding changes."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from audio_factory import SIZES
from model_factory import (
    HIDE_PACKAGE,
    SPECTROGRAM,
    inputs_for,
    padded_inputs,
    randomise,
    relative_error,
    tiny_config,
)
from torch.nn import functional as F
from transformers import ASTFeatureExtractor

import modeling_d2v
from modeling_d2v import Data2VecConfig, Data2VecForPreTraining, Data2VecModel
from modeling_d2v.configuration_audio import WINDOWS, Data2VecAudioConfig
from modeling_d2v.conversion.hf.export import to_transformers
from modeling_d2v.modalities import MODALITIES
from modeling_d2v.positions import SinCosTimePositions, sincos_2d
from modeling_d2v.spectrograms import LogMel


VERSIONS = {
    "2.0": {},
    "2.0 pre-norm": {"norm_first": True},
    "1.0": {
        "masked_tokens": "replaced",
        "audio_config": {"num_masks": 1, "prenet_depth": 0, "mask_sampler": "block", "cls_loss_weight": 0.0},
    },
    "2-D ALiBi": {"audio_config": {"alibi": "learned", "num_extra_tokens": 0, "cls_loss_weight": 0.0}},
}
ROWS, BANDS = 9, 4  # of 6000 samples
HEADS = ("CTC", "AudioClassification", "AudioFrameClassification", "XVector")


def spectrogram_config(version: str = "2.0", **audio) -> Data2VecConfig:
    overrides = dict(VERSIONS[version])
    settings = SPECTROGRAM | overrides.pop("audio_config", {}) | audio
    return tiny_config("audio", audio_config=settings, **overrides)


def make(version: str = "2.0", **audio) -> Data2VecForPreTraining:
    model = randomise(Data2VecForPreTraining(spectrogram_config(version, **audio)))
    with torch.no_grad():
        for parameter in model.teacher.parameters():
            parameter.mul_(1.1)
    return model.eval()


# Energies


@pytest.mark.parametrize("bins", [128, 40])
def test_energies_are_those_of_the_extractor_of_transformers(bins):
    random = np.random.default_rng(0)
    waveform = (np.sin(np.arange(8000) ** 1.5 / 300) * 0.3 + random.normal(size=8000) * 0.01).astype(np.float32)
    extractor = ASTFeatureExtractor(num_mel_bins=bins, max_length=48, mean=-4.268, std=4.569)
    expected = extractor(waveform, sampling_rate=16000, return_tensors="pt")["input_values"]
    config = tiny_config("audio", audio_config=SPECTROGRAM | {"mel_bins": bins})
    energies = LogMel(config.audio_config)(torch.from_numpy(waveform)[None])
    assert energies.shape == expected.shape == (1, 48, bins)
    torch.testing.assert_close(energies, expected, rtol=0, atol=2e-4)


def test_silence_is_the_floor_and_energies_are_computed_in_float32():
    audio = spectrogram_config().audio_config
    log_mel = LogMel(audio)
    silence = (np.log(np.finfo(np.float32).eps) - audio.mel_mean) / (2 * audio.mel_std)
    torch.testing.assert_close(log_mel(torch.zeros(1, 900)), torch.full((1, 4, 32), silence), rtol=1e-5, atol=0)
    waveform = torch.randn(1, 6000) * 1e-3
    expected = log_mel(waveform)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(log_mel(waveform), expected)
    assert log_mel(waveform.bfloat16()).dtype == torch.float32


# Geometry


def test_bands_of_patches_lie_between_the_centres_of_their_filters():
    audio = make().config.audio_config
    edges = audio.band_edges
    assert len(edges) == audio.tokens_per_frame + 1 and edges == sorted(edges)
    highest = torch.argmax(LogMel(audio).filters, dim=1) * audio.sampling_rate / 512
    for band in range(audio.tokens_per_frame):
        own = highest[band * audio.patch_bins : (band + 1) * audio.patch_bins]
        # The filters know frequencies in steps of 31 Hz.
        assert own.min() > edges[band] - 32 and own.max() < edges[band + 1] + 32
    assert Data2VecAudioConfig().band_edges is None


@pytest.mark.parametrize("samples", [879, 880, 1519, 1520, 6000, 16000])
def test_tokens_follow_from_samples(samples):
    audio = spectrogram_config().audio_config
    frames = (samples - 400) // 160 + 1
    rows = frames // 4
    assert audio.token_grid((3, samples)) == (rows, BANDS)
    assert audio.num_frames(samples) == rows and audio.num_tokens(samples) == rows * BANDS
    assert audio.num_tokens(torch.tensor([samples, 0])).tolist() == [rows * BANDS, 0]
    assert (audio.frame_width, audio.frame_stride) == (880, 640)
    assert spectrogram_config().inputs_to_logits_ratio == 640
    if rows:
        model = Data2VecModel(spectrogram_config())
        assert model(input_values=torch.randn(1, samples)).last_hidden_state.shape[1] == 1 + rows * BANDS
    else:
        with pytest.raises(ValueError, match=f"has {samples} samples; one frame needs 880"):
            Data2VecModel(spectrogram_config())(input_values=torch.randn(1, samples))


def test_a_token_sees_its_own_samples_and_bands_alone():
    encoder = randomise(Data2VecModel(spectrogram_config())).eval().modality_encoders["audio"].local_encoder
    values = torch.randn(1, 6000)
    changed = values.clone()
    changed[:, 2 * 640 + 240 : 3 * 640] += 1.0  # samples that row 2 alone sees
    before, after = (encoder(x, None).features.unflatten(1, (ROWS, BANDS)) for x in (values, changed))
    moved = (before != after).any(dim=-1)[0]
    assert moved[2].all() and not moved[[0, 1, *range(3, ROWS)]].any()
    energies = torch.zeros(1, 1, 8, 32)
    energies[..., 8:16] = 1.0
    patches = encoder.projection(energies) - encoder.projection.bias[:, None, None]
    assert patches.shape[2:] == (2, BANDS)
    assert (patches.abs().sum(dim=(0, 1)) > 0).tolist() == [[False, True, False, False]] * 2


def test_positions_are_fixed_and_do_not_depend_on_the_length():
    positions = SinCosTimePositions(32, BANDS, rows=6)
    for rows in (3, 6, 11):
        torch.testing.assert_close(positions((rows, BANDS)), sincos_2d(32, (rows, BANDS)), rtol=0, atol=0)
    torch.testing.assert_close(positions((3, BANDS)), positions((11, BANDS))[: 3 * BANDS])
    real = torch.tensor([[0] * BANDS + [1] * 2 * BANDS]).bool()
    assert torch.equal(positions((3, BANDS), real)[0, BANDS:], positions((2, BANDS)))


@torch.no_grad()
@pytest.mark.parametrize("version", ["2.0", "1.0"])
def test_masks_are_blocks_on_the_grid(version):
    """What stays visible, or is masked, lies together: more neighbours than single patches would have."""
    model = make(version, mask_prob=0.5, mask_length=3, mask_prob_adjust=0.2)
    ids = torch.arange(60)
    mask = model(input_values=torch.randn(1, 12000).expand(60, -1), sample_ids=ids, step=1).mask
    assert mask.shape == (60, 1 if version == "1.0" else 3, 18 * BANDS)
    assert mask.sum(dim=-1).unique().tolist() == [18 * BANDS // 2]
    blocks = mask.flatten(0, 1).unflatten(1, (18, BANDS))
    blocks = blocks if version == "1.0" else ~blocks
    pairs = (blocks[:, 1:] & blocks[:, :-1]).sum() + (blocks[..., 1:] & blocks[..., :-1]).sum()
    sides = blocks[:, 1:].sum() + blocks[:, :-1].sum() + blocks[..., 1:].sum() + blocks[..., :-1].sum()
    assert 2 * pairs / sides > 0.65


# Padding


@torch.no_grad()
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_sample_has_the_same_features_alone_and_in_a_padded_batch(version, side):
    model = make(version).data2vec
    batch, alone = padded_inputs("audio")
    if side == "left":
        lengths = batch["attention_mask"].sum(1).tolist()
        batch = {
            name: torch.stack([row.roll((6000 - n) // 640 * 640) for row, n in zip(x, lengths, strict=True)])
            for name, x in batch.items()
        }
    out = model(**batch)
    extra = model.config.audio_config.num_extra_tokens
    for i, sample in enumerate(alone):
        expected = model(**sample)
        real = out.attention_mask[i].bool()
        assert (
            real.sum()
            == expected.last_hidden_state.shape[1]
            == extra + model.config.audio_config.num_tokens(sample["input_values"].shape[1])
        )
        assert relative_error(out.last_hidden_state[i, real], expected.last_hidden_state[0]) < 1e-5
        assert relative_error(out.pooler_output[i], expected.pooler_output[0]) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("version", VERSIONS)
def test_a_padded_batch_has_the_loss_of_its_samples_alone(version):
    model = make(version, cls_loss_weight=0.0)
    batch, alone = padded_inputs("audio")
    ids = torch.tensor([11, 5, 8])
    together = model(**batch, sample_ids=ids, step=3)
    outs = [model(**sample, sample_ids=ids[i : i + 1], step=3) for i, sample in enumerate(alone)]
    for i, out in enumerate(outs):
        assert torch.equal(together.mask[i, :, : out.mask.shape[2]], out.mask[0])
        assert not together.mask[i, :, out.mask.shape[2] :].any()
    assert relative_error(together.predictions, torch.cat([out.predictions for out in outs])) < 1e-5
    assert relative_error(together.targets, torch.cat([out.targets for out in outs])) < 1e-5
    total = sum(out.loss * out.num_items for out in outs) / together.num_items
    torch.testing.assert_close(together.loss, total, rtol=1e-5, atol=0)


@torch.no_grad()
def test_the_decoder_sees_the_neighbours_of_a_patch_in_time_and_frequency():
    """Its convolutions are two-dimensional: a visible patch reaches the patches around it, and no others."""
    decoder = make(decoder_layers=1).decoders["audio"]
    assert decoder.convs[0].weight.dim() == 4
    x = torch.zeros(1, ROWS, BANDS, 32)
    x[0, 4, 2] = 1.0
    reached = (decoder.convs[0](x) - decoder.convs[0](torch.zeros_like(x))).abs().sum(dim=-1)[0] > 0
    expected = torch.zeros(ROWS, BANDS, dtype=torch.bool)
    expected[3:6, 1:4] = True
    assert torch.equal(reached, expected)


@torch.no_grad()
def test_an_exported_program_takes_longer_and_padded_batches():
    """Traced with one length, run with another one, beyond the table of positions."""
    model = randomise(Data2VecModel(spectrogram_config())).eval()
    any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    traced = padded_inputs("audio")[0]
    program = torch.export.export(model, (), traced, dynamic_shapes=dict.fromkeys(traced, any_size)).module()
    values = torch.randn(2, 50000)
    real = torch.arange(50000) < torch.tensor([[50000], [9000]])
    longer = {"input_values": values * real, "attention_mask": real.long()}
    out, expected = program(**longer), model(**longer)
    assert out.attention_mask.shape == (2, 1 + model.config.audio_config.num_tokens(50000))
    torch.testing.assert_close(out.last_hidden_state, expected.last_hidden_state)


# Pretraining


@pytest.mark.parametrize("version", VERSIONS)
def test_every_student_parameter_learns(version):
    model = make(version).train()
    out = model(**padded_inputs("audio")[0])
    assert set(out.losses) == {"regression"} | ({"cls"} if version.startswith("2.0") else set())
    out.loss.backward()
    student = {name: p for name, p in model.named_parameters() if not name.startswith("teacher.")}
    assert {name for name, p in student.items() if p.grad is None or not p.grad.abs().sum() > 0} == set()


@torch.no_grad()
def test_masked_patches_are_invisible_to_the_student():
    """Other samples under masked rows change targets, never predictions."""
    model = make()
    mask = torch.zeros(2, 1, ROWS, BANDS, dtype=torch.bool)
    mask[:, :, 2:5] = True
    values = inputs_for("audio")["input_values"]
    changed = values.clone()
    changed[:, 2 * 640 + 240 : 5 * 640] = 3.0
    first, second = (model(input_values=x, mask=mask.flatten(2)) for x in (values, changed))
    torch.testing.assert_close(first.predictions, second.predictions)
    assert relative_error(first.targets, second.targets) > 1e-2


@pytest.mark.parametrize("version", ["2.0", "1.0"])
def test_the_loss_falls(version):
    torch.manual_seed(0)
    model = Data2VecForPreTraining(spectrogram_config(version, cls_loss_weight=0.0)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    time = torch.arange(6000) / 16000
    values = torch.stack([torch.sin(2 * np.pi * pitch * time * (1 + time)) for pitch in (300, 700, 1500, 3100)])
    losses = []
    for step in range(40):
        out = model(input_values=values, sample_ids=torch.arange(4), step=step)
        out.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.update_teacher()
        losses.append(out.loss.item())
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_the_clip_token_learns_the_mean_target():
    model = make(cls_loss_weight=1.0, cls_loss_rows=4)
    out = model(**inputs_for("audio"), return_dict=True)
    assert out.losses["cls"] > 0 and model.config.audio_config.num_extra_tokens == 1


# Heads


def head_of(name, **audio):
    config = tiny_config("audio", audio_config=SPECTROGRAM | SIZES | audio, num_labels=3)
    return randomise(getattr(modeling_d2v, f"Data2VecFor{name}")(config)).eval()


@torch.no_grad()
@pytest.mark.parametrize("head", HEADS)
def test_heads_read_one_vector_a_time_step(head):
    model = head_of(head)
    batch, alone = padded_inputs("audio")
    logits = model(**batch).logits
    assert (
        logits.shape
        == {
            "CTC": (3, ROWS, 12),
            "AudioClassification": (3, 3),
            "AudioFrameClassification": (3, ROWS, 3),
            "XVector": (3, 14),
        }[head]
    )
    for i, sample in enumerate(alone):
        expected = model(**sample).logits[0]
        rows = slice(0, len(expected)) if logits.dim() == 3 else slice(None)
        assert relative_error(logits[i, rows], expected) < 1e-5


@pytest.mark.parametrize("head", HEADS)
def test_heads_learn_with_hidden_spans_and_a_frozen_feature_encoder(head):
    model = head_of(head, mask_time_prob=0.5, mask_feature_prob=0.3).train()
    model.freeze_feature_encoder()
    labels = {
        "CTC": torch.tensor([[1, 2], [3, -100], [4, -100]]),
        "AudioFrameClassification": torch.zeros(3, ROWS, dtype=torch.long),
    }.get(head, torch.tensor([0, 1, 2]))
    model(**padded_inputs("audio")[0], labels=labels).loss.backward()
    local = model.data2vec.modality_encoders["audio"].local_encoder
    assert all(p.grad is None for p in local.parameters())
    assert model.data2vec.encoder.blocks[0].mlp.fc1.weight.grad.abs().sum() > 0


def test_hidden_spans_are_whole_time_steps():
    torch.manual_seed(0)
    augment = head_of("CTC", mask_time_prob=0.5).data2vec.modality_encoders["audio"].augment
    real = (torch.arange(ROWS) < torch.tensor([[ROWS], [5]])).repeat_interleave(BANDS, dim=1)
    hidden, _ = augment(torch.zeros(2, ROWS * BANDS, 32), real)
    steps = hidden.unflatten(1, (ROWS, BANDS))
    assert hidden.any() and torch.equal(steps.all(dim=2), steps.any(dim=2)) and not (hidden & ~real).any()


@torch.no_grad()
def test_time_steps_can_be_hidden_by_hand():
    model = head_of("AudioFrameClassification")
    values = inputs_for("audio")["input_values"]
    steps = torch.zeros(2, ROWS, dtype=torch.bool)
    steps[:, 3] = True
    by_step = model(input_values=values, mask_time_indices=steps)
    by_token = model.data2vec(input_values=values, mask=steps.repeat_interleave(BANDS, dim=1))
    hidden = by_token.last_hidden_state[:, 1:].unflatten(1, (ROWS, BANDS)).mean(dim=2)
    torch.testing.assert_close(by_step.logits, F.linear(hidden, model.classifier.weight, model.classifier.bias))


# Saving, settings


WITHOUT_PACKAGE = (
    HIDE_PACKAGE
    + """
import torch
from transformers import AutoModel, AutoModelForAudioClassification, AutoModelForPreTraining
folder, again = sys.argv[1:]
values = torch.linspace(-1, 1, 8000).sin().view(2, 4000)
model = AutoModelForPreTraining.from_pretrained(folder, trust_remote_code=True).eval()
model.save_pretrained(again)
head = AutoModelForAudioClassification.from_pretrained(again, num_labels=3, trust_remote_code=True).eval()
encoder = AutoModel.from_pretrained(again, trust_remote_code=True).eval()
with torch.no_grad():
    out = dict(loss=model(input_values=values, step=1).loss, features=encoder(input_values=values).pooler_output)
    out["logits"] = head(input_values=values).logits
torch.save(out, again + "/out.pt")
"""
)


@torch.no_grad()
def test_saved_models_load_where_the_package_is_not_importable(tmp_path):
    model = make()
    model.save_pretrained(tmp_path / "one")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE, str(tmp_path / "one"), str(tmp_path / "two")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    out = torch.load(tmp_path / "two" / "out.pt", weights_only=True)
    values = torch.linspace(-1, 1, 8000).sin().view(2, 4000)
    torch.testing.assert_close(out["loss"], model(input_values=values, step=1).loss)
    torch.testing.assert_close(out["features"], model.data2vec(input_values=values).pooler_output)
    assert out["logits"].shape == (2, 3)


def test_the_front_end_survives_json(tmp_path):
    config = spectrogram_config()
    config.save_pretrained(tmp_path)
    assert Data2VecConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    assert Data2VecConfig.from_pretrained(tmp_path).audio_config.front_end == "spectrogram"
    assert not config.audio_config.traits.standardised
    assert list(WINDOWS) == list(MODALITIES["audio"].front_ends)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        ({"mask_sampler": "span"}, "'span'; with the spectrogram front end, whose tokens form a grid"),
        ({"patch_bins": 5}, "must be a multiple of `patch_bins`"),
        ({"mel_std": 0}, "a deviation is positive"),
        ({"mel_hop": 0}, "`mel_hop` is 0"),
        ({"front_end": "spectrograms"}, "one of 'convolutions', 'spectrogram'"),
    ],
)
def test_settings_that_cannot_work(audio, message):
    with pytest.raises(ValueError, match=message):
        spectrogram_config(**audio)


def test_a_width_that_positions_do_not_fit_is_refused():
    with pytest.raises(ValueError, match="2-D sin-cos positions"):
        tiny_config("audio", audio_config=SPECTROGRAM | {"decoder_groups": 1}, hidden_size=30, num_attention_heads=2)


def test_transformers_has_no_such_model():
    model = Data2VecModel(spectrogram_config("1.0", num_extra_tokens=0))
    with pytest.raises(ValueError, match="audio_config.front_end is 'spectrogram'"):
        to_transformers(model)
