"""Time and memory of the perceiver front end, and of a whole encoder behind it, against the length of a series.

    python benchmarks/linear_cost.py --output_dir runs/linear_cost
    python benchmarks/linear_cost.py --output_dir runs/linear_cost --lengths 1000 10000 100000 --device cuda

Series of one channel are encoded without gradients, and once forward and backward. The exponent is the slope of a line
through the logarithms of cost and length: 1 is linear. The front end reads the series in groups of a fixed size; its
cost is linear by construction, and that of the blocks grows with the square of the tokens. With `--tokens` the size of
the groups grows with the length instead, and the blocks have as many tokens at every length.

Writes `linear_cost.json`, `linear_cost.md` and, with the extra `plots`, `linear_cost.png`. Memory is that of the
accelerator, or on a CPU the growth of the peak of a process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "recipes"), str(ROOT)]

LENGTHS = (1000, 3000, 10_000, 30_000, 100_000)
PARTS = ("front end", "encoder")


def slope(lengths: list[int], costs: list[float]) -> float:
    """Return the exponent of costs in the lengths, by least squares of their logarithms."""
    x, y = [math.log(length) for length in lengths], [math.log(cost) for cost in costs]
    centre, level = sum(x) / len(x), sum(y) / len(y)
    spread = sum((value - centre) ** 2 for value in x)
    return sum((value - centre) * (cost - level) for value, cost in zip(x, y, strict=True)) / spread


def measure(part: str, length: int, tokens: int | None, group_size: int, device: str, repeats: int) -> dict[str, Any]:
    """Return the seconds and MiB of one forward pass, and of one with gradients, in this process."""
    import torch

    from modeling_d2v import Data2VecConfig, Data2VecModel

    torch.set_num_threads(1)
    torch.manual_seed(0)
    # On a CPU the time of this process: other programs may run beside it.
    clock = time.process_time if device == "cpu" else time.perf_counter
    size = group_size if tokens is None else max(math.ceil(length / tokens), 1)
    arrays = {"group_size": size, "latent_size": 64, "group_latents": 8}
    config = Data2VecConfig(
        modalities=["arrays"],
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        arrays_config=arrays,
    )
    model = Data2VecModel(config).eval().to(device)
    local = model.modality_encoders["arrays"].local_encoder
    series = torch.randn(1, length, 1, device=device)

    def run() -> Any:
        return local(series, None).features if part == "front end" else model(array_values=series).pooler_output

    def peak() -> float:
        if device != "cpu":
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

    def timed(call: Any) -> float:
        times = []
        for _ in range(repeats):
            start = clock()
            call()
            if device != "cpu":
                torch.cuda.synchronize()
            times.append(clock() - start)
        return min(times)

    with torch.no_grad():
        local(series[:, : 4 * size], None)  # the first call loads libraries
    before = peak()
    with torch.no_grad():
        forward = timed(run)
    inference = peak() - before
    both = timed(lambda: run().sum().backward())
    return {
        "part": part,
        "length": length,
        "group_size": size,
        "tokens": -(-length // size),
        "seconds": forward,
        "seconds_with_gradients": both,
        "mib": inference,
        "mib_with_gradients": peak() - before,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table of the costs and their exponents."""
    fields = ("seconds", "seconds_with_gradients", "mib", "mib_with_gradients")
    lines = [
        "| part | elements | tokens | forward, s | with gradients, s | memory, MiB | with gradients, MiB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for part in dict.fromkeys(row["part"] for row in rows):
        own = [row for row in rows if row["part"] == part]
        for row in own:
            values = [f"{row[name]:.3f}" for name in fields[:2]] + [f"{row[name]:.0f}" for name in fields[2:]]
            lines.append(f"| {part} | {row['length']:,} | {row['tokens']:,} | " + " | ".join(values) + " |")
        large = [row for row in own if row["length"] >= 10_000]
        if len(large) > 1:
            lengths = [row["length"] for row in large]
            exponents = [f"{slope(lengths, [max(row[name], 1e-6) for row in large]):.2f}" for name in fields]
            lines.append(f"| {part} | exponent from 10,000 on | | " + " | ".join(exponents) + " |")
    return "\n".join(lines) + "\n"


def plot(path: Path, rows: list[dict[str, Any]]) -> None:
    """Draw time and memory against the length, with a linear cost for comparison."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, name, title in zip(
        panels, ("seconds_with_gradients", "mib_with_gradients"), ("seconds", "memory in MiB"), strict=True
    ):
        for part in dict.fromkeys(row["part"] for row in rows):
            own = [row for row in rows if row["part"] == part and row[name] > 0]
            panel.plot([row["length"] for row in own], [row[name] for row in own], marker="o", label=part)
        own = [row for row in rows if row["part"] == PARTS[0]]
        last = own[-1]
        ideal = [last[name] * row["length"] / last["length"] for row in own]
        panel.plot([row["length"] for row in own], ideal, "--", color="grey", label="linear")
        panel.set(xscale="log", yscale="log", xlabel="elements", title=f"{title}, forward and backward")
        panel.legend()
    figure.savefig(path, dpi=120)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="Folder of the results.")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), help="Elements of a series.")
    parser.add_argument("--group_size", type=int, default=16, help="Elements of a group.")
    parser.add_argument("--tokens", type=int, help="Tokens of the encoder at every length, instead of a group size.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="What is measured.")
    parser.add_argument("--device", default="cpu", help="cpu or cuda.")
    parser.add_argument("--repeats", type=int, default=3, help="The fastest of so many runs counts.")
    parser.add_argument("--one", nargs=2, metavar=("PART", "LENGTH"), help=argparse.SUPPRESS)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    given = sys.argv[1:] if argv is None else argv
    args = build_parser().parse_args(given)
    if args.one:
        part, length = args.one[0], int(args.one[1])
        print(json.dumps(measure(part, length, args.tokens, args.group_size, args.device, args.repeats)))
        return
    rows = []
    for part in args.parts:
        for length in sorted(args.lengths):
            # A process of its own: the peak of its memory is that of this length.
            command = [sys.executable, __file__, *given, "--one", part, str(length)]
            rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            print(json.dumps(rows[-1]), flush=True)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    (args.output_dir / "linear_cost.json").write_text(json.dumps(rows, indent=1) + "\n")
    (args.output_dir / "linear_cost.md").write_text(table(rows))
    try:
        plot(args.output_dir / "linear_cost.png", rows)
    except ImportError:
        print("No picture: install the extra 'plots'.", file=sys.stderr)
    print(table(rows))


if __name__ == "__main__":
    main()
