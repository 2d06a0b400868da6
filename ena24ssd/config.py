"""Which choices make a run?

One frozen object, `RunConfig`, read from YAML and checked once. A preset states only what differs from the defaults
below; ``section.field=value`` overrides on the command line pass the same checks; the run folder keeps the whole.
The defaults are the sound choices. A quirk of the blog post is a named value of a named field (see configs/blog.yaml).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ena24ssd.efficientnet import MEAN, STD
from ena24ssd.prior import LevelAnchors

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Device = Annotated[str, Field(pattern=r"^(auto|(cpu|gpu)(:\d+)?)$")]

SHOWN = 200  # characters of a value that a message repeats


class ConfigError(ValueError):
    """A config that cannot be run; the message lists every mistake with its dotted path."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(Section):
    """Which pictures, and how they become squares of pixels."""

    path: Path | None = Field(None, description="Dataset folder, or its COCO Camera Traps json.")
    pictures: Path | None = Field(None, description="Folder the json's file names are relative to; null: looked for.")
    exclude_species: tuple[str, ...] = Field((), description="Leave out every picture that shows one of these.")
    image_side: Annotated[int, Field(ge=32, le=2048)] = Field(
        200, description="Pictures become squares of this many pixels; the network sees nothing else."
    )
    fit: Literal["squash", "letterbox"] = Field(
        "squash", description="squash: resize to the square, aspect given up (the post). letterbox: keep it, grey bars."
    )
    mean: tuple[float, float, float] = Field((0.485, 0.456, 0.406), description="Subtracted from pixels in [0, 1].")
    std: tuple[Positive, Positive, Positive] = Field((0.229, 0.224, 0.225), description="Then divided by this.")
    max_boxes: Count | None = Field(None, description="Truth rows a picture is padded to; null: the most any has.")
    cache: Path | None = Field(None, description="Folder of the resized-picture cache; null: the user's cache folder.")
    workers: Annotated[int, Field(ge=0, le=64)] = Field(2, description="Threads that prepare batches ahead; 0: none.")


class AugmentConfig(Section):
    """How training pictures are changed, anew in every epoch; boxes follow (ena24ssd/changes.py). All of it is off at
    zero.
    """

    flip: bool = Field(True, description="Mirror half of the pictures.")
    crop: Share = Field(0.4, description="Share of pictures cut to a part that shows its animals nearly whole.")
    expand: Share = Field(0.3, description="Share of pictures shrunk onto a grey canvas, to half their side at most.")
    light: Annotated[float, Field(ge=0, lt=1)] = Field(0.3, description="Brightness and contrast change by up to this.")
    colour: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.3, description="Saturation changes by up to this share, hue by up to half of it in radians."
    )
    infrared: Share = Field(0.1, description="Share of pictures made to look as if the infrared flash had taken them.")

    @model_validator(mode="after")
    def _one_change_of_size_a_picture(self) -> AugmentConfig:
        if self.crop + self.expand > 1 + 1e-9:
            raise ValueError(f"crop + expand is {self.crop + self.expand:g}; a picture gets one of them: at most 1")
        return self


class SplitConfig(Section):
    """Who learns, who chooses, who judges. A folder that brings train.json and valid.json has chosen already: kind and
    shares are then ignored.
    """

    kind: Literal["listing", "random", "grouped"] = Field(
        "grouped",
        description="listing: the post's first n files, no shuffle (leaks bursts). random: seeded shuffle (leaks "
        "bursts too). grouped: whole cameras on one side; where the json names none, bursts and near-duplicates.",
    )
    file: Path | None = Field(None, description="A saved split: a run's split.json, or by 'ena24ssd split --out'.")
    train: Annotated[float, Field(gt=0, le=1)] = Field(0.7, description="Share the network learns from.")
    validation: Share = Field(0.1, description="Share that chooses the best checkpoint; 0: the last one is kept.")
    test: Share = Field(0.2, description="Share that is measured and never decides anything.")

    @model_validator(mode="after")
    def _shares_make_a_whole(self) -> SplitConfig:
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            total = self.train + self.validation + self.test
            raise ValueError(f"train + validation + test is {total:g}; the three shares must add up to 1")
        return self


Numbers = Annotated[tuple[Positive, ...], Field(min_length=1)]


class ModelConfig(Section):
    """The network: which backbone, which of its feature maps, which anchors on them.

    A `custom_conv` has the post's heads on its single map. Any other backbone has a feature pyramid (Lin et al. 2017)
    and heads that all its maps share, but for BatchNorm.
    """

    backbone: Literal["custom_conv", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"] = Field(
        "custom_conv",
        description="custom_conv: the post's. efficientnet_lite0 (lite1, lite2: larger): 1/35 of its arithmetic, and "
        "it may come pretrained.",
    )
    pretrained: bool = Field(
        False, description="Begin with weights that have learnt ImageNet (extra 'pretrained'); not for custom_conv."
    )
    width: Annotated[float, Field(gt=0, le=4)] = Field(
        1.0, description="Scales every channel count of custom_conv; 1 is the post's network, 0.25 trains on a laptop."
    )
    levels: Annotated[tuple[Literal[8, 16, 32, 64, 128], ...], Field(min_length=1)] = Field(
        (16,),
        description="Pixels of the square between two cells of each feature map, each map half as fine as the one "
        "before. custom_conv has the one map of 16.",
    )
    pyramid: Annotated[int, Field(ge=8, le=1024)] = Field(128, description="Channels of the feature pyramid's maps.")
    towers: Annotated[int, Field(ge=0, le=8)] = Field(
        2, description="Separable convolutions before the class logits, and as many before the box offsets (pyramid)."
    )
    sizes: Numbers | Annotated[tuple[Numbers, ...], Field(min_length=1)] = Field(
        (0.27, 0.44, 0.52, 0.62, 0.71, 0.85),
        description="Anchor sides relative to the frame (sides, not areas); of several levels, a list for each.",
    )
    ratios: Numbers | Annotated[tuple[Numbers, ...], Field(min_length=1)] = Field(
        (1.0, 1.5, 2.0, 2.2),
        description="Anchor width / height; ratios after the first apply to the first size only. One list for all "
        "levels, or one for each.",
    )
    output_batchnorm: bool = Field(
        False, description="BatchNorm on custom_conv's class logits and box offsets themselves, as in the post."
    )
    frozen_statistics: bool | Literal["backbone"] = Field(
        False,
        description="Leave BatchNorm's running statistics as they are and use them in training too: for fine-tuning, "
        "or where a device sees too few pictures at once. backbone: those of the backbone alone.",
    )
    shared_statistics: bool = Field(
        False,
        description="BatchNorm's statistics in training are of the pictures of all workers, not of each worker's own "
        "(SyncBatchNorm; engine pytorch under torchrun).",
    )

    @model_validator(mode="after")
    def _one_network(self) -> ModelConfig:
        if self.backbone == "custom_conv":
            if self.levels != (16,):
                raise ValueError(f"levels is {list(self.levels)}; custom_conv has one feature map: [16]")
            if self.pretrained:
                raise ValueError("pretrained is true, but nobody has trained custom_conv; choose an efficientnet")
        else:
            is_row = all(finer * 2 == coarser for finer, coarser in pairwise(self.levels))
            if not is_row or 32 not in self.levels:  # without the last map, blocks of the backbone would stand idle
                raise ValueError(
                    f"levels is {list(self.levels)}; each is twice the one before, with 32 among them: [8, 16, 32, 64]"
                )
            if self.width != 1 or self.output_batchnorm:
                raise ValueError("width and output_batchnorm are custom_conv's; leave them out")
        for name, lists in (("sizes", self._lists(self.sizes)), ("ratios", self._lists(self.ratios))):
            is_shared = name == "ratios" and len(lists) == 1
            if len(lists) != len(self.levels) and not is_shared:
                raise ValueError(
                    f"{name} has {len(lists)} list{'s' * (len(lists) != 1)} for {len(self.levels)} levels; give one "
                    "for each"
                )
        if len(each := {level.per_cell for level in self.anchors}) > 1:
            raise ValueError(
                f"sizes and ratios make {min(each)} to {max(each)} anchors a cell; the heads are shared, so all levels "
                "need as many"
            )
        return self

    @property
    def freezes_backbone(self) -> bool:
        """Whether the backbone's BatchNorm keeps its running statistics."""
        return self.frozen_statistics is not False

    @property
    def freezes_heads(self) -> bool:
        """Whether the BatchNorm of all that is behind the backbone keeps its running statistics."""
        return self.frozen_statistics is True

    @property
    def anchors(self) -> tuple[LevelAnchors, ...]:
        """The anchors of every level, finest first."""
        sizes, ratios = self._lists(self.sizes), self._lists(self.ratios)
        return tuple(map(LevelAnchors, self.levels, sizes, ratios * (len(sizes) if len(ratios) == 1 else 1)))

    @staticmethod
    def _lists(values: tuple) -> tuple[tuple[float, ...], ...]:
        return values if isinstance(values[0], tuple) else (values,)


class LossConfig(Section):
    """What a wrong answer costs: class_loss + box_loss."""

    overlap: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="An anchor whose IoU with a box exceeds this is positive; each box's best anchor always is."
    )
    normalise_by: Literal["positives", "anchors"] = Field(
        "positives", description="Divide by the batch's positive anchors, or (the post) average over all anchors."
    )
    foreground_weight: NotNegative = Field(1.0, description="Weight of a positive anchor's cross-entropy.")
    background_weight: NotNegative = Field(1.0, description="Weight of a background anchor's cross-entropy.")
    species_weights: Literal["equal", "balanced"] | dict[str, Positive] = Field(
        "equal",
        description="Weight of a species' anchors in the cross-entropy. balanced: the rarer, the heavier "
        "(1 / boxes), 1 on average over the boxes. Or by name; a species that is not named weighs 1.",
    )
    box_weight: NotNegative = Field(1.0, description="Weight of the offsets' error.")
    box_error: Literal["smooth_l1", "l1"] = Field("smooth_l1", description="The post uses l1.")
    smooth_l1_beta: Positive = Field(0.5, description="Errors below this are squared, above it linear.")
    negatives_per_positive: NotNegative | None = Field(
        3.0, description="Hard-negative mining: learn from this many of the hardest background anchors per positive "
        "one, picture by picture; null: from all of them (the post)."
    )  # fmt: skip
    minimum_negatives: Annotated[int, Field(ge=0)] = Field(
        8, description="Mining keeps at least this many, so that blank pictures teach too."
    )


class OptimConfig(Section):
    """How the weights move."""

    name: Literal["adam", "adamw", "sgd"] = Field(
        "adam", description="The post uses sgd. adamw: Adam with weight decay beside the gradient, of kernels alone."
    )
    lr: Positive = Field(0.002, description="Learning rate (its peak, where the schedule changes it).")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="SGD only; the post uses none.")
    weight_decay: NotNegative = Field(
        1e-4,
        description="L2 penalty on every weight, added to its gradient. adamw: the share of a kernel that a step takes "
        "away, in learning rates.",
    )
    clip_norm: Positive | None = Field(
        10.0,
        description="Longest the gradient of a step may be (norm over all weights); it is shortened to this. "
        "null: as long as it likes (the post).",
    )
    schedule: Literal["constant", "step", "cosine", "plateau", "divide_when_loss_rises"] = Field(
        "cosine",
        description="cosine: down to zero at the last step. step: divided at the shares in step_at. plateau: divided "
        "once the training loss stops falling (what the post meant). divide_when_loss_rises: what the post does: "
        "after an epoch whose loss did not fall it divides at every batch, which ends training for good.",
    )
    warmup: Share = Field(
        0.03, description="Share of all steps over which the rate rises from zero (constant, step, cosine)."
    )
    divide_by: Annotated[float, Field(gt=1)] = Field(
        5.0, description="What the rate is divided by (step, plateau, divide_when_loss_rises)."
    )
    step_at: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.6, 0.85), description="Shares of all steps after which schedule 'step' divides the rate."
    )
    plateau_patience: Count = Field(
        1, description="Epochs in a row without a new lowest training loss before schedule 'plateau' divides the rate."
    )
    head_epochs: Annotated[int, Field(ge=0)] = Field(
        0,
        description="The first stage: for so many epochs a pretrained backbone stays as it is, and all behind it "
        "learns. 0: everything learns from the first step.",
    )
    late_share: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="The second stage: this share of the backbone's blocks, its last ones, learn too."
    )
    late_lr: Positive = Field(
        0.001, description="Its peak learning rate; warm-up and schedule begin anew, and so does the optimizer."
    )
    backbone_rate: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="The backbone's learning rate, as a share of that of what is behind it."
    )
    average: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Measure, keep and export a running average of the weights, of which a step keeps this share "
        "(less in the first steps): steadier than the last step's. null: the weights themselves.",
    )


class TrainConfig(Section):
    """How long, and in what portions."""

    epochs: Count = 50
    batch: Count | Literal["auto"] = Field(
        8,
        description="Pictures an update learns from, over all devices and workers. auto: as many as fit into memory, "
        "but no more than a tenth of those there are.",
    )
    accumulate: Count = Field(
        1,
        description="Work through a batch in this many portions, one after another, and then update once: the same "
        "gradient in less memory, but for BatchNorm, which sees a portion at a time.",
    )
    drop_last: bool = Field(False, description="Leave out an epoch's last, smaller batch, as the post does.")
    repeat_below: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="Show pictures of species that are on less than this share of the pictures more often "
        "(repeat-factor sampling); null: every picture once an epoch.",
    )
    patience: Count | None = Field(
        None, description="End after this many epochs in a row without a better validation mAP; null: never."
    )
    max_minutes: Positive | None = Field(
        None, description="End after this many minutes of training, over all sittings; null: never."
    )
    checkpoint_minutes: NotNegative = Field(
        10.0, description="While learning, keep the state within an epoch too, this often; 0: after every step."
    )
    memory_gb: Positive | None = Field(
        None, description="What batch 'auto' may fill on a CPU; null: four fifths of what is free."
    )


class EvaluationConfig(Section):
    """How boxes are read off the network, and which of them count."""

    score: Share = Field(0.5, description="Detections below this are not drawn, nor counted by precision and recall.")
    nms: Annotated[float, Field(gt=0, le=1)] = Field(0.5, description="Two boxes of one species over this IoU are one.")
    class_agnostic_nms: bool = Field(False, description="Let a box suppress boxes of other species too.")
    floor: Share = Field(0.01, description="Detections below this are not even looked at, by mAP neither.")
    candidates: Count = Field(200, description="Best-scored boxes a picture brings to NMS.")
    recall: Annotated[float, Field(gt=0, le=1)] = Field(
        0.95, description="Share of animal pictures to keep, where it is asked how many pictures nobody need look at."
    )
    resamples: Annotated[int, Field(ge=0, le=100_000)] = Field(
        1000,
        description="Draws of whole bursts from which 'evaluate' says how far its figures may be off: 100 at least, or "
        "0 for none.",
    )
    drawn: Literal["bursts", "cameras"] = Field(
        "bursts",
        description="What is drawn for that. bursts: how far figures may be off for more pictures of these cameras. "
        "cameras, where the json names them: for other cameras, which is more, and takes many of them to say.",
    )
    protocol: Literal["honest", "post"] = Field(
        "honest",
        description="post: besides the honest figures, what the post would have published of the same weights "
        "(its last training batch, anchors instead of animals, two digits), shortcut by shortcut.",
    )

    @model_validator(mode="after")
    def _enough_draws(self) -> EvaluationConfig:
        if 0 < self.resamples < 100:
            raise ValueError(f"resamples is {self.resamples}; the ends of a range need 100 draws at least (0: none)")
        return self

    @property
    def reading(self) -> dict[str, float | bool]:
        """What decides which boxes there are, whatever their scores."""
        return {name: getattr(self, name) for name in ("nms", "class_agnostic_nms", "floor", "candidates")}


class LogConfig(Section):
    """What TensorBoard gets besides the curves."""

    histograms: bool = Field(True, description="Of weights, biases and their gradients, after every epoch.")
    graph: bool = True
    pictures: Annotated[int, Field(ge=0, le=64)] = Field(6, description="Drawn detections logged after every epoch.")


class RunConfig(Section):
    """Every choice of a run; see the fields of each section for what they do."""

    engine: Literal["auto", "gluon", "pytorch"] = Field(
        "auto",
        description="What computes. auto: gluon (MXNet, the reference) for custom_conv, pytorch for other backbones, "
        "which it is faster with; the other one where that cannot run. They read and write the same run folders.",
    )
    device: Device | Annotated[tuple[Device, ...], Field(min_length=1)] = Field(
        "auto",
        description="auto: the first GPU that can run an operation, else the CPU. Also cpu, gpu, gpu:1, or a list like "
        "[gpu:0, gpu:1], over which every batch is spread.",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Of convolutions; weights, statistics, losses and boxes stay float32. auto: bfloat16 with engine "
        "pytorch on a GPU or CPU that multiplies it natively, else float32. gluon knows float32 only.",
    )
    compile: Literal["auto", "eager", "fuse", "graphs"] = Field(
        "auto",
        description="torch.compile for training steps (engine pytorch). fuse: merge operations around convolutions, "
        "after a minute of compiling. graphs: record them as CUDA graphs as well. auto: fuse on a GPU, eager on a CPU.",
    )
    kvstore: Literal["dist_sync"] | None = Field(
        None,
        description="dist_sync: several machines train together through MXNet's parameter server (README). With engine "
        "pytorch, torchrun alone says who takes part.",
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    split: SplitConfig = SplitConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    log: LogConfig = LogConfig()

    @model_validator(mode="after")
    def _backbone_sees_what_it_knows(self) -> RunConfig:
        side, coarsest = self.data.image_side, max(self.model.levels)
        if self.model.backbone != "custom_conv" and side % coarsest:
            raise ValueError(
                f"data.image_side is {side}, which is no multiple of {coarsest}, the coarsest map of "
                f"{self.model.backbone}; take {-(-side // coarsest) * coarsest}"
            )
        if self.model.pretrained and (self.data.mean, self.data.std) != (MEAN, STD):
            raise ValueError(
                f"{self.model.backbone} was pretrained on other pixels: set data.mean={list(MEAN)} and "
                f"data.std={list(STD)}"
            )
        return self

    @model_validator(mode="after")
    def _frozen_is_frozen(self) -> RunConfig:
        if self.optim.head_epochs and not self.model.freezes_backbone:
            raise ValueError(
                "optim.head_epochs leaves the backbone as it is, but its BatchNorm would go on learning statistics: "
                "set model.frozen_statistics=backbone"
            )
        return self

    @model_validator(mode="after")
    def _workers_agree_on_a_batch(self) -> RunConfig:
        if self.kvstore is not None and self.train.batch == "auto":
            raise ValueError("kvstore with train.batch auto: workers might find different numbers; name one")
        return self


def read_config(path: Path | str | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """The config of a YAML file (or the defaults), with ``section.field=value`` overrides laid over it.

    Override values are read as YAML: ``model.sizes=[0.2,0.4]``, ``data.max_boxes=null``.
    Raises ConfigError naming every mistake by its dotted path.
    """
    source = str(path) if path is not None else "defaults"
    choices: Any = {}
    if path is not None:
        try:
            choices = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such config file; the presets are in configs/") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as fault:
            raise ConfigError(f"{path}: cannot be read as YAML: {fault}") from fault
        choices = {} if choices is None else choices
        if not isinstance(choices, dict):
            raise ConfigError(f"{path}: holds {type(choices).__name__}; a config is a mapping of sections")
    for override in overrides:
        _lay_over(choices, override)
    return check_config(choices, source)


def check_config(choices: dict[str, Any], source: str = "config") -> RunConfig:
    """Validate plain data; raises ConfigError listing all mistakes at once."""
    try:
        return RunConfig.model_validate(choices)
    except ValidationError as fault:
        mistakes: dict[str, list[str]] = {}
        got = {}
        for error in fault.errors():
            where = ".".join(_field_path(error["loc"])) or "(whole)"
            rule = "no such field" if error["type"] == "extra_forbidden" else error["msg"].removeprefix("Value error, ")
            mistakes.setdefault(where, []).append(rule)
            # A rule of this module's own says itself what it got, and its input is a whole section.
            if error["type"] not in ("extra_forbidden", "missing", "value_error"):
                value = repr(error["input"])
                got[where] = f" (got {value[:SHOWN]}{' ...' if len(value) > SHOWN else ''})"
        lines = (
            f"  {where}: {' or '.join(dict.fromkeys(rules))}{got.get(where, '')}" for where, rules in mistakes.items()
        )
        raise ConfigError(f"{source}: {len(mistakes)} mistake(s)\n" + "\n".join(lines)) from None


def _field_path(location: Sequence[Any]) -> list[str]:
    """The fields of a place that pydantic names: without what it says about the kinds that a field may be of."""
    path, section = [], RunConfig
    for part in location:
        path.append(str(part))
        field = section.model_fields.get(part) if isinstance(part, str) else None
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, Section)):
            break
        section = field.annotation
    return path


def change_config(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """The config with some fields, named by dotted path, set anew; checked as a whole. Raises ConfigError."""
    choices = config.model_dump()
    for path, value in changes.items():
        *sections, field = path.split(".")
        place = choices
        for section in sections:
            place = place[section]
        place[field] = value
    return check_config(choices)


def override_config(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The config with ``section.field=value`` laid over it, as `read_config` does. Raises ConfigError."""
    choices = config.model_dump()
    for override in overrides:
        _lay_over(choices, override)
    return check_config(choices, "overrides")


def flatten_config(config: RunConfig) -> dict[str, Any]:
    """Every choice by its dotted path, in the order of the config, as plain values."""
    flat: dict[str, Any] = {}
    for name, value in config.model_dump(mode="json").items():
        if isinstance(getattr(config, name), Section):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat


def dump_config(config: RunConfig) -> str:
    """The whole config as YAML that `read_config` reads back to an equal object."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _lay_over(choices: dict[str, Any], override: str) -> None:
    path, equals, value = override.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"override {override!r}: write it as section.field=value, for example optim.lr=0.005")
    *sections, field = path.strip().split(".")
    for section in sections:
        choices = choices.setdefault(section, {})
        if not isinstance(choices, dict):
            raise ConfigError(f"override {override!r}: {section!r} is a value, not a section")
    try:
        choices[field] = yaml.safe_load(value)
    except yaml.YAMLError as fault:
        raise ConfigError(f"override {override!r}: the value is not YAML: {fault}") from fault
