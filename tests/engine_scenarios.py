"""Small runs that must come out the same under every engine, and what starts and compares them."""

import contextlib
import json
import subprocess
import sys

from tiny_run import ROOT, environment, tiny, write_config

from d2v_train.pretraining.training import Pretraining


# What a launcher sets to ask for an engine.
ENGINES = {
    "replicas": {},
    "shards": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
}

TINY = tiny(
    "vision",
    "audio",
    vision={"batch_size": 6},
    audio={"batch_size": 4},
    model={"vision_config": {"cls_loss_weight": 0.0}},
)
VISION = ["audio=null", "model.audio_config=null"]
SCENARIOS = {
    "alternate": [],
    "mixed": ["schedule=mixed"],
    "version 1": ["schedule=mixed", "model.masked_tokens=replaced", "model.vision_config.num_masks=1",
                  "model.audio_config.num_masks=1"],
    "cls": [*VISION, "model.vision_config.num_extra_tokens=1", "model.vision_config.cls_loss_weight=0.1",
            "model.vision_config.cls_loss_rows=8"],
    "running targets": ["schedule=mixed", "model.vision_config.mean_target_norm=running",
                        "model.audio_config.layer_target_norm=[layer,running]"],
    "partial prediction": [*VISION, "model.vision_config.patch_size=1", "model.vision_config.decoder_query_share=0.5",
                           "model.vision_config.decoder_type=cross_attention"],
    "clipped": ["schedule=mixed", "optim.max_grad_norm=0.1", "gradient_checkpointing=true",
                "model.audio_config.ema_copied=[position_encoder]", "model.audio_config.alibi=learned",
                "model.vision_config.prenet_depth=1"],
    "own parts": ["model.norms=per_modality", "model.feed_forward=per_modality", "model.modality_embedding=true",
                  "model.qk_norm=true", "logging.gradients_every=5"],
    "frozen": ["schedule=mixed", "freeze=blocks"],
}  # fmt: skip

TWENTY = ["max_steps=20", "checkpoints.every=0"]
EIGHT = ["max_steps=8", "checkpoints.every=4", "schedule=mixed", "optim.schedule_steps=8"]
HALF = [*EIGHT, "max_steps=4"]
BF16 = ["max_steps=4", "checkpoints.every=0", "mixed_precision=bf16"]


def launch(folder, entries, **variables):
    """Runs entries (engine, folder of the run, overrides) in the two processes of one launch; what they said.

    A `{rank}` in the folder says that the program must refuse to run, and `poison` in it that the gradient of one
    process is not finite in the third step.
    """
    config = write_config(folder, TINY)
    runs = [{"environment": ENGINES[engine], "refused": "{rank}" in str(where), "poisoned": "poison" in where.name,
             "arguments": [str(config), f"output_dir={where}", *overrides]}
            for engine, where, overrides in entries]  # fmt: skip
    (folder / "runs.json").write_text(json.dumps(runs))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*command, str(ROOT / "tests" / "engine_runs.py"), str(folder / "runs.json")],
                          cwd=folder, env=environment() | variables, capture_output=True, timeout=3000)  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return done.stderr.decode()


@contextlib.contextmanager
def poison(step=2, rank=1):
    """The gradient of one parameter is not finite in one step (counted from 0) of one process."""
    usual = Pretraining.train_step

    def spoil(parameter):
        parameter.grad.fill_(float("nan"))

    def train_step(run, micro_batches):
        if run.step != step or run.processes.rank != rank:
            return usual(run, micro_batches)
        # Of more than one row, so that each process has a part of it under FSDP2.
        first = next(value for value in run.inner.parameters() if value.requires_grad and len(value) > 1)
        hook = first.register_post_accumulate_grad_hook(spoil)
        moved = usual(run, micro_batches)
        hook.remove()
        return moved

    Pretraining.train_step = train_step
    try:
        yield
    finally:
        Pretraining.train_step = usual
