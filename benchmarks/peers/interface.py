"""What the benchmark knows of a server: how it is installed and started, and how it is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from delugeserve_client import Preprocessing

PIXELS, JPEG, GRPC = "pixels", "jpeg", "grpc"
WORKLOADS: Mapping[str, str] = {
    PIXELS: "uint8 pixels in, probabilities out, HTTP",
    JPEG: "JPEG in, labels out, HTTP",
    GRPC: "uint8 pixels in, probabilities out, gRPC",
}
"""Title of each workload, by name."""

HERE = Path(__file__).parent
APPS = HERE / "apps"
REQUIREMENTS = HERE / "requirements"
DOCS = HERE.parents[1] / "docs" / "peers.md"


@dataclass(frozen=True)
class Model:
    """The artefact that every server runs.

    Attributes:
        name: the model's name.
        repository: the model repository.
        folder: the served version's folder.
        artefact: file in it that the engine loads.
        precision: OpenVINO's name of what it computes in.
        shape: height, width and channels of the input.
        preprocessing: how an image becomes the input.
        labels: class names.
        top_k: number of classes in an answer with labels.
    """

    name: str
    repository: Path
    folder: Path
    artefact: Path
    precision: str
    shape: tuple[int, int, int]
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    top_k: int

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.labels)


@dataclass(frozen=True)
class Batching:
    """The dynamic batching of the peers; our server has its own, in config.pbtxt.

    Attributes:
        size: largest batch.
        delay: seconds that the first image of a batch waits for others.
        workers: processes that run an engine each, and share the cores.
        threads: threads of each engine; 0 is all cores.
        plain: run OpenVINO as its documentation shows, not by the engine of our server.
    """

    size: int = 32
    delay: float = 0.002
    workers: int = 1
    threads: int = 0
    plain: bool = False


@dataclass(frozen=True)
class Launch:
    """What a server is started with.

    Attributes:
        python: the interpreter of its environment.
        model: what it serves.
        batching: how it forms batches.
        http_port: where it listens on loopback.
        grpc_port: the same for gRPC, where it has it.
        metrics_port: the same for metrics.
        folder: an empty folder for configuration files.
    """

    python: Path
    model: Model
    batching: Batching
    http_port: int
    grpc_port: int
    metrics_port: int
    folder: Path


@dataclass(frozen=True)
class Form:
    """How one image is put into an HTTP request, and how an answer is read.

    The functions are those of a module, so that a form can be pickled.

    Attributes:
        path: path of the URL; ``{model}`` and ``{top_k}`` are replaced.
        body: body, from the model and an image: its pixels, or its file.
        read: probabilities from the answer's body and the number of classes, as the bytes of
            float32 ``[classes]``; a class that is not in the answer has 0.
        content_type: of the body.
        headers: other headers beside Host and Content-Length, from the model.
    """

    path: str
    body: Callable[[Model, bytes], bytes]
    read: Callable[[bytes, int], bytes]
    content_type: str
    headers: Callable[[Model], Mapping[str, str]] | None = None

    def url(self, model: Model) -> str:
        """Return the path of the URL."""
        return self.path.format(model=model.name, top_k=model.top_k)

    def all_headers(self, model: Model) -> dict[str, str]:
        """Return the headers beside Host and Content-Length."""
        return {"Content-Type": self.content_type, **(self.headers(model) if self.headers else {})}


@dataclass(frozen=True)
class Peer:
    """A server to compare.

    Attributes:
        name: name in options and file names; of the requirements too.
        title: name in tables.
        distribution: the package whose version is printed.
        command: program and arguments.
        forms: how it is asked, by workload; None for gRPC as Triton takes it.
        environment: environment variables, in addition to those of every peer.
        installed: whether it runs in this environment, not in one of its own.
        delayed: it can be told how long to wait for more images.
        adapts: it waits as long as past load made it wait, so it is started again after an
            overload.
        workers: number of its workers, from the number of cores.
        documentation: pages by which it is set up.
    """

    name: str
    title: str
    distribution: str
    command: Callable[[Launch], list[str]]
    forms: Mapping[str, Form | None]
    environment: Callable[[Launch], Mapping[str, str]] = lambda _: {}
    installed: bool = False
    delayed: bool = True
    adapts: bool = False
    workers: Callable[[int], int] = lambda _: 1
    documentation: tuple[str, ...] = ()

    def http_form(self, workload: str) -> Form:
        """Return how it is asked over HTTP; for gRPC, the same workload over HTTP."""
        form = self.forms[PIXELS if workload == GRPC else workload]
        if form is None:
            raise ValueError(f"{self.title} has no form for {workload}")
        return form
