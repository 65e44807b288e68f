"""What an encoder cannot do says why, and transformers sees an encoder as before."""

import copy
import pickle

import pytest
import torch
from head_factory import HEADS, make_head
from model_factory import tiny_config
from transformers import (
    RobertaConfig,
    RobertaModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Wav2Vec2FeatureExtractor,
    pipeline,
)

from modeling_d2v import Data2VecForCTC, Data2VecForMaskedLM, Data2VecForPreTraining, Data2VecModel
from modeling_d2v.refused_calls import REFUSED


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Data2VecModel(tiny_config("text")).eval()


THEIRS = RobertaConfig(
    vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
    max_position_embeddings=40,
)  # fmt: skip
IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


@pytest.mark.parametrize("name", REFUSED)
def test_what_decoders_have_is_missing_with_a_reason(name, model):
    with pytest.raises(AttributeError, match=f"Data2VecModel has no `{name}`.*both directions.*One forward pass"):
        getattr(model, name)
    assert not hasattr(model, name) and not hasattr(Data2VecModel, name)


@pytest.mark.parametrize("name", HEADS)
def test_heads_say_what_to_do_instead(name):
    with pytest.raises(AttributeError) as refusal:
        make_head(name).generate(IDS)
    wanted = {"Data2VecForCTC": "batch_decode", "Data2VecForMaskedLM": "fill-mask"}.get(name, "One forward pass")
    assert wanted in str(refusal.value)


def test_pretraining_models_too():
    backbone = Data2VecForPreTraining.from_backbone(RobertaModel(THEIRS), mask_token_id=4)
    for model in (Data2VecForPreTraining(tiny_config("audio")), backbone):
        with pytest.raises(AttributeError, match=f"{type(model).__name__} has no `generate`"):
            model.generate(IDS)


def test_other_attributes_are_missing_as_ever(model):
    with pytest.raises(AttributeError, match="'Data2VecModel' object has no attribute 'generat'"):
        model.generat  # noqa: B018
    assert model.encoder is model._modules["encoder"]


def test_transformers_sees_an_encoder(model):
    """Like its own encoders."""
    theirs = RobertaModel(THEIRS)
    for each in (model, theirs):
        assert not each.can_generate() and not hasattr(each, "generate")
        assert getattr(each, "generation_config", None) is None
        for call in (each.get_position_embeddings, lambda each=each: each.resize_position_embeddings(80)):
            with pytest.raises(NotImplementedError):
                call()


def test_positions_say_what_to_do(tmp_path, model):
    with pytest.raises(NotImplementedError, match="max_position_embeddings.*80.*ignore_mismatched_sizes"):
        model.resize_position_embeddings(80)
    model.save_pretrained(tmp_path)
    longer = Data2VecModel.from_pretrained(
        tmp_path, text_config={"max_position_embeddings": 80}, ignore_mismatched_sizes=True
    )
    assert longer(torch.randint(5, 50, (1, 80))).last_hidden_state.shape[1] == 80
    with pytest.raises(NotImplementedError, match="local_encoder.position_embeddings"):
        longer.get_position_embeddings()
    assert longer.modality_encoders["text"].local_encoder.position_embeddings.num_embeddings > 80


@torch.no_grad()
def test_copies_compilers_and_exports_see_the_same_model(model):
    wanted = model(IDS).last_hidden_state
    for each in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(each(IDS).last_hidden_state, wanted)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(IDS).last_hidden_state, wanted)
    for strict in (False, True):
        exported = torch.export.export(model, (IDS,), strict=strict).module()
        assert torch.allclose(exported(IDS).last_hidden_state, wanted, atol=1e-6)


def test_a_trainer_that_asks_to_generate_gets_the_reason(tmp_path):
    model = make_head("Data2VecForMaskedLM")
    data = [{"input_ids": row, "labels": row} for row in IDS]
    arguments = {"output_dir": tmp_path, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
    trainer = Seq2SeqTrainer(
        model, Seq2SeqTrainingArguments(**arguments, predict_with_generate=True), compute_metrics=lambda found: {}
    )
    with pytest.raises(AttributeError, match="Data2VecForMaskedLM has no `generate`.*fill-mask"):
        trainer.evaluate(data)
    plain = Seq2SeqTrainer(model, Seq2SeqTrainingArguments(**arguments))
    assert plain.evaluate(data)["eval_loss"] > 0


def test_pipelines_ask_and_go_on():
    assert not Data2VecForCTC.can_generate() and not Data2VecForMaskedLM.can_generate()
    model = make_head("Data2VecForAudioClassification").eval()
    found = pipeline("audio-classification", model=model, feature_extractor=Wav2Vec2FeatureExtractor())
    assert len(found(torch.randn(4000).numpy(), top_k=2)) == 2
