"""A checkpoint to publish."""

from model_factory import randomise, tiny_config
from processing_factory import image_processor

from modeling_d2v import Data2VecForPreTraining, Data2VecProcessor


def write_card(folder, license):
    line = f"license: {license}\n" if license else ""
    text = f'---\n{line}tags:\n- mine\n---\n\n# Ours\n\n`AutoModel.from_pretrained("folder")`\n'
    (folder / "README.md").write_text(text, encoding="utf-8")


def save_publishable(folder):
    """A pretraining model, in a folder with an image processor, a card and things that are not for others."""
    model = Data2VecForPreTraining(tiny_config("vision"))
    randomise(model.data2vec)
    model.update_teacher(3)
    model.save_pretrained(folder)
    Data2VecProcessor(image_processor=image_processor()).save_pretrained(folder)
    write_card(folder, "apache-2.0")
    for private in ("optimizer.pt", "training_args.bin", "log.jsonl"):
        (folder / private).write_text("mine")
    return model.eval()
