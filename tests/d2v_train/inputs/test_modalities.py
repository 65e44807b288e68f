"""The records of the modalities: every room has an entry for each, and the entries agree with the model."""

import dataclasses

import pytest
import torch
from model_factory import FRONT_ENDS, SPECTROGRAM

from d2v_train.data.kinds import RECORD_KINDS
from d2v_train.data.records import open_dataset
from d2v_train.data.tables import SourceSettings
from d2v_train.inputs.byte_tokens import BYTE_IDS, byte_tokenizer
from d2v_train.inputs.collate import Collator
from d2v_train.inputs.modalities import DATA_KINDS, source_defaults
from d2v_train.inputs.processors import feature_extractor
from d2v_train.inputs.tokenizer import build_tokenizer
from d2v_train.inputs.transforms import build_transform
from d2v_train.probing.pictures import DRAWINGS
from modeling_d2v import Data2VecConfig, Data2VecForPreTraining
from modeling_d2v.modalities import MODALITIES
from modeling_d2v.modality_encoders import LOCAL_ENCODERS


def test_every_modality_of_the_model_has_an_entry_everywhere():
    assert RECORD_KINDS.keys() == DATA_KINDS.keys() == DRAWINGS.keys() == MODALITIES.keys()


def test_every_front_end_has_its_encoder_and_is_tested():
    named = {(modality, name) for modality, entry in MODALITIES.items() for name in entry.front_ends}
    assert {(modality, name) for modality, encoders in LOCAL_ENCODERS.items() for name in encoders} == named
    tested = [
        Data2VecConfig(modalities=[modality], **{f"{modality}_config": settings}).modality_config(modality)
        for modality, settings in FRONT_ENDS.values()
    ]
    assert {(settings.modality, settings.front_end) for settings in tested} == named


@pytest.mark.parametrize("modality", DATA_KINDS)
def test_options_of_an_entry_are_those_of_its_transform_and_of_data_sources(modality):
    kind = DATA_KINDS[modality]
    fields = {field.name for field in dataclasses.fields(kind.transform)}
    assert {*kind.evaluation_options, *filter(None, [kind.longest])} <= fields
    assert source_defaults(Data2VecConfig(modalities=[modality]), modality).keys() <= {
        field.name for field in dataclasses.fields(SourceSettings)
    }


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_built_in_records_become_inputs_that_the_model_takes(front_end):
    modality, _ = FRONT_ENDS[front_end]
    small = {"decoder_layers": 1, "decoder_hidden_size": 32, "prenet_depth": 0, "num_masks": 2}
    changes = {
        "text": {"vocab_size": 300, "max_position_embeddings": 600},
        "vision": {"image_size": 8, "patch_size": 2, "num_channels": 1},
        "audio": {"conv_dim": [8] * 7, "conv_pos_depth": 1, "conv_pos_width": 3},
        "spectrogram": SPECTROGRAM,
        "arrays": {"num_channels": 12},
        "text perceiver": {**FRONT_ENDS["text perceiver"][1], **BYTE_IDS},
        "vision perceiver": {**FRONT_ENDS["vision perceiver"][1], "image_size": 8, "num_channels": 1},
        "audio perceiver": FRONT_ENDS["audio perceiver"][1],
    }
    config = Data2VecConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, modalities=[modality],
        **{f"{modality}_config": changes.get(front_end, FRONT_ENDS[front_end][1]) | small},
    )  # fmt: skip
    tokenizer = None
    if DATA_KINDS[modality].has_tokenizer:
        reads = config.text_config.is_perceiver
        tokenizer = byte_tokenizer() if reads else build_tokenizer(["some words"] * 9, 300)
    records = open_dataset(modality, max_samples=3, **source_defaults(config, modality))
    transform = build_transform(modality, None, config, tokenizer, train=False)
    collate = Collator(config)
    items = [transform(records[index]) for index in range(3)]
    batch = collate(items)
    lengths = [len(item[MODALITIES[modality].input_name]) for item in items]
    assert (len(set(lengths)) == 1 or DATA_KINDS[modality].padding is None) == ("attention_mask" not in batch)
    alone = [collate.count_tokens(modality, collate([item])) for item in items]
    assert collate.count_tokens(modality, batch) == sum(alone)
    assert torch.isfinite(Data2VecForPreTraining(config)(**batch, step=0).loss)


@pytest.mark.parametrize("chosen", [None, True, False])
@pytest.mark.parametrize("front_end", ["audio", "spectrogram"])
def test_recordings_are_as_loud_as_the_front_end_wants_in_training_and_in_use(front_end, chosen):
    """Or as the run says, and the feature extractor saved beside the model does the same."""
    _, settings = FRONT_ENDS[front_end]
    config = Data2VecConfig(modalities=["audio"], hidden_size=32, num_attention_heads=2, audio_config=settings)
    options = None if chosen is None else {"standardised": chosen}
    transform = build_transform("audio", options, config, train=False)
    assert transform.standardised == (chosen if chosen is not None else front_end == "audio")
    record = open_dataset("audio", max_samples=1)[0]
    made = DATA_KINDS["audio"].make_processor(config, transform, None)
    given = made(record["audio"], sampling_rate=16_000, return_tensors="pt").input_values[0]
    torch.testing.assert_close(transform(record)["input_values"], given, atol=1e-5, rtol=1e-5)
    assert transform.standardised == (abs(given.std().item() - 1) < 1e-3)
    if chosen is None:
        assert feature_extractor(config).do_normalize == made.do_normalize
