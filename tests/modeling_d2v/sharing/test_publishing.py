"""Publishing against a Hub on the loopback interface: what goes up, licences, interruptions, mistakes."""

import json

import pytest
import torch
from head_factory import make_head
from hub_server import Fault, HubServer
from huggingface_hub import ModelCard
from model_factory import inputs_for, randomise, tiny_config
from processing_factory import image_processor
from safetensors.torch import load_file

from modeling_d2v import Data2VecForPreTraining, Data2VecForSequenceClassification, Data2VecModel, Data2VecProcessor
from modeling_d2v.model_card import choose_license, license_in, model_card, read_license, with_license, with_name
from modeling_d2v.remote_code import TRAVELLING_FILES
from modeling_d2v.sharing.publishing import PublishingError, publish, stage


@pytest.fixture
def hub(monkeypatch):
    """A Hub that this process uses."""
    with HubServer() as server:
        server.connect(monkeypatch)
        yield server


@pytest.fixture
def no_network(monkeypatch):
    """Fails whatever would open a connection."""

    def refuse(*args, **kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", refuse)


@pytest.fixture
def pretrained(tmp_path):
    """A pretraining model, and its folder with an image processor, a card and things that are not for others."""
    model = Data2VecForPreTraining(tiny_config("vision"))
    randomise(model.data2vec)
    model.update_teacher(3)
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    Data2VecProcessor(image_processor=image_processor()).save_pretrained(folder)
    write_card(folder, "apache-2.0")
    for private in ("optimizer.pt", "training_args.bin", "log.jsonl"):
        (folder / private).write_text("mine")
    return model.eval(), folder


def write_card(folder, license):
    line = f"license: {license}\n" if license else ""
    text = f'---\n{line}tags:\n- mine\n---\n\n# Ours\n\n`AutoModel.from_pretrained("folder")`\n'
    (folder / "README.md").write_text(text, encoding="utf-8")


def weights_of(hub, name, tmp_path, revision="main"):
    path = tmp_path / "downloaded.safetensors"
    path.write_bytes(hub.files(name, revision)["model.safetensors"])
    return load_file(path)


# -- what goes up


@pytest.mark.parametrize("weights", ["student", "teacher", "all"])
def test_weights_by_choice(pretrained, tmp_path, weights):
    model, folder = pretrained
    stage(folder, tmp_path / "out", "user/name", weights=weights)
    found = load_file(tmp_path / "out" / "model.safetensors")
    if weights == "all":
        expected = model.state_dict()
    else:
        expected = dict(model.data2vec.state_dict())
        if weights == "teacher":
            expected |= dict(model.teacher.named_parameters())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_student_and_teacher_differ(pretrained):
    model, _ = pretrained
    student, teacher = (model.trained_encoder(weights) for weights in ("student", "teacher"))
    values = inputs_for("vision")
    assert (student(**values).pooler_output - teacher(**values).pooler_output).abs().max() > 1e-3
    assert student is model.data2vec and all(p.requires_grad for p in teacher.parameters())


def test_what_the_teacher_borrows_is_the_students():
    model = Data2VecForPreTraining(tiny_config("text", text_config={"ema_scope": "blocks"}))
    randomise(model)
    encoder = model.trained_encoder("teacher")
    for name, parameter in encoder.named_parameters():
        owner = model.teacher if name.startswith("encoder.") else model.data2vec
        assert torch.equal(parameter, owner.get_parameter(name)), name


def test_only_what_loading_needs_is_published(pretrained, tmp_path):
    made = stage(pretrained[1], tmp_path / "out", "user/name")
    wanted = {"README.md", "config.json", "model.safetensors", "processor_config.json", *TRAVELLING_FILES}
    assert set(made.files) == wanted == {path.name for path in (tmp_path / "out").iterdir()}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["Data2VecModel"]


def test_a_checkpoint_inside_a_run_has_a_teacher_too(pretrained, tmp_path):
    model, folder = pretrained
    model.config.architectures = None
    (folder / "config.json").write_text(model.config.to_json_string())
    stage(folder, tmp_path / "out", "user/name", weights="teacher")
    found = load_file(tmp_path / "out" / "model.safetensors")
    name = "encoder.blocks.0.mlp.fc1.weight"
    assert torch.equal(found[name], model.teacher.get_parameter(name))


def test_half_precision_stays_half(tmp_path):
    make_head("Data2VecForImageClassification").half().save_pretrained(tmp_path / "model")
    stage(tmp_path / "model", tmp_path / "out", "user/name", license="mit")
    assert {x.dtype for x in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.float16}


def test_the_card_is_kept_and_its_example_loads_what_is_published(pretrained, tmp_path):
    made = stage(pretrained[1], tmp_path / "out", "user/name", weights="all")
    assert made.card == (pretrained[1] / "README.md").read_text().replace('"folder"', '"user/name"')


def test_the_card_of_a_pretraining_model_is_made_fit_for_its_encoder(pretrained, tmp_path):
    model, folder = pretrained
    card = model_card(model.config, "Data2VecForPreTraining", "folder", sections={"Origin": "Far away."})
    (folder / "README.md").write_text(card)
    made = stage(folder, tmp_path / "out", "user/name")
    assert "Far away." in made.card and "ForPreTraining" not in made.card
    assert 'AutoModel.from_pretrained("user/name"' in made.card and "pipeline_tag: feature-extraction" in made.card


def test_a_dry_run_shows_everything_and_uses_no_network(pretrained, no_network):
    made = publish(pretrained[1], "user/name", dry_run=True)
    assert made.url is None and made.license == "apache-2.0" and "# Ours" in made.card
    assert made.files["model.safetensors"] > 50_000
    assert f"{made.files['model.safetensors']:,}  model.safetensors" in made.listing()


def test_publish_makes_one_commit_and_says_where(pretrained, hub, tmp_path):
    model, folder = pretrained
    made = publish(folder, "name", commit_message="Mine", private=True)
    repository = hub.repositories["user/name"]
    assert repository.private and repository.messages == ["initial commit", "Mine"]
    assert made.url == f"{hub.url}/user/name/commit/{repository.refs['main']}"
    found = weights_of(hub, "user/name", tmp_path)
    assert all(torch.equal(found[name], value) for name, value in model.data2vec.state_dict().items())
    again = publish(folder, "user/name")
    assert again.url == made.url and len(repository.commits) == 2, "nothing has changed: no second commit"


def test_branches_and_pull_requests(pretrained, hub):
    _, folder = pretrained
    publish(folder, "user/name")
    main = hub.repositories["user/name"].refs["main"]
    publish(folder, "user/name", weights="teacher", revision="v2/teacher")
    made = publish(folder, "user/name", weights="all", create_pr=True)
    refs = hub.repositories["user/name"].refs
    assert refs["main"] == main and len({*refs.values()}) == 3 and set(refs) == {"main", "v2/teacher", "refs/pr/1"}
    assert made.url == f"{hub.url}/user/name/discussions/1"


def test_weights_in_parts_replace_those_in_one_file_and_back(pretrained, hub):
    _, folder = pretrained
    publish(folder, "user/name", max_shard_size="40KB")
    parts = {name for name in hub.files("user/name") if name.startswith("model")} - {"model_card.py"}
    assert "model.safetensors.index.json" in parts and len(parts) > 2 and "model.safetensors" not in parts
    publish(folder, "user/name")
    kept = {name for name in hub.files("user/name") if name.startswith("model")}
    assert kept == {"model.safetensors", "model_card.py", "modeling_data2vec.py"}


def test_large_files_go_up_in_parts(pretrained, hub, tmp_path):
    hub.part_size = 30_000
    publish(pretrained[1], "user/name")
    assert sum("/part/" in line for line in hub.requests) > 3
    assert torch.equal(
        weights_of(hub, "user/name", tmp_path)["encoder.blocks.0.mlp.fc1.weight"],
        pretrained[0].data2vec.encoder.blocks[0].mlp.fc1.weight,
    )


def test_configuration_and_save_pretrained_push_too(hub, tmp_path):
    head = make_head("Data2VecForSequenceClassification")
    head.config.push_to_hub("user/config")
    assert set(TRAVELLING_FILES) <= set(hub.files("user/config"))
    head.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id="user/saved")
    assert {"model.safetensors", *TRAVELLING_FILES} <= set(hub.files("user/saved"))
    again = Data2VecForSequenceClassification.from_pretrained("user/saved")
    assert torch.equal(again.classifier.dense.weight, head.classifier.dense.weight)


# -- interruptions


def test_a_broken_connection_is_tried_again(pretrained, hub, tmp_path):
    hub.faults.append(Fault("PUT /lfs/", [0]))
    publish(pretrained[1], "user/name")
    assert sum(line.startswith("PUT /lfs/") for line in hub.requests) == 2
    assert weights_of(hub, "user/name", tmp_path)


def test_an_interrupted_upload_leaves_nothing_and_the_same_call_completes_it(pretrained, hub, tmp_path):
    # One object breaks off, and the address to send it to has expired when it is tried again.
    (tmp_path / "curves.png").write_bytes(b"\x89PNG" * 100)
    options = {"extra_files": [tmp_path / "curves.png"], "max_shard_size": "60KB"}
    hub.faults.append(Fault("PUT /lfs/", [0, 403], skip=1))
    with pytest.raises(PublishingError, match="403"):
        publish(pretrained[1], "user/name", **options)
    arrived = dict(hub.objects)
    assert len(arrived) >= 2
    assert set(hub.files("user/name")) == {".gitattributes"}, "nothing half-committed is to be seen"

    before = len(hub.requests)
    made = publish(pretrained[1], "user/name", **options)
    sent = [line.rsplit("/", 1)[1] for line in hub.requests[before:] if line.startswith("PUT")]
    assert len(sent) == 1 and sent[0] not in arrived, "what had arrived is not sent again"
    assert set(hub.files("user/name")) == {".gitattributes", *made.files}


def test_a_commit_that_fails_leaves_nothing(pretrained, hub):
    hub.faults.append(Fault("POST .*/commit/", [500]))
    with pytest.raises(PublishingError, match="500"):
        publish(pretrained[1], "user/name")
    assert set(hub.files("user/name")) == {".gitattributes"}
    publish(pretrained[1], "user/name")
    assert "model.safetensors" in hub.files("user/name")


# -- licences


def test_the_licence_of_the_source_is_carried_on(pretrained, hub, tmp_path):
    _, folder = pretrained
    write_card(folder, "cc-by-nc-4.0")
    made = publish(folder, "user/pictures")
    assert made.license == "cc-by-nc-4.0" and read_license("user/pictures") == "cc-by-nc-4.0"
    with pytest.raises(ValueError, match="cc-by-nc-4.0.*'apache-2.0'"):
        publish(folder, "user/pictures", license="apache-2.0")
    # Through the Hub and back, into another class, and from the memory of a process.
    model = Data2VecModel.from_pretrained("user/pictures")
    model.push_to_hub("user/copy")
    assert read_license("user/copy") == "cc-by-nc-4.0"
    with pytest.raises(ValueError, match="commercial"):
        model.push_to_hub("user/other", license="mit")
    assert "user/other" not in hub.repositories


def test_weights_of_unknown_origin_need_a_licence(pretrained, tmp_path):
    _, folder = pretrained
    write_card(folder, None)
    with pytest.raises(ValueError, match="licence.*'cc-by-nc-4.0'"):
        stage(folder, tmp_path / "out", "user/name")
    made = stage(folder, tmp_path / "out", "user/name", license="MIT")
    assert made.license == license_in(made.card) == "mit" and "- mine" in made.card


def test_weights_from_nowhere_are_apache(hub):
    make_head("Data2VecForImageClassification").push_to_hub("user/new", tags=["pictures"])
    card = ModelCard(hub.files("user/new")["README.md"].decode())
    assert card.data.license == "apache-2.0" and card.data.tags == ["data2vec", "arxiv:2212.07525", "pictures"]
    assert card.data.pipeline_tag == "image-classification"


def test_a_card_that_is_there_is_kept_by_push_to_hub(hub):
    head = make_head("Data2VecForImageClassification")
    head.push_to_hub("user/new")
    repository = hub.repositories["user/new"]
    files = dict(repository.commits[repository.refs["main"]])
    card = hub.files("user/new")["README.md"].decode() + "\nMy own words.\n"
    files["README.md"] = type(files["README.md"])(card.encode(), False)
    repository.commit("main", files, "edited")
    randomise(head, seed=1).push_to_hub("user/new", license="mit")
    text = hub.files("user/new")["README.md"].decode()
    assert "My own words." in text and license_in(text) == "mit"


@pytest.mark.parametrize(
    ("chosen", "stated", "found"),
    [
        (None, "mit", "mit"),
        ("mit", None, "mit"),
        ("MIT", "apache-2.0", "mit"),
        ("cc-by-nc-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"),
    ],
)
def test_choice_of_a_licence(chosen, stated, found):
    assert choose_license(chosen, stated) == found


def test_changing_a_card():
    card = model_card(tiny_config("audio"), "Data2VecForCTC", "runs/x", license=None)
    assert license_in(card) is None and "is not known" in card
    card = with_name(with_license(card, "cc-by-nc-4.0"), "me/speech")
    assert license_in(card) == "cc-by-nc-4.0" and "under cc-by-nc-4.0, which excludes commercial use" in card
    assert card.count('from_pretrained("me/speech", trust') == 2 and "runs/x" not in card
    assert with_name("pipeline(\"fill-mask\", 'a')", "me/b") == "pipeline(\"fill-mask\", 'me/b')"


# -- mistakes


def test_no_token(pretrained, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PublishingError, match="hf auth login"):
        publish(pretrained[1], "user/name")
    assert hub.repositories == {}


def test_wrong_token(pretrained, hub):
    with pytest.raises(PublishingError, match="token"):
        publish(pretrained[1], "user/name", token="hf_wrong")


def test_a_name_of_somebody_else(pretrained, hub):
    with pytest.raises(PublishingError, match="other/name"):
        publish(pretrained[1], "other/name")


@pytest.mark.parametrize("name", ["user/a b", "a/b/c", "user/-x"])
def test_a_name_that_cannot_be_is_told_in_a_dry_run_too(pretrained, no_network, name):
    with pytest.raises(PublishingError, match="repository"):
        publish(pretrained[1], name, dry_run=True)


@pytest.mark.parametrize("name", ["user/a b", "a/b/c", "user/-x"])
def test_a_name_that_cannot_be(pretrained, hub, name):
    with pytest.raises(PublishingError, match=f"'{name}'.*user/name"):
        publish(pretrained[1], name)
    assert hub.repositories == {}


def test_nothing_private_goes_into_a_public_repository(pretrained, hub):
    publish(pretrained[1], "user/name")
    before = hub.files("user/name")
    with pytest.raises(PublishingError, match="public"):
        publish(pretrained[1], "user/name", weights="teacher", private=True)
    assert hub.files("user/name") == before


def test_a_licence_that_the_hub_does_not_know(pretrained, hub):
    with pytest.raises(PublishingError, match=r'"license" must be one of \[[^]]*\]\.$'):
        publish(pretrained[1], "user/name", license="do-what-you-like")


def test_no_hub(pretrained, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PublishingError, match="http://127.0.0.1:9"):
        publish(pretrained[1], "user/name")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PublishingError, match="HF_HUB_OFFLINE"):
        publish(pretrained[1], "user/name")


def test_folders_that_are_no_checkpoints(pretrained, tmp_path):
    _, folder = pretrained
    run = tmp_path / "run"
    (run / "checkpoints" / "step_00000007").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="step_00000007"):
        stage(run, tmp_path / "out", "user/name")
    (run / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="adapter"):
        stage(run, tmp_path / "out", "user/name")
    (run / "config.json").write_text('{"model_type": "beit"}')
    with pytest.raises(ValueError, match="'beit'"):
        stage(run, tmp_path / "out", "user/name")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["truncated", "missing file", "missing tensors"])
def test_damaged_weights_are_not_published(pretrained, tmp_path, damage):
    model, folder = pretrained
    path = folder / "model.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    elif damage == "missing file":
        path.unlink()
    else:
        state = {k: v for k, v in model.state_dict().items() if "decoders" not in k}
        model.save_pretrained(folder, state_dict=state)
    match = "tensors are missing, such as decoders" if damage == "missing tensors" else "cannot be read"
    with pytest.raises(ValueError, match=match):
        stage(folder, tmp_path / "out", "user/name")


def test_weights_that_do_not_exist(pretrained, tmp_path):
    pretrained[0].data2vec.save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match="Data2VecModel"):
        stage(tmp_path / "encoder", tmp_path / "out", "user/name", weights="teacher", license="mit")
    with pytest.raises(ValueError, match="student"):
        stage(pretrained[1], tmp_path / "out", "user/name", weights="average")
    with pytest.raises(ValueError, match='"student"'):
        pretrained[0].trained_encoder("both")
