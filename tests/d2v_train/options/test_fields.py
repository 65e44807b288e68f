"""Fields of the options, and which of them may differ when a run is resumed."""

import dataclasses

from d2v_train.options.fields import dotted_names, free, is_free
from d2v_train.options.run import Options


def test_what_may_change_is_said_at_the_field_or_at_one_around_it():
    @dataclasses.dataclass
    class Inner:
        fixed: int = 1
        other: int = free(2)

    @dataclasses.dataclass
    class Outer:
        inner: Inner = dataclasses.field(default_factory=Inner)
        whole: Inner | None = free(None)
        table: dict[str, int] = free(default_factory=dict)

    assert list(dotted_names(Outer)) == ["inner.fixed", "inner.other", "whole.fixed", "whole.other", "table"]
    assert [name for name in dotted_names(Outer) if is_free(Outer, name)] == [
        "inner.other",
        "whole.fixed",
        "whole.other",
        "table",
    ]
    assert is_free(Outer, "table.key") and not is_free(Outer, "inner") and not is_free(Outer, "unknown.key")


def test_what_a_run_computes_is_never_free():
    kept = [name for name in dotted_names(Options) if not is_free(Options, name)]
    assert {"seed", "schedule", "batch_scale", "mixed_precision", "init_from", "backbone", "model", "optim.lr",
            "optim.betas", "data.vision", "data.shuffle_buffer", "audio.batch_tokens", "text.transform",
            "text.tokenizer", "vision.ratio"} <= set(kept)  # fmt: skip
