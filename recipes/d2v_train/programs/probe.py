"""Measure what a pretrained encoder knows, without training it: kNN, linear and few-label accuracy of its features.

    d2v probe runs/demo/final --modality vision --data builtin
    d2v probe runs/fsdd/final --modality audio --data data/fsdd --test_groups george
    d2v probe runs/images/final --modality vision --data path/to/labelled/images
    d2v probe runs/text/final --modality text --data data/glue/sst2 --layer 6 --batch_size 64
    d2v probe FacebookAI/roberta-base --modality text --data data/glue/sst2
    d2v probe runs/roberta/final_backbone --modality text --data data/glue/sst2

The last two are an encoder of transformers before and after its pretraining was continued.

One line of JSON goes to standard output, everything else to standard error. It holds accuracies in percent of the
encoder, of the same encoder with random weights, and of simple features (pixels, MFCC or TF-IDF): an encoder that does
not beat both has learned nothing useful for this task. Every choice is made on the training part; the test part is
used once. Data without a test part, such as a folder with one folder a class, gets one: a fifth of every class is held
out.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig

from d2v_train.data.records import RawDataset
from d2v_train.inputs.tokenizer import check_vocabulary, load_tokenizer
from d2v_train.inputs.transforms import build_transform
from d2v_train.models.backbones import encoder_modality, input_settings, load_processor, wrapped_config
from d2v_train.models.encoders import load_encoder, random_encoder
from d2v_train.options.errors import at_least
from d2v_train.probing.classifiers import (
    DEFAULT_FEW,
    DEFAULT_NEIGHBOURS,
    DEFAULT_SEEDS,
    chance_accuracy,
    few_label_accuracy,
    knn_accuracy,
    linear_accuracy,
)
from d2v_train.probing.features import BATCH_SIZES, FeatureSet, extract, groups_are_disjoint
from d2v_train.probing.simple_features import simple_features
from d2v_train.probing.splits import open_parts
from modeling_d2v import BackbonePreTrainingConfig, Data2VecConfig


logger = logging.getLogger("probe")


def run_probe(
    model_path: str,
    modality: str,
    data: str | None = None,
    *,
    train_split: str = "train",
    test_split: str | None = None,
    test_groups: list[str] | None = None,
    exclude_groups: list[str] | None = None,
    layer: int | None = None,
    pooling: str = "mean",
    few: int = DEFAULT_FEW,
    neighbours: int = DEFAULT_NEIGHBOURS,
    seeds: tuple[int, ...] = DEFAULT_SEEDS,
    random_seed: int = 0,
    batch_size: int | None = None,
    max_samples: int | None = None,
    device: str | None = None,
    transform_options: dict | None = None,
    dataset_options: dict | None = None,
    simple: bool = True,
) -> dict:
    """Probe an encoder, its randomly initialised twin and simple features on one labelled dataset.

    Args:
        model_path: folder or Hub name of a Data2Vec checkpoint (encoder, pretraining model or head), or of an encoder
            of transformers, with what prepares its inputs.
        modality: "vision", "audio" or "text".
        data: source as `open_dataset` takes it; None or "builtin" for the built-in data.
        train_split, test_split: splits that the probes are fitted on and measured on. None for "test", or without
            such a split a fifth of the training split, see `open_parts`.
        test_groups: measure on these groups only (speakers), and keep them out of the training part. With it both
            splits may be the same.
        exclude_groups: groups left out of both parts.
        layer: None for the pooled output, N for `hidden_states[N]`.
        pooling: "mean" or "first".
        few: labels a class of the few-label probe.
        neighbours: k of the kNN probe.
        seeds: draws of the few-label probe.
        random_seed: of the random weights and of the held-out part of the linear probe.
        batch_size: samples a forward pass; None for a default by modality.
        max_samples: at most so many samples of each part, drawn once for all.
        device: None for the GPU if there is one.
        transform_options: passed on to `build_transform`.
        dataset_options: passed on to `open_dataset`, for example `label_column`.
        simple: also measure simple features.

    Returns:
        What the command prints; see `main`.

    Raises:
        MissingLabelsError: the data has no class labels.
        OptionError: a number is out of range.
        ValueError: the checkpoint is no such model or lacks the modality, the parts overlap, or there is no such
            device.
    """
    started = time.perf_counter()
    for name, value in (
        ("batch_size", batch_size),
        ("max_samples", max_samples),
        ("few", few),
        ("neighbours", neighbours),
    ):
        at_least(name, value, 1)
    device = find_device(device)
    config = read_probed_config(model_path, modality)
    train, test, held_out = open_parts(
        modality, config, data, train_split, test_split, test_groups, exclude_groups, max_samples, dataset_options
    )
    transform = load_transform(model_path, modality, config, transform_options)

    def measure(train_features, test_features, train_part: FeatureSet, test_part: FeatureSet) -> dict[str, float]:
        data = (train_features, train_part.labels, test_features, test_part.labels)
        groups = train_part.groups if groups_are_disjoint(train_part, test_part) else None
        fewer = few_label_accuracy(*data, per_class=few, seeds=seeds)
        return {
            "linear": round(linear_accuracy(*data, groups=groups, seed=random_seed), 2),
            "knn": round(knn_accuracy(*data, k=neighbours), 2),
            "few": round(fewer.mean, 2),
            "few_std": round(fewer.std, 2),
        }

    result: dict = {}
    for name in ("random", "pretrained"):
        if name == "random":
            torch.manual_seed(random_seed)
            model = random_encoder(config)
        else:
            model = load_encoder(model_path, config)
        parts = [
            extract(
                model,
                part,
                transform,
                batch_size=BATCH_SIZES[modality] if batch_size is None else batch_size,
                device=device,
                layer=layer,
                pooling=pooling,
            )
            for part in (train, test)
        ]
        result[name] = measure(parts[0].features, parts[1].features, *parts)
        logger.info("%s weights: %s", name, result[name])
    result["simple"] = {}
    if simple:
        # The same samples for everyone: those that the encoder could read.
        records = [_Readable(part, found) for part, found in zip((train, test), parts, strict=True)]
        options = {}
        if modality == "vision":
            options = {"size": config.vision_config.image_size, "channels": config.vision_config.num_channels}
        for name, (train_matrix, test_matrix) in simple_features(modality, *records, **options).items():
            result["simple"][name] = measure(train_matrix, test_matrix, *parts)
            logger.info("%s: %s", name, result["simple"][name])
    return {
        "model": str(model_path),
        "modality": modality,
        "data": data or "builtin",
        "layer": "last" if layer is None else layer,
        "pooling": pooling,
        "classes": len(np.unique(parts[0].labels)),
        "train_samples": len(parts[0].labels),
        "test_samples": len(parts[1].labels),
        "held_out": held_out,
        "bad_samples": len(parts[0].bad) + len(parts[1].bad),
        "chance": round(chance_accuracy(parts[0].labels, parts[1].labels), 2),
        **result,
        "few_labels": few,
        "neighbours": neighbours,
        "seeds": list(seeds),
        "seconds": round(time.perf_counter() - started, 1),
    }


def find_device(name: str | None) -> torch.device:
    """Device of a name; None for the GPU if there is one.

    Raises:
        ValueError: there is no such device on this machine.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # Names are understood before it is known whether the machine has such a device.
        torch.zeros(1).to(name).cpu()
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"The device {name!r} cannot be used here ({str(error).splitlines()[0]}). Name another one with --device, "
            "such as cpu or cuda:0, or leave it out."
        ) from error


def read_probed_config(model_path: str, modality: str) -> Data2VecConfig | BackbonePreTrainingConfig:
    """Read the configuration of a checkpoint and check that it knows the modality.

    Returns:
        That of a model of ours; for a plain encoder of transformers, what pretraining would put around it.

    Raises:
        FileNotFoundError: the folder does not exist, and the name cannot be one of the Hub either.
        ValueError: the checkpoint is of another kind, or lacks the modality.
    """
    looks_local = model_path.startswith((".", "/", "~")) or model_path.count("/") != 1
    if looks_local and not Path(model_path, "config.json").is_file():
        raise FileNotFoundError(
            f"There is no model in {model_path}: a folder with a config.json is needed, such as the `final` folder of "
            "a finished run, or the name of a model on the Hub (user/name)."
        )
    config = AutoConfig.from_pretrained(model_path)
    own = isinstance(config, Data2VecConfig)
    modalities = config.modalities if own else [encoder_modality(config, model_path)]
    if modality not in modalities:
        raise ValueError(f"{model_path} has no {modality} encoder; it has {', '.join(modalities)}.")
    if own:
        return config
    # Nothing is hidden or predicted here: an encoder without what the objective needs for that can be probed too.
    unused = {"end_of_block_targets": True} | ({"mask_token_id": 0} if modality == "text" else {})
    return wrapped_config(config, load_probe_tokenizer(model_path, modality), **unused)


class _Readable:
    """The records of a dataset at the places that an extraction could read; may be iterated several times."""

    def __init__(self, dataset: RawDataset, found: FeatureSet) -> None:
        self.dataset, self.indices = dataset, found.indices

    def __iter__(self):
        return (self.dataset[int(index)] for index in self.indices)


def load_transform(model_path: str, modality: str, config, options: dict | None = None):
    """The evaluation transform of training (size and shape of the model's input), with what was saved beside a model:
    what its image processor or feature extractor says, or its tokenizer. `options` come on top."""
    tokenizer = load_probe_tokenizer(model_path, modality)
    if modality == "text":
        check_vocabulary(tokenizer, config.text_config.vocab_size, "(in its folder, with tokenizer.save_pretrained)")
    saved = {} if modality == "text" else input_settings(modality, load_processor(model_path, modality))
    return build_transform(modality, saved | (options or {}), config, tokenizer=tokenizer, train=False)


def load_probe_tokenizer(model_path: str, modality: str):
    """Load the tokenizer that was saved with a text model; None for other modalities.

    Raises:
        ValueError: a text model without a tokenizer.
    """
    if modality != "text":
        return None
    try:
        return load_tokenizer(model_path)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"No usable tokenizer lies beside the model in {model_path} ({error}). Text is probed with the tokenizer "
            "that the model was trained with: save it into that folder with tokenizer.save_pretrained."
        ) from error


def parse_layer(text: str) -> int | None:
    """Turn the value of --layer into an index, None for "last"."""
    if text == "last":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither 'last' nor a whole number.") from None


def build_parser() -> argparse.ArgumentParser:
    """Arguments of the command; their names and meaning are those of `run_probe`."""
    parser = argparse.ArgumentParser(
        prog="d2v probe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", help="folder or Hub name of a data2vec checkpoint, or of an encoder of transformers")
    add("--modality", required=True, choices=("vision", "audio", "text"))
    add("--data", default=None, help="folder, file, Hub name or `builtin` (default: builtin)")
    add("--train_split", default="train", help="split that the probes are fitted on (default: %(default)s)")
    add("--test_split", help="split that they are measured on (default: test, validation, or a fifth held out)")
    add("--test_groups", nargs="+", help="measure on these groups (speakers) only, and fit on none of them")
    add("--exclude_groups", nargs="+", help="groups that are left out of both parts")
    add("--column", nargs="+", help="input column, two for sentence pairs (default: found by its name)")
    add("--label_column", help="column with the class (default: found by its name)")
    add("--group_column", help="column with the speaker or another origin (default: found by its name)")
    add("--layer", type=parse_layer, default=None, help="`last`, or N for hidden_states[N] (default: last)")
    add("--pooling", choices=("mean", "first"), default="mean", help="mean of tokens, or the first extra token")
    add("--few", type=int, default=DEFAULT_FEW, help="labels a class of the few-label probe (default: %(default)s)")
    add("--neighbours", type=int, default=DEFAULT_NEIGHBOURS, help="k of the kNN probe (default: %(default)s)")
    add("--seeds", type=int, nargs="+", default=list(DEFAULT_SEEDS), help="draws of the few-label probe")
    add("--random_seed", type=int, default=0, help="seed of the random weights (default: %(default)s)")
    add("--batch_size", type=int, help="samples a forward pass (default: by modality)")
    add("--max_samples", type=int, help="at most so many samples of either part, drawn at random once for all")
    add("--max_seconds", type=float, help="audio: use at most so much of the beginning of a clip")
    add("--device", help="for example cpu or cuda:1 (default: a GPU if there is one)")
    add("--no_simple", action="store_true", help="leave out pixels, MFCC or TF-IDF")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the probe from the command line."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    if args.max_seconds is not None and not args.max_seconds > 0:
        sys.exit(f"d2v probe: Option max_seconds is {args.max_seconds}; it must be above 0.")
    columns = {"column": args.column, "label_column": args.label_column, "group_column": args.group_column}
    if args.column and len(args.column) == 1:
        columns["column"] = args.column[0]
    try:
        result = run_probe(
            args.model,
            args.modality,
            args.data,
            train_split=args.train_split,
            test_split=args.test_split,
            test_groups=args.test_groups,
            exclude_groups=args.exclude_groups,
            layer=args.layer,
            pooling=args.pooling,
            few=args.few,
            neighbours=args.neighbours,
            seeds=tuple(args.seeds),
            random_seed=args.random_seed,
            batch_size=args.batch_size,
            max_samples=args.max_samples,
            device=args.device,
            transform_options={"max_seconds": args.max_seconds} if args.max_seconds else None,
            dataset_options={name: value for name, value in columns.items() if value is not None},
            simple=not args.no_simple,
        )
    except (ValueError, OSError) as error:
        # A user's mistake: the sentence says it all, a traceback would hide it.
        sys.exit(f"d2v probe: {error}")
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
