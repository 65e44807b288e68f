"""Rules about the health of a run, each with its limits and its advice.

A rule checks the last records of one modality and holds only if all of them agree, because good runs have bad records:
a loss that falls, rises tenfold and falls again, or uninformative targets for a hundred steps. The limits were chosen
on recorded good and bad runs; `tests/fixtures/logs` holds parts of them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from d2v_train.options.run import Options
from d2v_train.options.sections import HealthOptions
from modeling_d2v.configuration_modalities import norm_names
from modeling_d2v.modalities import MODALITIES, FrontEnd
from modeling_d2v.presets import get_preset


POSITION_ALARM = 0.95
"""Share of the targets' variance explained by position; images of digits reach 0.93 in runs that learn well."""
POSITIONS_ONLY = 0.02
"""Share of the targets' variance that the predictions must explain beyond position. A good run on images of digits had
less in 12 records after its warm-up, one on text in 7."""
PREDICTION_ALARM = 0.95
"""Share of the targets' variance explained by the predictions. Good runs reached 0.93, some 0.90 temporarily; a speech
run with uninformative targets 0.98 and a loss of 1 % of its first. One run was above it for eight records and then
recovered."""
NEIGHBOUR_ALARM = 0.95
"""Share of the targets' variance explained by the next token; speech that learns reaches 0.7."""
RANK_ALARM = 1.5
"""Effective rank of the predictions; images at a 15- to 50-fold learning rate end at 1.0 to 1.3, good ones
above 2.5."""
LOCAL_ALARM, LOCAL_FLOOR = 0.2, 0.02
"""Standard deviation of the local encoder as a share of its first: good runs kept 0.3, useless ones 0.1, those with
far too high a learning rate 0.01, from which none recovered."""
SLOW_ENCODER = 0.1
"""Factor of the learning rate at which the local encoder kept its features in small runs."""
WEAK_PREDICTIONS = 0.05
"""Standard deviation of the predictions as a share of the targets'."""
WORSE_THAN_CONSTANT = -0.1
"""Share explained by the predictions of a run that has diverged; good runs are below it for a record or two."""
EARLY = 3
"""Factor of the floors of standard deviations below which a checkpoint is no longer kept as a sound one."""
LONG, PASSING = 4, 2
"""Factors of the patience, for conditions that may last, or may be over soon."""
DATA_WAIT_ALARM = 0.3


@dataclass(frozen=True)
class Finding:
    """A finding about a run.

    Attributes:
        name: Name of the rule.
        modality: Modality of the finding, or None.
        message: Observation, meaning, and what to change.
        stop: Whether training cannot recover.
    """

    name: str
    modality: str | None
    message: str
    stop: bool = False


class Series:
    """The last records of one modality, and the values of the first.

    Args:
        patience: Number of records that must agree.
    """

    def __init__(self, patience: int):
        self.patience = patience
        self.window: deque[dict[str, Any]] = deque(maxlen=LONG * patience)
        self.first: dict[str, Any] = {}
        self.lowest_loss = float("inf")
        self.early_grad_norm: float | None = None

    def begin(self, record: dict[str, Any]) -> None:
        """Store the first record, which may be too early to judge."""
        if not self.first:
            self.first = record

    def add(self, record: dict[str, Any]) -> None:
        """Add a record (names without the modality) that is to be judged."""
        self.window.append(record)
        losses = self.last("loss")
        if losses:
            self.lowest_loss = min(self.lowest_loss, mean(losses))
        if self.early_grad_norm is None and self.last("grad_norm"):
            self.early_grad_norm = median(self.last("grad_norm"))

    def last(self, name: str, times: int = 1) -> list[float]:
        """Return values of the last `times` x patience records; empty if there are fewer or one lacks the value."""
        count = times * self.patience
        values = [record.get(name) for record in list(self.window)[-count:]]
        return [] if len(values) < count or None in values else values

    def always(self, name: str, test: Callable[[float], bool], times: int = 1) -> bool:
        """Return whether the value passes `test` in all of these records."""
        values = self.last(name, times)
        return bool(values) and all(map(test, values))


def judge(name: str, series: Series, options: Options) -> Iterator[Finding]:
    """Yield findings about a modality after its newest record."""
    for rule in (_collapse, _divergence, _easy_targets, _weak_predictions, _gradients, _fast_teacher):
        for kind, message, stop in rule(name, series, options):
            yield Finding(kind, name, message, stop)


def judge_local_encoder(name: str, series: Series, options: Options) -> Iterator[Finding]:
    """Yield findings about the local encoder of a modality after its newest record."""
    for kind, message, stop in _local_encoder(name, series, options):
        yield Finding(kind, name, message, stop)


def is_damaged(record: Mapping[str, Any], first: Mapping[str, Any], limits: HealthOptions) -> bool:
    """Return whether a record shows signs of what the rules stop a run for, long before they do.

    Args:
        record: Record of one modality, names without the modality.
        first: The first record of the run.
        limits: Limits of the rules.
    """
    floors = {"target_std": limits.min_target_std, "prediction_std": limits.min_prediction_std}
    collapses = any(record.get(kind, math.inf) < EARLY * floor for kind, floor in floors.items())
    dies = record.get("local_std", math.inf) < LOCAL_ALARM * first.get("local_std", 0.0)
    return collapses or dies or record.get("explained_by_prediction", 0.0) < WORSE_THAN_CONSTANT


def _collapse(name: str, series: Series, options: Options) -> Iterable[tuple[str, str, bool]]:
    limits = options.health
    for kind, floor in (("target_std", limits.min_target_std), ("prediction_std", limits.min_prediction_std)):
        if series.always(kind, lambda value, floor=floor: value < floor):
            yield (
                f"{kind}_collapsed",
                f"The {kind} of {name} is {series.last(kind)[-1]:.4f}, below health.min_{kind}={floor} in "
                f"{series.patience} log lines in a row: tokens no longer differ. {_lower_rate(options)}, lengthen "
                f"optim.warmup, raise model.ema_decay, or mask more of the input; health.min_{kind}=0 switches this "
                "check off.",
                True,
            )


def _local_encoder(name: str, series: Series, options: Options) -> Iterable[tuple[str, str, bool]]:
    start = series.first.get("local_std")
    if not start:
        return
    now = series.last("local_std")[-1:]
    if series.always("local_std", lambda value: value < LOCAL_FLOOR * start):
        yield (
            "local_encoder_dead",
            f"The features of the local encoder of {name} have a standard deviation of {now[0]:.4f}, {start:.3f} at "
            f"the start: the input no longer reaches the model. {_lower_rate(options)}, lengthen optim.warmup, or "
            "lower optim.weight_decay.",
            True,
        )
    elif series.always("local_std", lambda value: value < LOCAL_ALARM * start):
        yield (
            "local_encoder_weak",
            f"The features of the local encoder of {name} have a standard deviation of {now[0]:.4f}, {start:.3f} at "
            "the start: the model makes less and less of the input. Trust a probe, not the loss. "
            + _slower_encoder(options)
            + POSITION_ADVICE[name](options),
            False,
        )


def _divergence(name: str, series: Series, options: Options) -> Iterable[tuple[str, str, bool]]:
    if series.always("explained_by_prediction", lambda value: value < WORSE_THAN_CONSTANT):
        share, long = series.last("explained_by_prediction")[-1], LONG * series.patience
        lasting = series.always("explained_by_prediction", lambda value: value < WORSE_THAN_CONSTANT, LONG)
        yield (
            "diverged" if lasting else "worse_than_constant",
            f"The predictions of {name} are worse than a constant would be (they explain {share:.2f} of the targets' "
            f"variance) for {long if lasting else series.patience} log lines: training diverges. "
            f"{_lower_rate(options)}, lengthen optim.warmup (now {options.warmup_steps} steps), or set "
            "optim.max_grad_norm to about 1.",
            lasting,
        )
    elif series.always("explained_by_prediction", lambda value: value < 0.01, LONG):
        yield (
            "nothing_predicted",
            f"For {LONG * series.patience} log lines the predictions of {name} were no better than the mean of the "
            "targets. Text and large models may need a while; if it lasts, warm up longer (now "
            f"{options.warmup_steps} steps), or change optim.lr={options.optim.lr:g} by a factor of 3 either way.",
            False,
        )
    if series.always("prediction_rank", lambda value: value < RANK_ALARM):
        rank = series.last("prediction_rank")[-1]
        yield (
            "predictions_in_one_direction",
            f"The predictions of {name} differ in one direction only (effective rank {rank:.2f} for "
            f"{series.patience} log lines), though their standard deviation looks good: the encoder hardly "
            f"distinguishes tokens. {_lower_rate(options)}, or raise model.ema_decay.",
            False,
        )


def _easy_targets(name: str, series: Series, options: Options) -> Iterable[tuple[str, str, bool]]:
    if series.last("explained_by_position") and median(series.last("explained_by_position")) > POSITION_ALARM:
        share = 100 * median(series.last("explained_by_position"))
        yield (
            "targets_of_position",
            f"{share:.0f} % of the variance of the {name} targets is the same in every sample at the same position, "
            "so they can be predicted without looking at the input. Trust a probe, not the loss. "
            + POSITION_ADVICE[name](options),
            False,
        )
    explained, positions = (series.last(f"explained_by_{by}", LONG) for by in ("prediction", "position"))
    pairs = list(zip(explained, positions, strict=False))
    if pairs and all(WORSE_THAN_CONSTANT < share <= position + POSITIONS_ONLY for share, position in pairs):
        yield (
            "positions_only",
            f"The predictions of {name} explain {100 * median(explained):.0f} % of the targets' variance and their "
            f"position alone {100 * median(positions):.0f} %, in {LONG * series.patience} log lines in a row: the "
            "student has learned nothing of the input but where its tokens are. "
            + _without_positions(name, options)
            + POSITION_ADVICE[name](options),
            False,
        )
    if series.always("explained_by_prediction", lambda value: value > PREDICTION_ALARM, PASSING):
        share, loss = 100 * series.last("explained_by_prediction")[-1], series.last("loss")[-1]
        yield (
            "targets_too_easy",
            f"The predictions of {name} explain {share:.0f} % of the targets' variance (loss {loss:.3g}, "
            f"{series.first.get('loss', loss):.3g} at the start): targets this easy carry little information about "
            "the input, though loss and standard deviations look good. Trust a probe, not the loss. "
            + POSITION_ADVICE[name](options),
            False,
        )
    if series.always("explained_by_neighbour", lambda value: value > NEIGHBOUR_ALARM):
        share = 100 * series.last("explained_by_neighbour")[-1]
        yield (
            "targets_constant",
            f"{share:.0f} % of the variance of the {name} targets is the same in the next token: they hardly change "
            "along the sample and can be copied from what is visible. Hide longer spans "
            f"({modality_key(options, name)}.mask_length), raise model.ema_decay, or average fewer blocks "
            f"({modality_key(options, name)}.average_top_k_layers).",
            False,
        )


def _weak_predictions(name: str, series: Series, options: Options) -> Iterable[tuple[str, str, bool]]:
    pairs = list(zip(series.last("prediction_std"), series.last("target_std"), strict=False))
    if pairs and all(prediction < WEAK_PREDICTIONS * target for prediction, target in pairs):
        prediction, target = pairs[-1]
        yield (
            "weak_predictions",
            f"The predictions of {name} hardly differ from token to token: standard deviation {prediction:.3f}, "
            f"targets {target:.3f}, for {series.patience} log lines. If it lasts, warm up longer, lower optim.lr="
            f"{options.optim.lr:g}, or mask less, so that there is something to predict from.",
            False,
        )


def _gradients(name: str, series: Series, options: Options) -> Iterable[tuple[str, str, bool]]:
    limit = options.optim.max_grad_norm
    norms = series.last("grad_norm")
    if limit and norms and min(norms) > 100 * limit:
        yield (
            "always_clipped",
            f"The norm of the gradient is {median(norms):.3g}, over a hundred times optim.max_grad_norm={limit:g}, "
            f"in {series.patience} log lines in a row: the limit clips every step instead of single ones. Raise it to "
            f"about {2 * median(norms):.2g}, or lower optim.lr if the norm grows.",
            False,
        )
    if norms and series.early_grad_norm and min(norms) > 10 * series.early_grad_norm:
        yield (
            "growing_gradients",
            f"The norm of the gradient has grown from {series.early_grad_norm:.3g} to {median(norms):.3g}: training "
            f"is about to diverge. {_lower_rate(options)}, or set optim.max_grad_norm to about "
            f"{3 * series.early_grad_norm:.2g}.",
            False,
        )


def _fast_teacher(name: str, series: Series, options: Options) -> Iterable[tuple[str, str, bool]]:
    if series.always("ema_decay", lambda value: value < 0.98) and series.always(
        "loss", lambda value: value > 2 * series.lowest_loss
    ):
        yield (
            "unsteady_targets",
            f"The loss of {name} is {series.last('loss')[-1]:.3g}, it was {series.lowest_loss:.3g} before, and the "
            f"teacher follows the student within a few steps (ema_decay {series.last('ema_decay')[-1]:.4g}): the "
            "targets move faster than they are learned. Raise model.ema_decay to 0.99 or more.",
            False,
        )


def judge_run(window: Series, options: Options) -> Iterator[Finding]:
    """Yield findings about the run as a whole after its newest record."""
    if window.always("data_wait", lambda value: value > DATA_WAIT_ALARM):
        share = 100 * mean(window.last("data_wait"))
        yield Finding(
            "waits_for_data",
            None,
            f"{share:.0f} % of the time is spent waiting for data. Raise data.num_workers (now "
            f"{options.data.num_workers}) up to the number of processor cores for each GPU, or keep the data on a "
            "faster disk.",
        )


def judge_mask(name: str, record: dict[str, Any], options: Options) -> Iterator[Finding]:
    """Yield findings about the mask of the first record."""
    share = record.get("masked_fraction")
    if share is not None and not 0.1 <= share <= 0.95:
        amount = "almost nothing is visible to predict from" if share > 0.5 else "hardly anything is left to predict"
        yield Finding(
            "mask",
            name,
            f"{100 * share:.0f} % of the tokens of {name} are masked: {amount}. Published runs mask 50 to 80 %; see "
            f"mask_prob and its neighbours in {modality_key(options, name)}.",
        )


def modality_key(options: Options, name: str) -> str:
    """Return the option section with the masks and targets of a modality; `backbone` runs have no own section."""
    return "model" if options.backbone is not None else f"model.{name}_config"


def _lower_rate(options: Options) -> str:
    rate = options.optim.lr
    return f"Lower optim.lr from {rate:g} to about {min(rate / 3, 1e-3):.1g}"


def _slower_encoder(options: Options) -> str:
    rate = options.optim.local_encoder_lr
    return f"Lower optim.local_encoder_lr from {rate:g} to {SLOW_ENCODER:g}. " if rate > SLOW_ENCODER else ""


def _front_end(name: str, options: Options) -> FrontEnd:
    """Return the front end that the options name themselves or by their preset; the first without a name."""
    modality = MODALITIES[name]
    return modality.front_ends.get(_settings(name, options).get("front_end"), modality.default)


def _settings(name: str, options: Options) -> dict[str, Any]:
    """Return the settings of a modality that the options give themselves or by their preset."""
    if options.backbone is not None:
        return options.model
    preset = options.model.get("preset")
    return {
        **(get_preset(preset).get(f"{name}_config", {}) if preset else {}),
        **(options.model.get(f"{name}_config") or {}),
    }


def _without_positions(name: str, options: Options) -> str:
    """Return the advice to take positions out of the targets; none where a norm does it."""
    settings = _settings(name, options)
    if any("running" in norm_names(settings.get(f"{place}_target_norm")) for place in ("layer", "mean")):
        return ""
    return f"Standardise the targets at each position ({modality_key(options, name)}.mean_target_norm=running). "


def _speech_advice(options: Options) -> str:
    settings, narrow = options.model.get("audio_config") or {}, ""
    reach = _front_end("audio", options).reach
    if reach and options.backbone is None:
        now = ", ".join(f"{key}={settings[key]}" for key in reach if key in settings)
        narrow = f"narrow the position convolutions (model.audio_config.{reach[0]}{', now ' + now if now else ''}), "
    transform, windows = options.audio.transform, ""
    # What the run does already is no advice.
    if not isinstance(transform.get("crop_seconds"), list) or not transform.get("concat_group"):
        windows = (
            "cut windows of random length (audio.transform.crop_seconds=[1.0, 2.0]) from a stream of recordings "
            "(audio.transform.concat_group=true), "
        )
    advice = f"{windows}{narrow}or raise model.ema_decay."
    return advice.removeprefix("or ")[:1].upper() + advice.removeprefix("or ")[1:]


POSITION_ADVICE: dict[str, Callable[[Options], str]] = {
    "text": lambda options: (
        "Let documents start anywhere (longer or packed texts), mask more, or raise model.ema_decay."
    ),
    "vision": lambda options: (
        "Vary the position of objects (vision.transform.crop_scale=[0.4, 1.0]), mask more, or raise model.ema_decay "
        "if the teacher follows within a few steps."
    ),
    "audio": _speech_advice,
    "arrays": lambda options: (
        "Vary where arrays begin (arrays.transform.crop_length, shorter than they are), take targets without their "
        "position (model.arrays_config.layer_target_norm=sample), mask more, or raise model.ema_decay."
    ),
}
"""Advice against targets that are predictable from their position."""
