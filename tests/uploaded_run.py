"""A short run of pretraining, for the tests of what is published of it."""

from accelerate.state import AcceleratorState, GradientState

from d2v_train.programs import pretrain


LICENCE = "hub.license=apache-2.0"


def train(folder, *options):
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        pretrain.run_program(
            [
                "tiny_vision",
                f"output_dir={folder}",
                "max_steps=3",
                "logging.every=1",
                "cpu=true",
                "hub.license=apache-2.0",
                *options,
            ]
        )
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    return folder


def section(card, heading):
    return card.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
