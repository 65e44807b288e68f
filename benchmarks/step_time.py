"""Time and memory of one optimizer step of the published base models, beside the machine's own matrix-product rate.

    python benchmarks/step_time.py
    python benchmarks/step_time.py --presets vision-base --batch 16 --precision bf16 --device cuda --compile

A step is student, teacher, backward pass, AdamW and the teacher's update. The share is the step's matrix products and
convolutions (`recipes/d2v_train/measuring/flops.py`) over what a plain matrix product does in the same time.
One JSON line a preset.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))

import torch

from d2v_train.measuring.flops import StepFlops
from d2v_train.measuring.speed import matmul_peak, peak_memory_gib
from modeling_d2v import Data2VecConfig, Data2VecForPreTraining


PRESETS = {"audio-base": 1, "vision-base": 2, "text-base": 1}
"""Samples in a batch by default: what the reference was measured with (10 s of audio, 512 tokens)."""


def timed(run: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Seconds of each of `repeats` runs, after one to warm up."""
    seconds = []
    for i in range(repeats + 1):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if i:
            seconds.append(time.perf_counter() - start)
    return seconds


def make_batch(config: Data2VecConfig, batch: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Random input of the modality: 10 s, 224 x 224 pixels or 512 tokens."""
    modality = config.modalities[0]
    if modality == "audio":
        return {"input_values": torch.randn(batch, 160_000, device=device)}
    if modality == "vision":
        return {"pixel_values": torch.randn(batch, 3, 224, 224, device=device)}
    return {"input_ids": torch.randint(4, config.text_config.vocab_size - 1, (batch, 512), device=device)}


def measure(preset: str, args: argparse.Namespace) -> dict[str, object]:
    """Times the step of one preset."""
    torch.manual_seed(0)
    device = torch.device(args.device)
    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
    config = Data2VecConfig.preset(preset)
    model = Data2VecForPreTraining(config).to(device).train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-4, fused=True)
    batch = make_batch(config, args.batch or PRESETS.get(preset, 1), device)
    forward = torch.compile(model) if args.compile else model
    done = 0

    def step() -> torch.Tensor:
        nonlocal done
        done += 1
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            output = forward(**batch, step=done)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        model.update_teacher(done)
        return output.mask

    flops = StepFlops(config)(config.modalities[0], {**batch, "mask": step()})
    rate = matmul_peak(device, dtype, seconds=1.0)
    seconds = timed(step, device, args.repeats)
    median = statistics.median(seconds)
    return {
        "preset": preset,
        "batch": len(next(iter(batch.values()))),
        "masks": config.modality_config(config.modalities[0]).num_masks,
        "precision": args.precision,
        "seconds": round(median, 3),
        "spread": [round(min(seconds), 3), round(max(seconds), 3)],
        "gflop": round(flops / 1e9, 1),
        "matmul_gflop_per_s": round(rate / 1e9, 1),
        "share_of_matmul_rate": round(flops / median / rate, 3),
        "peak_gib": round(peak_memory_gib(device), 2),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def main() -> None:
    """Measures the presets that are asked for, one JSON line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), help="published configurations by name")
    parser.add_argument("--batch", type=int, help="samples a batch (default: as the reference was measured)")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    for preset in args.presets:
        print(json.dumps(measure(preset, args)), flush=True)


if __name__ == "__main__":
    main()
