"""The command line, environment and folder of one server process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from delugeserve.artifacts.repository import StoredModel
from delugeserve.serving.placement import EVERYWHERE, Placement
from delugeserve.serving.private_folder import cannot_write
from delugeserve.serving.triton import layout, own_backends
from delugeserve.serving.triton.environment import build_environment
from delugeserve.serving.triton.installation import TritonInstallation

_EXIT_TIMEOUT = 30  # seconds the server gives requests in flight once it is asked to stop

_CACHE_BYTES = 256 << 20

SERVERS = "DELUGESERVE_SERVERS"
"""Environment variable that tells our backends how many servers share the cores."""


@dataclass(frozen=True)
class Endpoints:
    """Where a server listens; a port of None is off."""

    address: str
    grpc: int
    http: int | None = None
    metrics: int | None = None


@dataclass(frozen=True)
class Launch:
    """Everything that starts one server process.

    Attributes:
        command: program and arguments.
        environment: complete environment.
        folder: its private folder, which must be removed when the process has ended.
        endpoints: where it will listen.
        models: what it will serve.
        cpu_only: every model runs in one of our backends, on the CPU.
    """

    command: list[str]
    environment: dict[str, str]
    folder: layout.ServerFolder
    endpoints: Endpoints
    models: tuple[StoredModel, ...]
    cpu_only: bool


def prepare(
    installation: TritonInstallation,
    models: Sequence[StoredModel],
    endpoints: Endpoints,
    place: Callable[[Path], None] | None = None,
    servers: int = 1,
    placement: Placement = EVERYWHERE,
) -> Launch:
    """Lay out a private folder, and return how to start a server in it.

    Args:
        installation: the server.
        models: the models to serve.
        endpoints: where it listens.
        place: writes the models into the folder given; None links them to where they are stored.
        servers: number of servers that answer side by side, and share the cores.
        placement: the part of the machine that it runs on.

    Raises:
        MissingExtraError: the runtime of a model's backend is not installed.
        MissingDeviceError: a model is a plan for a GPU, and there is none.
        PlanError: a model is a plan for another GPU or another version of its runtime.
        ServerError: a model needs a backend that the server does not have, or the folder cannot be
            written.
    """
    folder = layout.ServerFolder.create()
    try:
        layout.lay_out(folder, installation, models, place)
        environment = build_environment(folder.path, installation)
        environment[SERVERS] = str(servers)
        if placement.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = placement.gpu
    except OSError as error:
        folder.remove()
        raise cannot_write(folder.path.parent, error) from error
    except BaseException:
        folder.remove()
        raise
    return Launch(
        [
            str(installation.executable),
            *_arguments(folder, models, endpoints),
            *_features(installation, models),
        ],
        environment,
        folder,
        endpoints,
        tuple(models),
        all(own_backends.uses_cpu_only(model, folder.backends) for model in models),
    )


def _arguments(
    folder: layout.ServerFolder, models: Sequence[StoredModel], endpoints: Endpoints
) -> list[str]:
    arguments = [
        f"--model-repository={folder.models}",
        f"--backend-directory={folder.backends}",
        f"--backend-config=python,shm-region-prefix-name={folder.shm_prefix}",
        f"--exit-timeout-secs={_EXIT_TIMEOUT}",
        *_endpoint_arguments("grpc", endpoints.address, endpoints.grpc),
        *_endpoint_arguments("http", endpoints.address, endpoints.http),
        *_endpoint_arguments("metrics", endpoints.address, endpoints.metrics),
    ]
    if all(model.complete for model in models):
        # Completing a configuration takes a separate process and a second per model.
        arguments.append("--disable-auto-complete-config")
    return arguments


def _features(installation: TritonInstallation, models: Sequence[StoredModel]) -> list[str]:
    """Return the options without which Triton ignores a model's cache and rate limiter."""
    arguments = []
    if any(model.uses_cache for model in models):
        arguments.append(f"--cache-config=local,size={_CACHE_BYTES}")
        if installation.caches.is_dir():
            arguments.append(f"--cache-directory={installation.caches}")
    if any(model.uses_rate_limiter for model in models):
        arguments.append("--rate-limit=execution_count")
    return arguments


def _endpoint_arguments(name: str, address: str, port: int | None) -> list[str]:
    if port is None:
        return [f"--allow-{name}=false"]
    return [f"--allow-{name}=true", f"--{name}-address={address}", f"--{name}-port={port}"]
