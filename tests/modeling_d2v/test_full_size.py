"""The released files at full size: layouts are the reference's, settings are the presets', and everything converts."""

import re
from pathlib import Path

import pytest
import torch
from released_layouts import LAYOUTS, Numbers, count, kind_of, released
from released_settings import BEIT, FINE_TUNED, ON_DISK, PRESETS

from modeling_d2v import Data2VecConfig, Data2VecModel
from modeling_d2v.conversion.fairseq import convert as checkpoint_conversion
from modeling_d2v.conversion.fairseq.convert import convert_checkpoint
from modeling_d2v.conversion.tensors import expected_shapes
from tests.modeling_d2v.reference_fixtures import V1_PUBLISHED, V2, load_reference


# Weights of the encoder alone, in millions, to the last digit given.
ENCODER_SIZES = {
    "audio-base": 93.2,
    "audio-large": 313.3,
    "vision-base": 85.6,
    "vision-large": 303.1,
    "vision-huge": 630.4,
    "text-base": 124.1,
    "text-large": 354.3,
    "audio-base-v1": 93.2,
    "audio-large-v1": 313.3,
    "vision-base-v1": 85.7,
    "vision-large-v1": 303.2,
    "text-base-v1": 124.1,
}


def convert(monkeypatch, content):
    """Converts what a file would hold, without the file."""
    monkeypatch.setattr(checkpoint_conversion, "read_checkpoint", lambda path: content)
    return convert_checkpoint("released.pt")


# The layouts are the reference's


@pytest.mark.parametrize("name", V2 + V1_PUBLISHED)
def test_the_recorded_fixtures_have_the_layout_that_is_written_down(name):
    reference = load_reference(name)
    settings = reference.record["config"] | {
        "supported_modality": reference.record["config"].get("supported_modality")
    }
    vocabulary = next((v.shape[0] for k, v in reference.tensors.items() if k.endswith("embed_tokens.weight")), 0)
    student, teacher = LAYOUTS[reference.kind](settings, vocabulary)
    recorded = {k: tuple(v.shape) for k, v in reference.tensors.items() if k.startswith(("model.", "ema."))}
    written = {f"model.{k}": v for k, v in student.items()} | {f"ema.{k}": v for k, v in teacher.items()}
    assert written == recorded


# The settings are the presets'

# Fields of 1.0 that `presets.py` restates for the samplers of this package.
RESTATED = {"mask_prob", "mask_length", "mask_sampler", "mask_prob_adjust"}
# Read by the decoder or the prenet alone, which 1.0 does not have; by noise, bias or start values, likewise.
UNREAD = {"decoder_groups", "decoder_hidden_size", "decoder_kernel_size", "decoder_residual", "mask_noise_std"}
UNREAD |= {"decoder_projection_ratio", "prenet_layerdrop", "alibi_scale", "init_extra_token_zero"}


@pytest.mark.parametrize("preset", PRESETS)
def test_published_settings_become_the_preset(preset, monkeypatch):
    config = convert(monkeypatch, released(preset)).config
    published, modality = Data2VecConfig.preset(preset), preset.split("-")[0]
    whole = {name for name in Data2VecConfig.own_fields() if not name.endswith("_config")} - {"mask_seed"}
    part = set(published.modality_config(modality).own_fields())
    part -= RESTATED | UNREAD if preset.endswith("-v1") else {"decoder_projection_ratio"}
    for names, mine, wanted in (
        (whole, config, published),
        (part, config.modality_config(modality), published.modality_config(modality)),
    ):
        assert {name: _rounded(getattr(mine, name)) for name in names} == {
            name: _rounded(getattr(wanted, name)) for name in names
        }


def _rounded(value):
    return float(f"{value:.6g}") if isinstance(value, float) else value


# The files convert


@pytest.mark.parametrize("preset, task", [*((preset, "pretraining") for preset in PRESETS), *FINE_TUNED])
def test_every_tensor_of_a_released_file_finds_its_place(preset, task, monkeypatch):
    """Names, shapes and types; nothing is left over but what is known to have no counterpart."""
    numbers = Numbers()
    converted = convert(monkeypatch, released(preset, task, numbers))
    assert converted.model_class.__name__ == FINE_TUNED.get((preset, task), "Data2VecForPreTraining")
    expected = expected_shapes(converted.model_class, converted.config)
    assert {name: converted.tensors.meta(name).shape for name in converted.tensors} == expected
    assert all(
        converted.tensors.meta(name).dtype == (torch.int64 if name == "ema_step" else torch.float32)
        for name in converted.tensors
    )
    computed = {".positions", ".version", "relative_position_index"}
    unused = {entry.name for entry in converted.unused if not entry.name.endswith(tuple(computed))}
    # The predictions of the released image models' teacher serve nothing, and their mask token is the student's.
    assert all(name.startswith(("_ema.lm_head.", "_ema.mask_token")) for name in unused)
    if task == "pretraining":
        encoder = Data2VecModel, converted.config
        assert round(count(expected_shapes(*encoder)) / 1e6, 1) == ENCODER_SIZES[preset]


SLOW = ("large", "huge")


@pytest.mark.parametrize(
    "preset",
    [pytest.param(name, marks=pytest.mark.slow) if any(x in name for x in SLOW) else name for name in PRESETS],
)
def test_every_number_of_a_released_file_arrives_once(preset, monkeypatch):
    """Each tensor holds a number of its own: after conversion each is found in one place, in the right order."""
    numbers = Numbers()
    converted = convert(monkeypatch, released(preset, numbers=numbers))
    arrived = []
    for name in converted.tensors:
        tensor = converted.tensors[name]
        thirds = ".attention.qkv." in name and not kind_of(preset) == "fairseq-v2"
        for part in tensor.chunk(3) if thirds else (tensor,):
            low, high = part.aminmax()
            assert low == high, name
            arrived.append(int(low))
    unused = {entry.name for entry in converted.unused}
    wanted = [number for number, name in numbers.names.items() if name not in unused]
    extra = [0] * sum(name.endswith(".qkv.bias") for name in converted.tensors) if preset in BEIT else []
    arrived.remove(1000 if preset not in BEIT else 0)  # the number of updates
    if preset in BEIT:  # one weight for query, key and value, which was compared by thirds
        wanted += [n for n in wanted if numbers.names[n].endswith(".attn.qkv.weight")] * 2
    assert sorted(arrived) == sorted(wanted + extra)


# The documentation says so


def test_the_table_in_the_documentation_is_what_is_tested():
    document = Path(__file__).resolve().parents[2] / "docs" / "checkpoints.md"
    rows = re.findall(r"^\| `([\w/.-]+\.pth?)` \|(.*)\|$", document.read_text(encoding="utf-8"), flags=re.M)
    assert len(rows) == 23 and len({tuple(row) for row in rows}) == 23
    listed = set()
    for file, row in rows:
        preset, _, name, layout, _, license = (cell.strip().strip("`") for cell in row.split("|"))
        task = next((task for (known, task), made in FINE_TUNED.items() if (known, made) == (preset, name)), None)
        key = (preset, task or "pretraining")
        assert preset in PRESETS and (task is not None) == (name != "Data2VecForPreTraining"), file
        assert layout == ("yes, disk" if key in ON_DISK else "yes"), file
        assert license == ("CC-BY-NC" if preset.startswith("vision") else "MIT"), file
        listed.add(key)
    unlisted = {(preset, "pretraining") for preset in PRESETS} | FINE_TUNED.keys()
    # Published configurations and programs without a released file.
    assert unlisted - listed == {("text-large", "pretraining"), ("text-base", "texts"), ("text-large", "texts")}
