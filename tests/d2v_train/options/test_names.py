"""The option that an unknown name probably means."""

import pytest

from d2v_train.options.names import nearest_name


KNOWN = {
    "max_steps": "Optimizer steps of the whole run.",
    "optim.lr": "Peak learning rate.",
    "optim.min_lr": "Learning rate at the end.",
    "optim.weight_decay": "Decay of the weights.",
    "logging.every": "Steps from one log line to the next.",
    "logging.pictures_every": "Steps from one set of pictures to the next.",
    "logging.report_to": "Trackers.",
    "checkpoints.every": "Steps from one checkpoint to the next.",
    "vision.batch_size": "Samples in a step.",
    "vision.micro_batch_size": "Samples in a pass.",
    "model.layerdrop": "Chance that a block is left out.",
    "model.layer_norm_eps": "Term in the norm.",
    "model.num_hidden_layers": "Blocks.",
    "model.vision_config.decoder_layers": "Layers of the decoder.",
}


@pytest.mark.parametrize(
    "name, nearest",
    [
        ("lr", "optim.lr"),
        ("optim.learning_rate", "optim.lr"),
        ("learning_rate", "optim.lr"),
        ("log_every", "logging.every"),
        ("pictures", "logging.pictures_every"),
        ("report_to", "logging.report_to"),
        ("report", "logging.report_to"),
        ("checkpoint_every", "checkpoints.every"),
        ("batch_size", "vision.batch_size"),
        ("BatchSize", "vision.batch_size"),
        ("vision.batchsize", "vision.batch_size"),
        ("model.layers", "model.num_hidden_layers"),
        ("model.layerdrops", "model.layerdrop"),
        ("model.decoder_layers", "model.vision_config.decoder_layers"),
        ("weight_decy", "optim.weight_decay"),
        ("max_stepz", "max_steps"),
        ("mxsteps", "max_steps"),
    ],
)
def test_words_decide_wherever_they_stand_and_spelling_where_none_is_known(name, nearest):
    assert nearest_name(name, KNOWN) == nearest


def test_of_no_names_none_is_the_nearest():
    assert nearest_name("lr", {}) is None
