"""Recognition: tasks (classes, segmentation, detection) and the networks whose patch features solve them.

Every task of `recognition_tasks` is trained on every network of `recognition_networks`, so that all of them are
compared by one protocol.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from stages.core.params import Section, impossible, kind_of, load, load_list, load_value
from stages.core.progress import LARGE_BASE_BYTES
from stages.core.schemas import TRAINED, Affine, Optim
from stages.data.dvc_folder import NO_FOLDER, refuse_unreadable

PARAMS = Path("params.yaml")
TASKS, NETWORKS = "recognition_tasks", "recognition_networks"  # lists in studies/params.yaml
DATA = "data"  # the section recognition.data is no task
LEVELS = 4  # of a feature pyramid at most: 4, 2, 1 and 1/2 times the grid of patches
PASSES_OVER_LOGITS = 3  # per pixel in memory at once: logits, their logarithms of softmax, the gradient
Blocks = Annotated[list[int], Field(min_length=1)]  # from 0, or from the end if negative


class Maps(NamedTuple):
    """The maps of patch features that a head reads: channels of each, and their side."""

    dims: list[int]
    grid: int


class Data(Section):
    """What tasks read beside the images artifact; NO_FOLDER stands for nothing."""

    segmentation: str  # a folder of ADE20K's form; else the masks of the scenes
    detection: str  # a folder of COCO's form; else the boxes of the scenes
    alternating: str  # the folder of alternating generators, where a network names one
    crop: Literal["center", "pad", "resize"]  # of images in these folders, as data.crop

    @model_validator(mode="after")
    def folders_are_there(self) -> Self:
        for key in ("segmentation", "detection", "alternating"):
            if (path := getattr(self, key)) == NO_FOLDER:
                continue
            if key != "alternating" and not Path(path or "?").is_dir():
                raise ValueError(f"{key} = {path!r}: expected a folder, or {NO_FOLDER} for the scenes' own")
            if key != "alternating":
                refuse_unreadable(key, Path(path))
        return self


class Pixels(Section):
    """The values of a patch's pixels."""

    kind: Literal["pixels"]
    patch_px: int = Field(gt=0)


class EncoderNetwork(Section):
    """The frozen encoder of the pipeline."""

    kind: Literal["encoder"]
    blocks: Blocks


class Random(Section):
    """The same network with random weights."""

    kind: Literal["random"]
    blocks: Blocks
    seed: int = Field(ge=0)


class GeneratorNetwork(Section):
    """A generator's transformer over the codes of the image, or the pixel encoder of an alternating generator."""

    kind: Literal["generator", "alternating"]
    tokenizer: str
    generator: str
    blocks: Blocks


Network = Pixels | EncoderNetwork | Random | GeneratorNetwork
NETWORK_KINDS: dict[str, type[Network]] = {
    "pixels": Pixels, "encoder": EncoderNetwork, "random": Random, "generator": GeneratorNetwork,
    "alternating": GeneratorNetwork,
}  # fmt: skip


class Tuning(Section):
    """How the network is trained along with the head."""

    layer_decay: float = Field(gt=0, le=1)  # of the learning rate, per block from the head down
    drop_path: float = Field(ge=0, lt=1)  # share of images that skip a branch of the last block; linear from the first


class Task(Section):
    """Common to all tasks. tuning null: the network stays frozen, only the head is trained."""

    tuning: Tuning | None
    max_train_images: int = Field(ge=0)
    max_val_images: int = Field(ge=0)
    optim: Optim

    def peak_bytes(self, network: int, head: int, maps: Maps, img_px: int, logits: int = 0) -> int:
        """Memory of a training; `network` and `head`: numbers of parameters; `logits`: values per pixel."""
        trained = head + (network if self.tuning else 0)
        values = maps.grid**2 * sum(maps.dims) * (12 if self.tuning else 2)
        values += (8 + PASSES_OVER_LOGITS * logits) * img_px**2
        return LARGE_BASE_BYTES + TRAINED * trained + 4 * network + 4 * self.optim.batch_size * values


class Mixing(Section):
    """timm's Mixup: parameters of the beta distributions, 0 for never; each batch is mixed in one of both ways."""

    mixup: float = Field(ge=0)
    cutmix: float = Field(ge=0)
    label_smoothing: float = Field(ge=0, lt=1)


class Finetune(Task):
    """Classes of images, from the mean over patches."""

    kind: Literal["finetune"]
    augment: Affine
    mixing: Mixing

    @model_validator(mode="after")
    def pairs_can_be_mixed(self) -> Self:
        if (self.mixing.mixup or self.mixing.cutmix) and self.optim.batch_size % 2:
            raise ValueError(
                f"optim.batch_size = {self.optim.batch_size}: expected an even number with mixup or cutmix"
            )
        return self


class Segmentation(Task):
    """A class per pixel."""

    kind: Literal["segmentation"]
    upernet_width: int = Field(ge=0)  # channels of a UPerNet head; 0: a linear head
    augment: Affine


class Detection(Task):
    """Boxes with a class: Faster R-CNN on a simple feature pyramid."""

    kind: Literal["detection"]
    width: int = Field(gt=0)  # channels of the pyramid and of the heads' first layers
    anchors_px: list[int] = Field(min_length=2, max_length=LEVELS)  # side of each level's anchors, finest level first
    proposals: int = Field(gt=0)  # per image, in training and evaluation
    samples: int = Field(gt=0)  # anchors and proposals per image that are trained
    hflip: bool

    @field_validator("anchors_px")
    @classmethod
    def anchors_are_positive(cls, sides: list[int]) -> list[int]:
        if min(sides) < 1 or sides != sorted(sides):
            raise ValueError(f"{sides}: expected positive sides, from the smallest to the largest")
        return sides


AnyTask = Finetune | Segmentation | Detection


@dataclass(frozen=True)
class Kind:
    """One kind of task; `module` has a class `Trainer`."""

    schema: type[AnyTask]
    module: str


KINDS = {
    "finetune": Kind(Finetune, "stages.recognition.finetune"),
    "segmentation": Kind(Segmentation, "stages.recognition.segmentation"),
    "detection": Kind(Detection, "stages.recognition.detection"),
}


def load_data(path: Path = PARAMS) -> Data:
    """The section `recognition.data`."""
    return load(f"recognition.{DATA}", Data, path)


def load_task(name: str, path: Path = PARAMS) -> AnyTask:
    """The section `recognition.<name>`, checked against the schema of its kind."""
    if name == DATA:
        raise impossible(TASKS, name, "the section recognition.data is no task")
    section = f"recognition.{name}"
    return load(section, KINDS[kind_of(section, KINDS, path)].schema, path)


def load_network(name: str, path: Path = PARAMS) -> Network:
    """The section `recognition_network.<name>`, checked against the schema of its kind."""
    section = f"recognition_network.{name}"
    return load(section, NETWORK_KINDS[kind_of(section, NETWORK_KINDS, path)], path)


def levels_of(task: AnyTask) -> int:
    """How many levels the pyramid of a task has; 0 if it has none."""
    if isinstance(task, Detection):
        return len(task.anchors_px)
    return LEVELS if isinstance(task, Segmentation) and task.upernet_width else 0


def check_labels(tasks: dict[str, AnyTask], path: Path) -> None:
    """Refuse tasks without masks or boxes: they are those of a folder, or of rendered scenes."""
    data, source = load_data(path), load_value("data.source", path)
    for task, section in tasks.items():
        folder = getattr(data, section.kind, "")  # none for classes
        if folder == NO_FOLDER and source != "scenes":
            why = f"{task} on data.source: {source} needs a folder"
            raise impossible(f"recognition.{DATA}.{section.kind}", folder, why)


def check_lists(path: Path = PARAMS) -> None:
    """Refuse networks in use whose tokenizer or generator is not, or whose blocks a task cannot take."""
    tasks = {task: load_task(task, path) for task in load_list(TASKS, path, empty=True)}
    check_labels(tasks, path)
    levels = {task: levels_of(section) for task, section in tasks.items()}
    for name in load_list(NETWORKS, path, empty=True):
        network, key = load_network(name, path), f"recognition_network.{name}"
        blocks = [-1] if isinstance(network, Pixels) else network.blocks
        for task in (task for task, count in levels.items() if count and len(blocks) not in (1, count)):
            raise impossible(f"{key}.blocks", blocks, f"recognition.{task} takes 1, or {levels[task]}, one per level")
        if not isinstance(network, GeneratorNetwork):
            continue
        owner = "generators" if network.kind == "generator" else "alternating_generators"
        for field, listed in (("tokenizer", "tokenizers"), ("generator", owner)):
            if (value := getattr(network, field)) not in load_list(listed, path, empty=True):
                raise impossible(f"{key}.{field}", value, f"expected a member of `{listed}`")
        if network.kind == "alternating" and load_data(path).alternating == NO_FOLDER:
            raise impossible(f"recognition.{DATA}.alternating", NO_FOLDER, "expected data/alternating_generator")
