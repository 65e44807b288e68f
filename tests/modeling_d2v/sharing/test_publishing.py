"""Publishing against a Hub on the loopback interface: what goes up, licences, interruptions, mistakes."""

import pytest
import torch
from hub_server import Fault
from safetensors.torch import load_file

from modeling_d2v.model_card import model_card
from modeling_d2v.sharing.publishing import PublishingError, publish, stage


@pytest.fixture
def no_network(monkeypatch):
    """Fails whatever would open a connection."""

    def refuse(*args, **kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", refuse)


def weights_of(hub, name, tmp_path, revision="main"):
    path = tmp_path / "downloaded.safetensors"
    path.write_bytes(hub.files(name, revision)["model.safetensors"])
    return load_file(path)


def test_the_card_is_kept_and_its_example_loads_what_is_published(publishable, tmp_path):
    made = stage(publishable[1], tmp_path / "out", "user/name", weights="all")
    assert made.card == (publishable[1] / "README.md").read_text().replace('"folder"', '"user/name"')


def test_the_card_of_a_pretraining_model_is_made_fit_for_its_encoder(publishable, tmp_path):
    model, folder = publishable
    card = model_card(
        model.config, "Data2VecForPreTraining", "folder", license="mit", sections={"Origin": "Far away."}
    )
    (folder / "README.md").write_text(card)
    made = stage(folder, tmp_path / "out", "user/name")
    assert "Far away." in made.card and "ForPreTraining" not in made.card
    assert 'AutoModel.from_pretrained("user/name"' in made.card and "pipeline_tag: feature-extraction" in made.card


def test_a_dry_run_shows_everything_and_uses_no_network(publishable, no_network):
    made = publish(publishable[1], "user/name", dry_run=True)
    assert made.url is None and made.license == "apache-2.0" and "# Ours" in made.card
    assert made.files["model.safetensors"] > 50_000
    assert f"{made.files['model.safetensors']:,}  model.safetensors" in made.listing()


def test_publish_makes_one_commit_and_says_where(publishable, hub, tmp_path):
    model, folder = publishable
    made = publish(folder, "name", commit_message="Mine", private=True)
    repository = hub.repositories["user/name"]
    assert repository.private and repository.messages == ["initial commit", "Mine"]
    assert made.url == f"{hub.url}/user/name/commit/{repository.refs['main']}"
    found = weights_of(hub, "user/name", tmp_path)
    assert all(torch.equal(found[name], value) for name, value in model.data2vec.state_dict().items())
    again = publish(folder, "user/name")
    assert again.url == made.url and len(repository.commits) == 2, "nothing has changed: no second commit"


def test_branches_and_pull_requests(publishable, hub):
    _, folder = publishable
    publish(folder, "user/name")
    main = hub.repositories["user/name"].refs["main"]
    publish(folder, "user/name", weights="teacher", revision="v2/teacher")
    made = publish(folder, "user/name", weights="all", create_pr=True)
    refs = hub.repositories["user/name"].refs
    assert refs["main"] == main and len({*refs.values()}) == 3 and set(refs) == {"main", "v2/teacher", "refs/pr/1"}
    assert made.url == f"{hub.url}/user/name/discussions/1"


def test_weights_in_parts_replace_those_in_one_file_and_back(publishable, hub):
    _, folder = publishable
    publish(folder, "user/name", max_shard_size="40KB")
    parts = {name for name in hub.files("user/name") if name.startswith("model")} - {"model_card.py"}
    assert "model.safetensors.index.json" in parts and len(parts) > 2 and "model.safetensors" not in parts
    publish(folder, "user/name")
    kept = {name for name in hub.files("user/name") if name.startswith("model")}
    assert kept == {"model.safetensors", "model_card.py", "modeling_data2vec.py"}


def test_large_files_go_up_in_parts(publishable, hub, tmp_path):
    hub.part_size = 30_000
    publish(publishable[1], "user/name")
    assert sum("/part/" in line for line in hub.requests) > 3
    assert torch.equal(
        weights_of(hub, "user/name", tmp_path)["encoder.blocks.0.mlp.fc1.weight"],
        publishable[0].data2vec.encoder.blocks[0].mlp.fc1.weight,
    )


def test_a_broken_connection_is_tried_again(publishable, hub, tmp_path):
    hub.faults.append(Fault("PUT /lfs/", [0]))
    publish(publishable[1], "user/name")
    assert sum(line.startswith("PUT /lfs/") for line in hub.requests) == 2
    assert weights_of(hub, "user/name", tmp_path)


def test_an_interrupted_upload_leaves_nothing_and_the_same_call_completes_it(publishable, hub, tmp_path):
    # One object breaks off, and the address to send it to has expired when it is tried again.
    (tmp_path / "curves.png").write_bytes(b"\x89PNG" * 100)
    options = {"extra_files": [tmp_path / "curves.png"], "max_shard_size": "60KB"}
    hub.faults.append(Fault("PUT /lfs/", [0, 403], skip=1))
    with pytest.raises(PublishingError, match="403"):
        publish(publishable[1], "user/name", **options)
    arrived = dict(hub.objects)
    assert len(arrived) >= 2
    assert set(hub.files("user/name")) == {".gitattributes"}, "nothing half-committed is to be seen"

    before = len(hub.requests)
    made = publish(publishable[1], "user/name", **options)
    sent = [line.rsplit("/", 1)[1] for line in hub.requests[before:] if line.startswith("PUT")]
    assert len(sent) == 1 and sent[0] not in arrived, "what had arrived is not sent again"
    assert set(hub.files("user/name")) == {".gitattributes", *made.files}


def test_a_commit_that_fails_leaves_nothing(publishable, hub):
    hub.faults.append(Fault("POST .*/commit/", [500]))
    with pytest.raises(PublishingError, match="500"):
        publish(publishable[1], "user/name")
    assert set(hub.files("user/name")) == {".gitattributes"}
    publish(publishable[1], "user/name")
    assert "model.safetensors" in hub.files("user/name")


def test_no_token(publishable, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PublishingError, match="hf auth login"):
        publish(publishable[1], "user/name")
    assert hub.repositories == {}


def test_wrong_token(publishable, hub):
    with pytest.raises(PublishingError, match="token"):
        publish(publishable[1], "user/name", token="hf_wrong")


def test_a_name_of_somebody_else(publishable, hub):
    with pytest.raises(PublishingError, match="other/name"):
        publish(publishable[1], "other/name")


@pytest.mark.parametrize("name", ["user/a b", "a/b/c", "user/-x"])
def test_a_name_that_cannot_be_is_told_in_a_dry_run_too(publishable, no_network, name):
    with pytest.raises(PublishingError, match="repository"):
        publish(publishable[1], name, dry_run=True)


@pytest.mark.parametrize("name", ["user/a b", "a/b/c", "user/-x"])
def test_a_name_that_cannot_be(publishable, hub, name):
    with pytest.raises(PublishingError, match=f"'{name}'.*user/name"):
        publish(publishable[1], name)
    assert hub.repositories == {}


def test_nothing_private_goes_into_a_public_repository(publishable, hub):
    publish(publishable[1], "user/name")
    before = hub.files("user/name")
    with pytest.raises(PublishingError, match="public"):
        publish(publishable[1], "user/name", weights="teacher", private=True)
    assert hub.files("user/name") == before


def test_a_licence_that_the_hub_does_not_know(publishable, hub):
    with pytest.raises(PublishingError, match=r'"license" must be one of \[[^]]*\]\.$'):
        publish(publishable[1], "user/name", license="do-what-you-like")


def test_no_hub(publishable, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PublishingError, match="http://127.0.0.1:9"):
        publish(publishable[1], "user/name")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PublishingError, match="HF_HUB_OFFLINE"):
        publish(publishable[1], "user/name")


def test_folders_that_are_no_checkpoints(publishable, tmp_path):
    _, folder = publishable
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
def test_damaged_weights_are_not_published(publishable, tmp_path, damage):
    model, folder = publishable
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


def test_weights_that_do_not_exist(publishable, tmp_path):
    publishable[0].data2vec.save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match="Data2VecModel"):
        stage(tmp_path / "encoder", tmp_path / "out", "user/name", weights="teacher", license="mit")
    with pytest.raises(ValueError, match="student"):
        stage(publishable[1], tmp_path / "out", "user/name", weights="average")
    with pytest.raises(ValueError, match='"student"'):
        publishable[0].trained_encoder("both")
