"""Files of the processors that travel with a model."""

from pathlib import Path

from d2v_train.inputs.processor_files import input_files
from d2v_train.inputs.tokenizer import build_tokenizer
from modeling_d2v import Data2VecConfig


def test_input_files_may_be_no_texts(monkeypatch):
    tokenizer = build_tokenizer(["some words"] * 9, vocab_size=270)
    save = type(tokenizer).save_pretrained

    def save_more(self, folder, **options):
        (Path(folder) / "vocabulary.model").write_bytes(b"\xff\x00")
        (Path(folder) / "templates").mkdir()
        return save(self, folder, **options)

    monkeypatch.setattr(type(tokenizer), "save_pretrained", save_more)
    files = input_files(Data2VecConfig(modalities=["text"]), {"text": None}, tokenizer)
    assert files["vocabulary.model"] == b"\xff\x00" and b'"added_tokens"' in files["tokenizer.json"]
    assert "templates" not in files
