"""What latents that read all pixels learn from the built-in digits, beside groups and beside themselves untrained.

    python benchmarks/latents_on_digits.py
    python benchmarks/latents_on_digits.py --variants anchors_running flat_running --steps 600 --seeds 0 1 2
    python benchmarks/latents_on_digits.py --steps 0  # untrained networks alone

Every variant of the perceiver front end gets the same steps, batches and masks. One JSON line a variant and seed:
linear and 10-nearest-neighbour accuracy of the mean token on 600 digits, of the network before training, of the
student and of the teacher; and the course of what the targets are made of (`d2v_train/measuring/targets.py`), on 256
digits.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from d2v_train.measuring.targets import MAX_SAMPLES, TargetSums
from modeling_d2v import Data2VecConfig, Data2VecForPreTraining


RUNNING = {"layer_target_norm": "layer", "mean_target_norm": "running"}
INSTANCE = {"layer_target_norm": "instance", "mean_target_norm": "layer"}
ANCHORS = {"grouping": "global", "group_size": 4}
VARIANTS: dict[str, dict[str, Any]] = {
    "groups_instance": {"grouping": "groups", "group_size": 4, **INSTANCE},
    "groups_running": {"grouping": "groups", "group_size": 4, **RUNNING},
    "anchors_instance": {**ANCHORS, **INSTANCE},
    "anchors_running": {**ANCHORS, **RUNNING},
    "flat_instance": {**ANCHORS, "anchors": False, "num_latents": 16, **INSTANCE},
    "flat_running": {**ANCHORS, "anchors": False, "num_latents": 16, **RUNNING},
    "pixels_running": {"grouping": "global", "group_size": 1, "latent_stride": 2, "mask_length": 3, **RUNNING},
}
TRAINED, MEASURED = 1197, 256
"""Digits that are trained and probed on, of 1,797; and those that the targets are measured on."""


class Digits:
    """The pictures of scikit-learn, standardised and shuffled."""

    def __init__(self) -> None:
        pixels, labels = load_digits(return_X_y=True)
        order = np.random.RandomState(0).permutation(len(pixels))
        pixels = torch.tensor((pixels / 16 - 0.305) / 0.376, dtype=torch.float32).view(-1, 1, 8, 8)
        self.pixels, self.labels = pixels[order], labels[order]

    def probe(self, encoder: torch.nn.Module) -> dict[str, float]:
        """Return accuracies in percent of the mean token of a frozen encoder."""
        encoder.eval()
        with torch.no_grad():
            parts = [encoder(pixel_values=part).pooler_output for part in self.pixels.split(300)]
        features, labels = torch.cat(parts).numpy(), self.labels
        train, test = features[:TRAINED], features[TRAINED:]
        scaler, centre = StandardScaler().fit(train), train.mean(axis=0)
        linear = LogisticRegression(C=0.1, max_iter=300).fit(scaler.transform(train), labels[:TRAINED])
        nearest = KNeighborsClassifier(10, metric="cosine").fit(train - centre, labels[:TRAINED])
        return {
            "linear": round(100 * linear.score(scaler.transform(test), labels[TRAINED:]), 1),
            "knn": round(100 * nearest.score(test - centre, labels[TRAINED:]), 1),
        }


def make_model(variant: str, steps: int, seed: int) -> Data2VecForPreTraining:
    """Return an untrained model of 3 blocks of width 96."""
    torch.manual_seed(seed)
    settings = {
        "front_end": "perceiver", "image_size": 8, "num_channels": 1, "latent_size": 96, "fourier_bands": 6,
        "prenet_depth": 0, "num_extra_tokens": 4, "alibi": None, "cls_loss_weight": 0.0, "ema_scope": "all",
        "mask_sampler": "inverse_block", "mask_prob": 0.7, "mask_prob_adjust": 0.1, "mask_length": 2, "num_masks": 4,
        "decoder_type": "cross_attention", "decoder_layers": 2, "decoder_hidden_size": 64,
        "decoder_num_attention_heads": 4, **VARIANTS[variant],
    }  # fmt: skip
    config = Data2VecConfig(
        modalities=["vision"], hidden_size=96, num_hidden_layers=3, num_attention_heads=4, intermediate_size=384,
        hidden_dropout=0.0, mlp_dropout=0.0, attention_dropout=0.0, norm_first=True,
        ema_decay=0.99, ema_end_decay=0.999, ema_anneal_end_step=steps // 2, vision_config=settings,
    )  # fmt: skip
    return Data2VecForPreTraining(config)


@torch.no_grad()
def target_measures(model: Data2VecForPreTraining, digits: Digits, step: int) -> dict[str, float]:
    """Return what the targets of the first digits are made of, and what of it is predicted."""
    model.eval()
    sums = TargetSums(model.config.hidden_size, torch.device("cpu"))
    for ids in torch.arange(MEASURED).split(MAX_SAMPLES):
        output = model(pixel_values=digits.pixels[ids], sample_ids=ids, step=step)
        sums.add(output.targets, output.predictions, output.predicted)
    model.train()
    found = sums.measures()
    names = ("explained_by_position", "explained_by_prediction", "explained_content", "target_std")
    return {name: round(found[name].item(), 3) for name in names}


def run(variant: str, steps: int, seed: int, digits: Digits, rate: float, batch: int) -> dict[str, Any]:
    """Train a variant and return its record."""
    model = make_model(variant, steps, seed).train()
    record = {"variant": variant, "seed": seed, "steps": steps, "untrained": digits.probe(model.data2vec)}
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
    course, started = [], time.process_time()
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min((step + 1) / (0.1 * steps), 1) * 0.5 * (1 + math.cos(math.pi * step / steps))
        ids = torch.as_tensor(np.random.RandomState(1000 * seed + step).randint(0, TRAINED, batch))
        loss = model(pixel_values=digits.pixels[ids], sample_ids=ids, step=step).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 4.0)
        optimizer.step()
        model.update_teacher(step + 1)
        if (step + 1) % 50 == 0 or step + 1 == steps:
            course.append({"step": step + 1, **target_measures(model, digits, step)})
            print(json.dumps({"variant": variant, "seed": seed, **course[-1]}), file=sys.stderr, flush=True)
    return record | {
        "student": digits.probe(model.data2vec),
        "teacher": digits.probe(model.trained_encoder("teacher")),
        "course": course,
        "cpu_seconds": round(time.process_time() - started, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="default: all")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    digits = Digits()
    for seed in args.seeds:
        for variant in args.variants:
            print(json.dumps(run(variant, args.steps, seed, digits, args.lr, args.batch)), flush=True)


if __name__ == "__main__":
    main()
