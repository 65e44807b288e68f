"""Check of the options of a resumed run against those of its last start."""

from __future__ import annotations

import dataclasses

from d2v_train.options.errors import OptionError
from d2v_train.options.fields import is_free
from d2v_train.options.files import flatten
from d2v_train.options.run import Options


def check_resumable(saved: Options, options: Options) -> None:
    """Check that a run can be resumed with other options.

    Only fields made by `free` may differ. `max_steps` is one of them, but may not change the learning rate, whose
    schedule ends at `max_steps` unless `optim.schedule_steps` is set.

    Args:
        saved: Options of the last start.
        options: Options of the new one.

    Raises:
        OptionError: If other options differ; the message lists them with both values.
    """
    before, now = flatten(dataclasses.asdict(saved)), flatten(dataclasses.asdict(options))
    changed = [key for key in sorted(before.keys() | now.keys())
               if before.get(key) != now.get(key) and not is_free(Options, key)]  # fmt: skip
    if changed:
        listed = "; ".join(f"{key}: {before.get(key)!r} -> {now.get(key)!r}" for key in changed)
        raise OptionError(
            f"The run in {saved.output_dir} was started with other options ({listed}). Restore them to resume, or "
            f"choose a new output_dir (with {_start_again(options)} to start from these weights)."
        )
    if (saved.schedule_steps, saved.warmup_steps) != (options.schedule_steps, options.warmup_steps):
        raise OptionError(
            f"The learning rate of the run in {saved.output_dir} falls over {saved.schedule_steps} steps, that of the "
            f"new options over {options.schedule_steps}. Add optim.schedule_steps={saved.schedule_steps} to train to "
            f"step {options.max_steps} with the learning rate held at min_lr after its fall, or choose a new "
            f"output_dir with {_start_again(options)} for a new schedule."
        )


def _start_again(options: Options) -> str:
    return "init_from" if options.backbone is None else f"backbone={options.output_dir}/final_backbone"
