"""The objective over encoders of transformers: it learns, is what it is said to be, and gives the encoder back."""

import copy

import pytest
import torch
import transformers
from backbone_factory import KINDS, NO_DROPOUT, RECORDINGS, encoder, inputs_of, pretraining
from model_factory import padded_inputs

from modeling_d2v import BackboneForPreTraining, BackbonePreTrainingConfig, Data2VecForPreTraining
from modeling_d2v.targets import instance_norm


PADDED = ("roberta", "bert", "modernbert", "wav2vec2", "hubert", "wavlm")


@pytest.mark.parametrize("kind", KINDS)
def test_loss_falls_and_the_plain_encoder_comes_back(kind, tmp_path):
    source = encoder(kind)
    before = copy.deepcopy(source.state_dict())
    model = pretraining(source, ema_decay=0.999, ema_end_decay=0.999).train()
    inputs = inputs_of(kind)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3)
    losses = []
    for step in range(1, 26):
        output = model(**inputs, step=0)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        model.update_teacher(step)
        losses.append(output.loss.item())
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3]) and output.target_std > 0.1
    # DistributedDataParallel is not told to look for weights that a pass leaves out.
    assert all(parameter.grad is not None for parameter in trained)

    assert all(torch.equal(source.state_dict()[name], value) for name, value in before.items())
    model.trained_encoder().save_pretrained(tmp_path)
    plain = transformers.AutoModel.from_pretrained(tmp_path)
    assert type(plain) is type(source) and plain.config.to_dict().items() >= {"model_type": kind}.items()
    assert plain.state_dict().keys() == before.keys()
    assert all(torch.equal(value, model.backbone.state_dict()[name]) for name, value in plain.state_dict().items())
    assert any(not torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


@pytest.mark.parametrize("kind", ["roberta", "wav2vec2", "vit"])
def test_saved_model_is_the_same_one(kind, tmp_path):
    model = pretraining(kind).train()
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.add_(0.1)
    model.update_teacher(3)
    model.save_pretrained(tmp_path)
    loaded, info = transformers.AutoModelForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(loaded, BackboneForPreTraining) and not info["missing_keys"] and not info["unexpected_keys"]
    assert int(loaded.ema_step) == 3
    fields = BackbonePreTrainingConfig.own_fields() - {"encoder_config"}
    assert all(getattr(loaded.config, name) == getattr(model.config, name) for name in fields)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    inputs = inputs_of(kind)
    assert torch.equal(loaded.eval()(**inputs).loss, model.eval()(**inputs).loss)


def test_teacher_is_the_average_and_takes_over_what_is_copied():
    model = pretraining("wav2vec2-conformer").train()
    start = copy.deepcopy(model.backbone.state_dict())
    with torch.no_grad():
        for weight in [*model.backbone.parameters(), *model.backbone.buffers()]:
            if weight.is_floating_point():
                weight.mul_(1.5).add_(0.1)
    model.update_teacher(1)
    running = 0
    for name, value in model.teacher.state_dict().items():
        now, was = model.backbone.state_dict()[name], start[name]
        if (
            any(part in name for part in ("feature_extractor", "feature_projection", "pos_conv_embed"))
            or "running" in name
        ):
            assert torch.equal(value, now), name
            running += "running" in name
        elif value.is_floating_point():
            torch.testing.assert_close(value, 0.9 * was + 0.1 * now)
    assert running
    assert not model.teacher.training and model.backbone.training
    assert not any(parameter.requires_grad for parameter in model.teacher.parameters())


@pytest.mark.parametrize("kind", RECORDINGS)
def test_the_encoders_own_masks_are_off_while_it_trains(kind):
    masks = dict(mask_time_prob=0.9, mask_time_length=2, mask_feature_prob=0.5, mask_feature_length=4)
    source = encoder(kind, **NO_DROPOUT["audio"], **masks, layerdrop=0.9, conformer_conv_dropout=0.0)
    model = pretraining(source).train()
    inputs = inputs_of(kind)
    for part in model.modules():  # running statistics of one pass are not those of the next
        part.momentum = 0.0
    assert torch.equal(model(**inputs, step=1).loss, model(**inputs, step=1).loss)
    plain = model.trained_encoder().config
    assert getattr(plain, "apply_spec_augment", True) and plain.layerdrop == 0.9 and source.config.layerdrop == 0.9


def test_what_is_not_trained_stays_as_it_is(tmp_path):
    source = encoder("wav2vec2-conformer")
    source.feature_extractor.requires_grad_(False)
    pretraining(source).save_pretrained(tmp_path)
    model = BackboneForPreTraining.from_pretrained(tmp_path).train()
    model(**inputs_of("wav2vec2-conformer")).loss.backward()
    still = {name for name, parameter in model.backbone.named_parameters() if not parameter.requires_grad}
    # Rotary positions, the default, leave the convolutional ones unused.
    assert {name.split(".")[0] for name in still} == {"feature_extractor", "encoder"} and still == {
        *model.config.untrained
    }
    assert all("pos_conv_embed" in name for name in still if name.startswith("encoder"))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert trained and all(parameter.grad is not None for parameter in trained)


def hand_targets(kind, teacher, inputs):
    """The same by other means: the layers called one after another, or their outputs as transformers gives them."""
    if kind == "vit":
        states = teacher(**inputs, output_hidden_states=True).hidden_states[-2:]
        return torch.nn.functional.layer_norm(
            sum(torch.nn.functional.layer_norm(state[:, 1:], (32,)) for state in states) / 2, (32,)
        )
    if kind == "roberta":
        x = teacher.embeddings(**inputs)
        outputs = []
        for layer in teacher.encoder.layer:
            attended = layer.attention(x)
            attended = attended[0] if isinstance(attended, tuple) else attended
            outputs.append(layer.output.dense(layer.intermediate(attended)))
            x = layer.output.LayerNorm(outputs[-1] + attended)
        return sum(torch.nn.functional.layer_norm(output, (32,)) for output in outputs[-2:]) / 2
    features = teacher.feature_projection(teacher.feature_extractor(**inputs).transpose(1, 2))[0]
    x = teacher.encoder.layer_norm(features + teacher.encoder.pos_conv_embed(features))
    outputs = []
    for layer in teacher.encoder.layers:
        x = layer.layer_norm(x + layer.attention(x)[0])
        ffn = layer.feed_forward
        outputs.append(ffn.output_dense(ffn.intermediate_act_fn(ffn.intermediate_dense(x))))
        x = layer.final_layer_norm(x + outputs[-1])
    return sum(instance_norm(output, None) for output in outputs[-2:]) / 2


@pytest.mark.parametrize("kind", ["roberta", "wav2vec2", "vit"])
def test_targets_are_the_mean_of_normalised_layers(kind):
    model = pretraining(kind, average_top_k_layers=2).eval()
    inputs = inputs_of(kind)
    with torch.no_grad():
        output, wanted = model(**inputs), hand_targets(kind, model.teacher, inputs)
    torch.testing.assert_close(output.targets, wanted[output.mask[:, 0]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", PADDED)
def test_padding_changes_nothing(kind):
    model = pretraining(kind, mask_prob=0.4).eval()
    batch, alone = padded_inputs(KINDS[kind])
    ids = torch.arange(3)
    with torch.no_grad():
        together = model(**batch, sample_ids=ids, step=2)
        parts = [model(**sample, sample_ids=ids[i : i + 1], step=2) for i, sample in enumerate(alone)]
    for i, part in enumerate(parts):
        length = part.mask.shape[-1]
        assert torch.equal(together.mask[i, :, :length], part.mask[0]) and not together.mask[i, :, length:].any()
    for name in ("targets", "predictions"):
        rows = torch.cat([getattr(part, name) for part in parts])
        torch.testing.assert_close(getattr(together, name), rows, atol=2e-5, rtol=1e-4)


def test_padding_of_text_is_seen_without_an_attention_mask():
    model = pretraining("roberta").eval()
    batch, _ = padded_inputs("text")
    with_mask = model(**batch, sample_ids=torch.arange(3))
    without = model(batch["input_ids"], sample_ids=torch.arange(3))
    assert torch.equal(with_mask.loss, without.loss) and not without.mask[batch["attention_mask"][:, None] == 0].any()


@pytest.mark.parametrize("kind", ["bert", "deit"])
def test_masked_tokens_alone_are_hidden_and_predicted(kind):
    model = pretraining(encoder(kind, **NO_DROPOUT[KINDS[kind]]), mask_random_prob=0.0, mask_keep_prob=0.0).eval()
    inputs = inputs_of(kind, batch=2)
    mask = torch.zeros_like(model(**inputs).mask)
    mask[:, :, 3] = True
    output = model(**inputs, mask=mask)
    assert int(output.num_items) == 2 == len(output.predictions) and output.targets.shape == (2, 32)
    ((name, values),) = inputs.items()
    changed = values.clone()
    if kind == "bert":
        changed[:, 3] = 7
    else:
        changed[:, :, :8, 24:] = 0  # the last patch of the first row
    other = model(**{name: changed}, mask=mask)
    torch.testing.assert_close(other.predictions, output.predictions, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(other.targets, output.targets)
    gradient = torch.autograd.grad(output.loss, model.head.projection.parameters())
    assert all(part.abs().sum() > 0 for part in gradient)


def test_learned_vector_of_the_encoder_is_the_one_that_hides():
    model = pretraining("hubert").eval()
    inputs = inputs_of("hubert")
    before = model(**inputs, step=1)
    with torch.no_grad():
        model.backbone.masked_spec_embed.add_(1.0)
    after = model(**inputs, step=1)
    assert model.mask_token is None
    assert torch.equal(before.targets, after.targets) and not torch.allclose(before.predictions, after.predictions)


def test_several_masks_share_a_pass_of_the_teacher():
    model = pretraining("roberta", num_masks=3).eval()
    inputs = inputs_of("roberta")
    output = model(**inputs, sample_ids=torch.arange(3), step=1)
    single = model(**inputs, sample_ids=torch.arange(3), step=1, mask=output.mask[:, :1])
    first = output.mask.clone()
    first[:, 1:] = False
    torch.testing.assert_close(single.targets, output.targets[first[output.mask]])
    assert output.mask.shape[1] == 3


def test_gradient_checkpointing_and_bf16_give_the_same_loss():
    model = pretraining(encoder("vit", **NO_DROPOUT["vision"])).train()
    inputs = inputs_of("vit")
    plain = model(**inputs, step=1)
    plain.loss.backward()
    gradient = model.backbone.layers[0].mlp.fc1.weight.grad.clone()
    model.zero_grad()
    model.activation_checkpointing_enable()
    again = model(**inputs, step=1)
    again.loss.backward()
    torch.testing.assert_close(model.backbone.layers[0].mlp.fc1.weight.grad, gradient)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(**inputs, step=1)
    assert half.loss.item() == pytest.approx(plain.loss.item(), rel=0.05)


def test_one_entrance_for_models_with_heads_and_names(tmp_path):
    with_head = transformers.AutoModelForMaskedLM.from_config(encoder("roberta").config)
    model = Data2VecForPreTraining.from_backbone(with_head, mask_token_id=49)
    assert type(model.trained_encoder()) is transformers.RobertaModel and model.trained_encoder().pooler is None
    encoder("vit").save_pretrained(tmp_path)
    by_name = Data2VecForPreTraining.from_backbone(tmp_path, average_top_k_layers=1)
    assert by_name.config.modality == "vision" and by_name.config.average_top_k_layers == 1
    teacher = by_name.trained_encoder("teacher")
    assert torch.equal(teacher.layers[0].mlp.fc1.weight, by_name.teacher.layers[0].mlp.fc1.weight)


@pytest.mark.parametrize("kind", ["roberta", "wav2vec2", "vit"])
def test_the_main_input_needs_no_name(kind):
    model, inputs = pretraining(kind).eval(), inputs_of(kind)
    assert torch.equal(model(inputs[model.main_input_name], step=1).loss, model(**inputs, step=1).loss)
    with pytest.raises(TypeError, match=f"`{model.main_input_name}` twice"):
        model(inputs[model.main_input_name], **inputs)
    assert model.main_input_name in inputs and len(inputs) == 1


def test_wrong_inputs_are_named():
    model = pretraining("roberta")
    with pytest.raises(ValueError, match="RobertaModel.*`input_ids`.*`pixel_values`"):
        model(pixel_values=torch.rand(1, 3, 32, 32))
    with pytest.raises(ValueError, match="empty"):
        model(torch.zeros(0, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="`attention_mask`"):
        model(torch.full((2, 4), 5), attention_mask=torch.ones(2, 3))
    with pytest.raises(ValueError, match="`input_ids`.*50.*0.*49"):
        model(torch.full((2, 4), 50))
    with pytest.raises(ValueError, match='"student"'):
        model.trained_encoder("all")
    with pytest.raises(TypeError, match="`model`"):
        BackboneForPreTraining.from_backbone(3)
    with pytest.raises(ValueError, match="frame.*400"):
        pretraining("hubert")(input_values=torch.randn(1, 100))
