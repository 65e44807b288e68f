"""The benchmark of joint learning: options of its runs, what it runs again, means and differences."""

import importlib.util
import json
from pathlib import Path

import pytest

from d2v_train.options.files import as_overrides, load_options


PROGRAM = Path(__file__).resolve().parents[1] / "benchmarks" / "joint_learning.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("joint_learning", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def options_of(bench, name, folder, steps=900):
    changes = bench.overrides(bench.SETUPS[name], 3, steps, folder)
    return load_options(bench.CONFIG, as_overrides([f"output_dir={folder / name}", *changes]))


def test_every_modality_gets_as_many_steps_alone_as_jointly(bench, tmp_path):
    joint = options_of(bench, "joint_related", tmp_path)
    shares = {name: getattr(joint, name).ratio for name in joint.modalities}
    assert joint.max_steps == 900 and joint.logging.gradients_every == 150
    for name, modality in (("vision", "vision"), ("audio", "audio"), ("sentences", "text"), ("prose", "text")):
        alone = options_of(bench, name, tmp_path)
        assert alone.modalities == [modality] and alone.seed == 3
        assert alone.max_steps == 900 * shares[modality] / sum(shares.values())
        assert alone.model["ema_anneal_end_step"] == alone.max_steps // 2
    assert options_of(bench, "audio_long", tmp_path).max_steps == 900
    assert options_of(bench, "joint_unrelated", tmp_path).data.text == "builtin"
    assert joint.data.text == "builtin:digits"


def test_frozen_blocks_are_those_of_the_other_modality_of_the_seed(bench, tmp_path):
    other = options_of(bench, "vision_on_audio", tmp_path)
    assert (other.init_parts, other.freeze, other.modalities) == ("blocks", "blocks", ["vision"])
    assert other.init_from == str(tmp_path / "audio" / "final")
    random = options_of(bench, "audio_on_random", tmp_path)
    assert (random.init_from, random.freeze) == (None, "blocks")


def values(mean):
    return dict.fromkeys(("linear", "knn", "ten", "one"), mean)


def test_means_spreads_and_paired_differences(bench):
    results = {
        0: {"joint": {"audio": values(52.0)}, "alone": {"audio": values(50.0)}, "untrained": {"audio": values(9.0)}},
        1: {"joint": {"audio": values(64.0)}, "alone": {"audio": values(60.0)}},
    }
    table = bench.summary(results)
    cell = table["audio"]["joint"]["linear"]
    assert cell == {"mean": 58.0, "std": 8.49, "seeds": 2, "difference": 3.0, "difference_std": 1.41}
    assert "difference" not in table["audio"]["alone"]["knn"]
    assert table["audio"]["untrained"]["one"]["seeds"] == 1 and table["audio"]["untrained"]["one"]["std"] == 0.0
    assert "| untrained | 9.0 | 9.0 | 9.0 | 9.0 | -41.0 |" in bench.markdown(table, {})
    shown = bench.markdown(table, {"joint": {"audio vision": {"mean": -0.01, "std": 0.02, "seeds": 2}}})
    assert "| joint | 58.0 ± 8.5 | 58.0 ± 8.5 | 58.0 ± 8.5 | 58.0 ± 8.5 | +3.0 ± 1.4 |" in shown
    assert "| joint | -0.01 ± 0.02 |" in shown


def test_finished_runs_and_probes_are_kept(bench, tmp_path, monkeypatch):
    done = []

    def run(command, **_):
        folder = Path(next(word for word in command if word.startswith("output_dir=")).partition("=")[2])
        done.append(folder.name)
        (folder / "final").mkdir(parents=True)
        lines = [{"step": step, "shared_gradient_cosine/audio_vision": step / 10} for step in (0, 1, 3)]
        (folder / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))

    def probe(final, part, seed, compared):
        done.append(f"{final.parent.name} {part}")
        return {"trained": values(50.0 + seed)} | ({"untrained": values(20.0)} if compared else {})

    monkeypatch.setattr(bench.subprocess, "run", run)
    monkeypatch.setattr(bench, "probe", probe)
    command = ["--output", str(tmp_path), "--only", "joint_related", "audio", "--seeds", "0"]
    bench.main(command)
    assert done == ["joint_related", *(f"joint_related {part}" for part in ("vision", "audio", "sentences")),
                    "audio", "audio audio"]  # fmt: skip
    done.clear()
    bench.main([*command, "2"])
    assert len(done) == 6
    content = json.loads((tmp_path / "results.json").read_text())
    cell = content["table"]["audio"]["joint, related text"]["linear"]
    assert cell == {"mean": 51.0, "std": 1.41, "seeds": 2, "difference": 0.0, "difference_std": 0.0}
    assert content["cosines"]["joint, related text"]["audio vision"]["mean"] == pytest.approx(0.2)
    assert "untrained" in (tmp_path / "results.md").read_text()
    with pytest.raises(SystemExit, match="another number of steps"):
        bench.main([*command, "--steps", "30"])
