"""Options that contradict themselves or are out of range are named."""

import numpy as np
import pytest
import soundfile
from PIL import Image

from d2v_train.finetuning.arguments import FinetuningArguments, ModelArguments
from d2v_train.finetuning.images.arguments import ImageDataArguments
from d2v_train.finetuning.speech.arguments import SpeechDataArguments


@pytest.mark.parametrize(
    "options, message",
    [
        ({"tri_stage": "0.1,0.4"}, "shares"),
        ({"tri_stage": "0.5,0.5,0.5"}, "sum to 1"),
        ({"layer_decay": 0.0}, "layer_decay"),
        ({"weights_ema_decay": 1.0}, "weights_ema_decay"),
        ({"output_dir": None}, "output_dir"),
        ({"early_stopping_patience": 2}, "--eval_strategy.*--save_strategy"),
    ],
)
def test_bad_options_are_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        FinetuningArguments(**{"output_dir": str(tmp_path), **options})


@pytest.mark.parametrize(
    ("option", "file"),
    [
        ("tokenizer_name", "tokenizer_config.json"),
        ("tokenizer_name", "tokenizer.json"),
        ("processor_name", "preprocessor_config.json"),
    ],
)
def test_a_tokenizer_or_processor_needs_no_model_beside_it(tmp_path, option, file):
    model = {"config_name": "text-base", "from_scratch": True}
    with pytest.raises(FileNotFoundError, match="no model"):
        ModelArguments(**model, **{option: str(tmp_path)})
    (tmp_path / file).write_text("{}")
    assert getattr(ModelArguments(**model, **{option: str(tmp_path)}), option) == str(tmp_path)


def test_a_model_must_be_named():
    with pytest.raises(ValueError, match="--model_name_or_path"):
        ModelArguments()
    with pytest.raises(ValueError, match="--from_scratch"):
        ModelArguments(config_name="text-base")
    assert ModelArguments(config_name="text-base", from_scratch=True).hub_options["revision"] == "main"


def test_options_of_decoding_reach_the_data(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.array([[0, 500, 1000]] * 2, dtype=np.uint16)).save(tmp_path / "a" / "deep.png")
    data = ImageDataArguments(train_dir=str(tmp_path), value_range=[0.0, 500.0]).open("train", channels=1)
    assert np.asarray(data[0]["image"])[0].tolist() == [0, 255, 255]
    assert ImageDataArguments(train_dir=str(tmp_path), max_pixels=7).open("train").settings.max_pixels == 7
    soundfile.write(tmp_path / "a.wav", np.zeros(9), 8_000)
    assert (
        SpeechDataArguments(train_dir=str(tmp_path), sampling_rate=8_000).open("train").settings.sampling_rate == 8_000
    )
