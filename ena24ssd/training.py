"""How does a run go from config to checkpoint, or on from where it was interrupted?

Here is what comes before the learning: data, split and engine are made ready, and what cannot work is refused before
hours have gone into it. `ena24ssd.learning` does the rest.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from ena24ssd.balance import epoch_length, repeat_factors, species_weights
from ena24ssd.cache import cache_pictures
from ena24ssd.cameratraps import CameraTrapDataset, Problem
from ena24ssd.choosing import SPLIT_RULES, choose_split
from ena24ssd.config import ConfigError, RunConfig, change_config, flatten_config, override_config
from ena24ssd.data import Examples, count_batches, read_examples
from ena24ssd.doctor import can_work, preflight
from ena24ssd.engine import Engine, EngineError, choose_engine, load_engine
from ena24ssd.evaluation import max_boxes
from ena24ssd.learning import Work, learn, reason_to_end
from ena24ssd.pretrained import read_pretrained
from ena24ssd.runs import Run, RunError, State, create_run, open_run, require_free
from ena24ssd.sources import read_source
from ena24ssd.splits import SIDES, Split

# What makes a run the one it is. Another value would not go on with it but start another.
FIXED = (
    *("seed", "model", "train.batch", "train.drop_last", "optim.name"),
    *("optim.average", "optim.head_epochs", "optim.late_share"),  # what is kept is of these weights
    *("split.kind", "split.train", "split.validation", "split.test"),  # split.json has what became of them
    *("data.image_side", "data.fit", "data.mean", "data.std", "data.max_boxes", "data.exclude_species"),
)


def train(config: RunConfig, folder: Path | str, *, quiet: bool = False) -> Run:
    """Train the configured network, and leave everything in a new run folder (see `ena24ssd.runs`).

    After every epoch the validation and test splits are measured and logged. Validation mAP chooses the weights that
    are kept as ``best``; test figures decide nothing. The closing rows of metrics.jsonl are those of ``best``.

    Raises ConfigError, AnnotationError, PretrainedError, RunError, EngineError or DivergedError, each saying the way
    out; StoppedError where a signal asked for an early end, OSError where the disk is full: the run can then be
    resumed.
    """
    folder = Path(folder)
    require_free(folder)
    pretrained = read_pretrained(config.model.backbone) if config.model.pretrained else {}
    config = _absolute(config)
    source = read_source(config.data)
    config = _settle_engine(config, None, quiet)
    _require_room(config, folder, source.dataset, quiet)
    looking = (
        None if quiet else lambda jobs: tqdm(jobs, "looking for bursts", leave=False, unit="picture", disable=None)
    )
    split, doubts = choose_split(source, config.split, config.seed, config.data.cache, looking)
    config = _weigh_species(config, source.dataset, split)
    engine = load_engine(config, source.dataset.class_names, together=True)
    if pretrained:
        engine.load_weights(engine.weights() | pretrained)
    examples, problems = _read_sides(source.dataset, split, config, quiet)
    config = _settle_batch(config, engine, source.dataset, len(examples["train"]), quiet)
    _require_batches(examples["train"], config)
    run, problems = Run(folder, config, source.dataset.class_names, split), [*doubts, *problems]
    with _held(run, engine):
        if engine.rank == 0:
            create_run(folder, config, source.dataset.class_names, split)
            run.keep_problems(problems)
        _learn_from(run, engine, source.dataset, examples, problems, None, quiet)
    return run


def resume(folder: Path | str, overrides: Sequence[str] = (), *, data: Path | None = None, quiet: bool = False) -> Run:
    """Go on with a run that was interrupted, as if it had not been; `train` says what it does and raises.

    Parameters: ``overrides`` (``section.field=value``) may change how it goes on: more epochs, another rate or device;
    ``data`` says where the dataset lies now, if it moved. Raises ConfigError for a change that would make it another
    run, RunError for one that has finished, or that another process is training.
    """
    run = open_run(folder)
    _require_unfinished(run, overrides)
    config = override_config(run.config, overrides)
    if data is not None:
        config = change_config(config, {"data.path": data, "data.pictures": None})
    config = _settle_engine(_absolute(config), run.config.engine, quiet)
    _require_same(run.config, config)
    source = read_source(config.data)
    if source.dataset.class_names != run.class_names:
        raise RunError(f"{run.folder}: was trained on other species than those of {source.dataset.name}; name its data")
    _require_room(config, run.folder, source.dataset, quiet)
    split, gone = _still_there(run, source.dataset)
    config = _weigh_species(config, source.dataset, split)
    run = replace(run, config=config)
    engine = load_engine(config, run.class_names, together=True)
    with _held(run, engine):
        state, doubt = run.load_state()
        _require_unfinished(run, overrides)  # another process may have finished it meanwhile
        if state is None and config.model.pretrained:
            engine.load_weights(engine.weights() | read_pretrained(config.model.backbone))
        if engine.rank == 0:
            if doubt is not None:
                run.forget_damaged_state()
            run.keep_config()
        for words in (doubt, gone):
            if words is not None:
                tqdm.write(words)
        examples, problems = _read_sides(source.dataset, split, config, quiet)
        _require_batches(examples["train"], config)
        _learn_from(run, engine, source.dataset, examples, problems, state, quiet)
    return run


def _held(run: Run, engine: Engine) -> AbstractContextManager:
    """Of several workers that train together, one writes, and keeps all others from it."""
    if engine.rank:
        return nullcontext()
    run.folder.mkdir(parents=True, exist_ok=True)
    return run.held()


def _require_unfinished(run: Run, overrides: Sequence[str]) -> None:
    """Raise RunError where there is nothing to go on with."""
    if not run.is_finished:
        if not run.has_state and any(row["epoch"] > 0 for row in run.rows()):
            raise RunError(
                f"{run.folder}: has figures of whole epochs, but no state to go on from (last.safetensors is gone); "
                "put it back, or start another run"
            )
        return
    state, _ = run.load_state()
    if state is None:
        raise RunError(f"{run.folder}: has finished, and last.safetensors, from which it could go on, is gone")
    reason = reason_to_end(override_config(run.config, overrides), state.standing)
    if reason is not None:
        raise RunError(f"{run.folder}: has finished: {reason}. To train it further, give it more of that")


def _learn_from(
    run: Run,
    engine: Engine,
    dataset: CameraTrapDataset,
    examples: Mapping[str, Examples],
    problems: Sequence[Problem],
    state: State | None,
    quiet: bool,
) -> None:
    """Say what there is, and learn from it."""
    config, factors = run.config, None
    if config.train.repeat_below is not None:
        factors = repeat_factors(examples["train"].images, len(dataset.class_names), config.train.repeat_below)
    shown = len(examples["train"]) if factors is None else epoch_length(factors)
    steps = count_batches(shown, config.train.batch, config.train.drop_last)
    work = Work(run, engine, dataset, examples, factors, steps, quiet)
    work.say(f"training into {run.folder}; watch it with: tensorboard --logdir {shlex.quote(str(run.board_folder))}")
    sizes = ", ".join(f"{len(some)} {side}" for side, some in examples.items())
    work.say(f"{sizes} pictures of {len(dataset.class_names)} species; on {engine.device}")
    for rule, count in Counter(problem.rule for problem in problems).items():
        detail = next(problem.detail for problem in problems if problem.rule == rule)
        known = SPLIT_RULES.get(rule)
        work.say(f"{detail}. {known}" if known else f"{count} x {rule}: see {run.problems_file}")
    if config.train.patience is not None and not len(examples["validation"]):
        work.say("train.patience: without validation pictures there is no mAP to wait for; it does nothing")
    learn(work, state)


def _absolute(config: RunConfig) -> RunConfig:
    """The config with whole paths, so that the run can be used from any working directory."""
    paths = {f"data.{name}": getattr(config.data, name) for name in ("path", "pictures", "cache")}
    paths["split.file"] = config.split.file
    return change_config(config, {name: path and path.resolve() for name, path in paths.items()})


def _require_same(before: RunConfig, after: RunConfig) -> None:
    """Raise ConfigError for a change that would make it another run."""
    old, new = flatten_config(before), flatten_config(after)
    for path, value in new.items():
        is_fixed = any(path == fixed or path.startswith(f"{fixed}.") for fixed in FIXED)
        if is_fixed and old[path] != value:
            raise ConfigError(
                f"{path}: is {old[path]} in this run and cannot become {value} on the way; start another run for that"
            )


def _require_room(config: RunConfig, folder: Path, dataset: CameraTrapDataset, quiet: bool) -> None:
    """Raise EngineError for what `ena24ssd.doctor` is certain will fail, before hours have gone into it."""
    if os.environ.get("DMLC_ROLE") == "worker" and config.kvstore is None:
        raise EngineError(
            "DMLC_ROLE is 'worker', but kvstore is null: every worker would train by itself. Add kvstore=dist_sync, or "
            "unset DMLC_ROLE"
        )
    if config.engine == "gluon" and int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise EngineError(
            "torchrun has started several workers, but engine is 'gluon': every worker would train by itself. Set "
            "engine=pytorch, or start them with 'python -m ena24ssd.cluster' and kvstore=dist_sync"
        )
    if config.engine == "pytorch" and config.kvstore is not None:
        raise EngineError(
            f"kvstore is '{config.kvstore}', MXNet's, but engine is 'pytorch': set kvstore=null and start the workers "
            "with 'torchrun --nproc-per-node 2 scripts/train.py ...'"
        )
    findings = preflight(config, folder, len(dataset.images))
    for finding in findings:
        if finding.state == "doubtful" and not quiet:
            tqdm.write(f"{finding.what}: {finding.detail}. {finding.way_out}")
    if not can_work(findings):
        faults = [f"{f.what}: {f.detail}. {f.way_out}" for f in findings if f.state == "cannot work"]
        raise EngineError("\n".join([*faults, "'ena24ssd doctor' looks at the whole machine"]))


def _still_there(run: Run, dataset: CameraTrapDataset) -> tuple[Split, str | None]:
    """The run's split without the pictures that are gone since, and a sentence about those."""
    known, named = {image.id for image in dataset.images}, [key for side in SIDES for key in getattr(run.split, side)]
    gone = sorted(set(named) - known)
    if not gone:
        return run.split, None
    if 2 * len(gone) > len(named):
        raise RunError(
            f"{run.folder}: {len(gone)} of the {len(named)} pictures of its split (first: {gone[0]!r}) are not among "
            f"the usable ones of {dataset.name}; 'ena24ssd check' says why, --data names another place for the data"
        )
    left = Split(*(tuple(key for key in getattr(run.split, side) if key in known) for side in SIDES))
    return (
        left,
        f"{len(gone)} pictures of the run's split are gone (first: {gone[0]!r}); put back, they take part again",
    )


def _weigh_species(config: RunConfig, dataset: CameraTrapDataset, split: Split) -> RunConfig:
    """The config with the weight of every species by name, which "balanced" takes from the training pictures."""
    learnt = set(split.train)
    images = [image for image in dataset.images if image.id in learnt]
    weights = species_weights(images, dataset.class_names, config.loss.species_weights)
    if weights is None:
        return config
    return change_config(config, {"loss.species_weights": dict(zip(dataset.class_names, map(float, weights)))})


def _settle_engine(config: RunConfig, first: str | None, quiet: bool) -> RunConfig:
    """The config with the name of the engine for 'auto', and why, where it is not the ``first``."""
    choice = choose_engine(config, first)
    if choice.reason is not None and not quiet:
        tqdm.write(f"engine {choice.engine}: {choice.reason}")
    return change_config(config, {"engine": choice.engine})


def _settle_batch(
    config: RunConfig, engine: Engine, dataset: CameraTrapDataset, pictures: int, quiet: bool
) -> RunConfig:
    """The config with a number for batch 'auto'."""
    if config.train.batch != "auto":
        return config
    if engine.workers > 1:
        raise ConfigError("train.batch: auto with several workers, who might find different numbers; name one")
    from ena24ssd.fitting import find_batch

    most = max(1, pictures // 10)  # else an epoch would hold next to no updates
    fit = find_batch(config, len(dataset.class_names), max_boxes(dataset, config), most, quiet=quiet)
    if not quiet:
        tqdm.write(str(fit))
    return change_config(config, {"train.batch": fit.batch})


def _read_sides(
    dataset: CameraTrapDataset, split: Split, config: RunConfig, quiet: bool
) -> tuple[dict[str, Examples], list[Problem]]:
    """The examples of each side of the split, and every problem met on the way."""
    show = None if quiet else lambda jobs: tqdm(jobs, "decoding", leave=False, unit="picture", disable=None)
    cache = cache_pictures(dataset, config.data.image_side, config.data.fit, config.data.cache, show)
    examples, problems = {}, list(dataset.problems)
    for side in SIDES:
        ids = getattr(split, side)
        examples[side], odd = read_examples(dataset, cache, ids, max_boxes(dataset, config), config.data.fit)
        problems += odd
    return examples, problems


def _require_batches(examples: Examples, config: RunConfig) -> None:
    """Raise ValueError where the train split does not fill one batch."""
    if not any(image.boxes for image in examples.images):
        what = (
            f"the {len(examples)} readable pictures of the train split have no box"
            if len(examples)
            else ("the train split has no readable picture")
        )
        raise ValueError(f"{what}; nothing can be learnt. 'ena24ssd check --deep' says what is there")
    if count_batches(len(examples), config.train.batch, config.train.drop_last) == 0:
        raise ValueError(
            f"the train split has {len(examples)} readable pictures, not one batch of {config.train.batch}; "
            "lower train.batch, set train.drop_last=false, or give more pictures"
        )
