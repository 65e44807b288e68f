"""Pretraining on texts as bytes, and fine-tuning of the result on a table of texts."""

import csv
import random

from transformers import AutoTokenizer

from d2v_train.inputs.byte_tokens import reads_bytes
from d2v_train.options.files import load_options
from d2v_train.pretraining.session import pretrain
from d2v_train.programs.finetune_glue import run_program as finetune
from d2v_train.support.jsonl import read_log
from modeling_d2v import Data2VecConfig


SMALL = [
    "max_steps=3", "logging.every=1", "cpu=true", "text.batch_size=2", "text.transform.max_length=64",
    "model.hidden_size=32", "model.num_hidden_layers=1", "model.intermediate_size=64",
    "model.text_config.max_position_embeddings=64", "model.text_config.group_size=4",
    "model.text_config.group_latents=2", "model.text_config.latent_size=16",
    "model.text_config.decoder_hidden_size=16", "model.text_config.num_masks=2", "logging.pictures_every=3",
]  # fmt: skip
WORDS = {"good": ["fine", "lovely", "schön"], "bad": ["awful", "poor", "übel"]}


def write_table(path, rows, seed):
    draw = random.Random(seed)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sentence", "label"])
        for row in range(rows):
            label = list(WORDS)[row % 2]
            writer.writerow([" ".join(draw.choices(WORDS[label], k=4)), label])


def test_bytes_are_learned_saved_and_fine_tuned(tmp_path):
    (tmp_path / "texts.txt").write_text("\n\n".join(f"ümlaut and prose, number {row}" for row in range(40)))
    pretrain(load_options("tiny_text_bytes", [f"output_dir={tmp_path / 'run'}", f"data.text={tmp_path / 'texts.txt'}",
                                              *SMALL]))  # fmt: skip
    assert [line["step"] for line in read_log(tmp_path / "run" / "log.jsonl")] == [1, 2, 3]
    assert len(list((tmp_path / "run" / "pictures").glob("*_text_masks.png"))) == 2
    final = tmp_path / "run" / "final"
    text = Data2VecConfig.from_pretrained(final).text_config
    assert (text.vocab_size, text.pad_token_id, text.eos_token_id) == (259, 0, 1)
    tokenizer = AutoTokenizer.from_pretrained(final)
    assert reads_bytes(tokenizer) and tokenizer.model_max_length == 64

    (tmp_path / "table").mkdir()
    write_table(tmp_path / "table" / "train.csv", 32, 0)
    write_table(tmp_path / "table" / "validation.csv", 12, 1)
    options = {
        "model_name_or_path": final, "dataset_name": tmp_path / "table", "output_dir": tmp_path / "classifier",
        "max_steps": 60, "learning_rate": 3e-3, "per_device_train_batch_size": 8, "max_seq_length": 48,
        "report_to": "none",
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    results = finetune([*words, "--do_train", "--do_eval", "--use_cpu"])
    assert results["eval_accuracy"] == 1
    assert reads_bytes(AutoTokenizer.from_pretrained(tmp_path / "classifier"))
