"""The registry: every architecture, task and model by name, in numbers, without torch.

Sources: Kuen et al., "DelugeNets", arXiv 1611.05552, section 4 (architectures) and tables 1 to 3
(published figures). Mean and standard deviation are the usual ones of each data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from delugeserve.errors import UnknownNameError, UsageError

Stem = Literal["cifar", "imagenet"]
Shortcut = Literal["1x1", "3x3"]

_PACKAGE = Path(__file__).parent
_LARGEST_IN_MEMORY = 64  # pixels
_STEM_STRIDES: Mapping[Stem, int] = {"cifar": 1, "imagenet": 4}


@dataclass(frozen=True)
class Task:
    """What a network classifies, and how an image becomes its input.

    Attributes:
        name: an identifier, such as ``cifar10``.
        title: the name to print.
        class_names: one name per logit.
        image_size: height and width of the network's input, in pixels.
        resize_size: length that an image's shorter side is resized to before the centre crop, in
            pixels.
        mean: per-channel mean of RGB in [0, 1].
        std: per-channel standard deviation of RGB in [0, 1].
    """

    name: str
    title: str
    class_names: tuple[str, ...]
    image_size: int
    resize_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def fits_memory(self) -> bool:
        """Whether training reads all its images into memory; larger ones are read as needed."""
        return self.image_size <= _LARGEST_IN_MEMORY


@dataclass(frozen=True)
class Architecture:
    """The layers of a network in numbers, without the classifier's size.

    Attributes:
        name: its name in the registry.
        stem: the layers before the first block.
        widths: base width of each block; a block's outputs have twice as many channels.
        layers: number of composite layers of each block.
        baseline: None for a DelugeNet; for a ResNet-like baseline of the paper's table 2, the
            convolution between two blocks.
    """

    name: str
    stem: Stem
    widths: tuple[int, ...]
    layers: tuple[int, ...]
    baseline: Shortcut | None = None

    @property
    def depth(self) -> int:
        """Number of layers: three per composite layer, the stem and the classifier."""
        return 3 * sum(self.layers) + 2

    @property
    def stride(self) -> int:
        """Pixels of the input per pixel of the last block; image sizes are its multiples."""
        transitions = len(self.layers) - 1
        return _STEM_STRIDES[self.stem] << transitions

    def check_image_size(self, size: int) -> None:
        """Check that the network accepts images of a size.

        Args:
            size: height and width in pixels.

        Raises:
            UsageError: it does not; the remedy names the nearest sizes that fit.
        """
        stride = self.stride
        if size >= stride and size % stride == 0:
            return
        below = size // stride * stride
        nearest = f"{below} or {below + stride}" if below > 0 else f"{stride}"
        raise UsageError(
            f"Images of {size} x {size} pixels do not fit {self.name}: "
            f"the size must be a multiple of {stride}.",
            f"Use an image size of {nearest}.",
        )


@dataclass(frozen=True)
class Published:
    """The paper's figures of a model.

    Attributes:
        params_m: parameters, in millions.
        gflops: 10^9 floating-point operations per image, by the paper's count; see
            :mod:`delugeserve.networks.flops`.
        top1_error: in percent.
        top5_error: in percent; None if the paper has no figure.
    """

    params_m: float
    gflops: float
    top1_error: float
    top5_error: float | None = None


@dataclass(frozen=True)
class ModelSpec:
    """A network: an architecture with a classifier for a task.

    Attributes:
        name: of the network: a name in the registry, or the user's own, such as ``flowers``.
        architecture: its layers.
        task: what it classifies.
        published: the paper's figures; None if the model is not in the paper.
    """

    name: str
    architecture: Architecture
    task: Task
    published: Published | None = None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of an input image, ``(3, H, W)``."""
        return (3, self.task.image_size, self.task.image_size)

    def with_classes(self, class_names: Iterable[str]) -> ModelSpec:
        """Return the same network for other classes; size and normalisation stay."""
        return replace(self, task=replace(self.task, class_names=tuple(class_names)))

    @property
    def weights(self) -> Path | None:
        """The trained checkpoint that ships with the package, if there is one."""
        path = _PACKAGE / "weights" / f"{self.name}.safetensors"
        return path if path.is_file() else None


def _class_names(task: str) -> tuple[str, ...]:
    path = _PACKAGE / "data" / "classes" / f"{task}.txt"
    # Not splitlines(), which ends a line at other characters too.
    return tuple(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"))


CIFAR10 = Task(
    "cifar10",
    "CIFAR-10",
    _class_names("cifar10"),
    32,
    32,
    (0.4914, 0.4822, 0.4465),
    (0.2470, 0.2435, 0.2616),
)
CIFAR100 = Task(
    "cifar100",
    "CIFAR-100",
    _class_names("cifar100"),
    32,
    32,
    (0.5071, 0.4865, 0.4409),
    (0.2673, 0.2564, 0.2762),
)
IMAGENET = Task(
    "imagenet",
    "ImageNet",
    _class_names("imagenet"),
    224,
    256,
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)

CLOTHING = Task(
    "clothing",
    "Clothing",
    _class_names("clothing"),
    128,
    146,
    (0.5162, 0.4529, 0.4518),
    (0.2581, 0.2450, 0.2333),
)

TASKS: Mapping[str, Task] = MappingProxyType(
    {task.name: task for task in (CIFAR10, CIFAR100, IMAGENET, CLOTHING)}
)

_NARROW, _USUAL, _WIDE = (16, 32, 64), (32, 64, 128), (56, 112, 224)
_LAYERS_38, _LAYERS_74 = (2, 4, 6), (4, 8, 12)
_LAYERS_146, _LAYERS_218 = (8, 16, 24), (12, 24, 36)


def _cifar(
    name: str,
    widths: tuple[int, ...],
    layers: tuple[int, ...],
    cifar10: Published | None = None,
    cifar100: Published | None = None,
) -> Iterator[ModelSpec]:
    """Yield a network for CIFAR-10 and, if the paper has figures of it, for CIFAR-100."""
    architecture = Architecture(name, "cifar", widths, layers)
    yield ModelSpec(name, architecture, CIFAR10, cifar10)
    if cifar100:
        yield ModelSpec(f"{name}_cifar100", architecture, CIFAR100, cifar100)


def _imagenet(name: str, layers: tuple[int, ...], published: Published) -> ModelSpec:
    architecture = Architecture(name, "imagenet", (64, 128, 256, 512), layers)
    return ModelSpec(name, architecture, IMAGENET, published)


def _photographs(
    name: str, widths: tuple[int, ...], layers: tuple[int, ...]
) -> Iterator[ModelSpec]:
    """Yield a network for ImageNet and for the photographs of clothing."""
    architecture = Architecture(name, "imagenet", widths, layers)
    yield ModelSpec(name, architecture, IMAGENET)
    yield ModelSpec(f"{name}_{CLOTHING.name}", architecture, CLOTHING)


def _baselines(
    name: str,
    widths: tuple[int, ...],
    layers: tuple[int, ...],
    task: Task,
    published: Mapping[Shortcut, Published | None],
) -> Iterator[ModelSpec]:
    """Yield the two ResNet-like baselines of one size (table 2)."""
    suffix = "" if task is CIFAR10 else f"_{task.name}"
    for shortcut, figures in published.items():
        architecture = Architecture(f"{name}_{shortcut}", "cifar", widths, layers, shortcut)
        yield ModelSpec(f"{architecture.name}{suffix}", architecture, task, figures)


_MODELS = (
    # Not in the paper: its rule, in a size that can be trained on a CPU.
    *_cifar("delugenet38", _NARROW, _LAYERS_38),
    *_cifar("wide_delugenet38", _USUAL, _LAYERS_38),
    *_cifar("delugenet74", _NARROW, _LAYERS_74),
    # Tables 1 and 2.
    *_cifar(
        "delugenet146",
        _USUAL,
        _LAYERS_146,
        Published(6.69, 1.43, 3.98),
        Published(6.69, 1.43, 19.72),
    ),
    *_cifar(
        "delugenet218",
        _USUAL,
        _LAYERS_218,
        Published(10.00, 2.13, 3.88),
        Published(10.00, 2.13, 19.31),
    ),
    *_cifar(
        "wide_delugenet146",
        _WIDE,
        _LAYERS_146,
        Published(20.19, 4.31, 3.76),
        Published(20.19, 4.31, 19.02),
    ),
    # Table 3.
    _imagenet("delugenet92", (7, 7, 8, 8), Published(43.4, 11.8, 22.05, 6.03)),
    _imagenet("delugenet104", (7, 8, 9, 10), Published(51.4, 13.2, 21.86, 5.98)),
    _imagenet("delugenet122", (7, 9, 11, 13), Published(63.6, 15.2, 21.53, 5.86)),
    # Not in the paper: its rule for photographs, in a size that can be trained on a CPU.
    *_photographs("delugenet32", (16, 32, 64, 128), (2, 2, 3, 3)),
    # Table 2's baselines, and those of our own networks.
    *_baselines("baseline38", _NARROW, _LAYERS_38, CIFAR10, {"1x1": None, "3x3": None}),
    *_baselines("baseline74", _NARROW, _LAYERS_74, CIFAR10, {"1x1": None, "3x3": None}),
    *_baselines(
        "baseline146",
        _USUAL,
        _LAYERS_146,
        CIFAR100,
        {"1x1": Published(6.15, 1.33, 21.14), "3x3": Published(6.50, 1.39, 20.84)},
    ),
    *_baselines(
        "baseline218",
        _USUAL,
        _LAYERS_218,
        CIFAR100,
        {"1x1": Published(9.26, 1.98, 20.78), "3x3": Published(9.55, 2.05, 20.31)},
    ),
    *_baselines(
        "wide_baseline146",
        _WIDE,
        _LAYERS_146,
        CIFAR100,
        {"1x1": Published(18.76, 4.05, 19.79), "3x3": Published(19.82, 4.25, 19.98)},
    ),
)

MODELS: Mapping[str, ModelSpec] = MappingProxyType({model.name: model for model in _MODELS})


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {model.architecture.name: model.architecture for model in _MODELS}
)


def find_model(name: str) -> ModelSpec:
    """Look up a model by name.

    Raises:
        UnknownNameError: there is no such model.
    """
    try:
        return MODELS[name]
    except KeyError:
        raise UnknownNameError("model", name, MODELS) from None


def find_architecture(name: str) -> Architecture:
    """Look up an architecture by its name or by that of a registered model.

    Raises:
        UnknownNameError: there is no such architecture.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    if name in MODELS:
        return MODELS[name].architecture
    raise UnknownNameError("model", name, {**MODELS, **ARCHITECTURES})


def find_baselines(spec: ModelSpec) -> tuple[ModelSpec, ...]:
    """Return the ResNet-like baselines of a DelugeNet's size and task."""
    ours = spec.architecture
    size = (ours.stem, ours.widths, ours.layers)
    return tuple(
        other
        for other in MODELS.values()
        if not ours.baseline and other.architecture.baseline and other.task == spec.task
        if (other.architecture.stem, other.architecture.widths, other.architecture.layers) == size
    )
