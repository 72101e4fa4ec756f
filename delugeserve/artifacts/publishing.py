"""Publishing a version into a Triton model repository, so that it is loadable at every moment.

A version's artefact, labels and manifest lie together in ``<repository>/<model>/<version>/``.
``config.pbtxt`` names the one version to serve, and renaming it into place is the only step that
changes what is served: before it the server finds the old version, after it the new one. A kill in
between leaves an unused folder, nothing else.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from delugeserve.artifacts.interface import INPUT, LOGITS, PROBABILITIES
from delugeserve.errors import RepositoryError, require

CONFIG = "config.pbtxt"
LABELS = "labels.txt"
_LOCK = ".lock"


def model_config(
    *,
    model: str,
    backend: str,
    instance_kind: str,
    artefact: str,
    version: int,
    max_batch_size: int,
    image_size: int,
    num_classes: int,
    parameters: Mapping[str, str],
) -> str:
    """Write ``config.pbtxt``, from Triton's own protobuf so that a misspelt field fails here.

    Args:
        model: name in the repository.
        backend: Triton's name of the backend.
        instance_kind: Triton's kind of its instances.
        artefact: file name of the artefact.
        version: the version to serve.
        max_batch_size: the most images of one batch.
        image_size: height and width of the input.
        num_classes: length of the outputs.
        parameters: strings for the backend and for clients.
    """
    pb = require("tritonclient.grpc.model_config_pb2", "export")
    text_format = require("google.protobuf.text_format", "export")
    config = pb.ModelConfig(
        name=model,
        backend=backend,
        default_model_filename=artefact,
        max_batch_size=max_batch_size,
        version_policy=pb.ModelVersionPolicy(
            specific=pb.ModelVersionPolicy.Specific(versions=[version])
        ),
        input=[
            pb.ModelInput(name=INPUT, data_type=pb.TYPE_UINT8, dims=[image_size, image_size, 3])
        ],
        output=[
            pb.ModelOutput(
                name=name,
                data_type=pb.TYPE_FP32,
                dims=[num_classes],
                label_filename=f"{version}/{LABELS}",
            )
            for name in (LOGITS, PROBABILITIES)
        ],
        # One instance, which takes all cores.
        instance_group=[
            pb.ModelInstanceGroup(count=1, kind=pb.ModelInstanceGroup.Kind.Value(instance_kind))
        ],
        dynamic_batching=pb.ModelDynamicBatching(),
        model_warmup=[
            pb.ModelWarmup(
                name=f"batch of {size}",
                batch_size=size,
                inputs={
                    INPUT: pb.ModelWarmup.Input(
                        data_type=pb.TYPE_UINT8, dims=[image_size, image_size, 3], zero_data=True
                    )
                },
            )
            for size in sorted({1, max_batch_size})
        ],
        parameters={
            key: pb.ModelParameter(string_value=value) for key, value in parameters.items()
        },
    )
    text: str = text_format.MessageToString(config)
    return text


@contextmanager
def staging(repository: Path) -> Iterator[Path]:
    """A private folder on the repository's file system, removed at the end.

    Raises:
        RepositoryError: the repository cannot be written, or its disk is full.
    """
    filelock = require("filelock", "export")
    try:
        repository.mkdir(parents=True, exist_ok=True)
        home = _staging_home(repository.resolve())
        prefix = f".{repository.resolve().name}-staging-"
        with contextlib.ExitStack() as stack:
            # Under the repository's lock, lest another export sweep it before its own is held.
            with filelock.FileLock(repository / _LOCK):
                _sweep(home, prefix)
                folder = stack.enter_context(
                    tempfile.TemporaryDirectory(prefix=prefix, dir=home, ignore_cleanup_errors=True)
                )
                stack.enter_context(filelock.FileLock(Path(folder) / _LOCK))
            yield Path(folder)
    except OSError as error:
        raise RepositoryError(
            f"The model repository {repository} cannot be written: {error.strerror or error}.",
            "Nothing was published; free some space or choose another --repository.",
        ) from error


def write_labels(folder: Path, class_names: Sequence[str]) -> None:
    """Write the file that Triton's classification extension names classes from, a line each."""
    (folder / LABELS).write_text("\n".join(class_names) + "\n", encoding="utf-8")


def read_labels(folder: Path) -> tuple[str, ...]:
    """Read the names of a version's classes.

    Raises:
        RepositoryError: it has none.
    """
    try:
        return tuple((folder / LABELS).read_text(encoding="utf-8").splitlines())
    except OSError as error:
        raise RepositoryError(f"{folder} lacks {LABELS}.", "Export the model again.") from error


def publish(
    staged: Path,
    repository: Path,
    model: str,
    *,
    version: int | None = None,
    **config: object,
) -> Path:
    """Move a staged version into the repository and make it the one that is served.

    Args:
        staged: folder with the artefact, its labels and its manifest, on the repository's file
            system.
        repository: the model repository.
        model: name in the repository.
        version: its number; None takes the next.
        config: arguments of :func:`model_config` but ``model`` and ``version``.

    Returns:
        The published version's folder.

    Raises:
        RepositoryError: the version is taken.
    """
    filelock = require("filelock", "export")
    with filelock.FileLock(repository / _LOCK):
        folder = repository / model
        version = free_version(folder, version)
        text = model_config(model=model, version=version, **config)  # type: ignore[arg-type]
        config_file = staged.parent / CONFIG
        config_file.write_text(text, encoding="utf-8")
        _flush(staged, config_file)
        if folder.is_dir():
            staged.replace(folder / str(version))
            config_file.replace(folder / CONFIG)
        else:
            # A new model appears whole, or not at all.
            whole = staged.parent / model
            whole.mkdir()
            staged.replace(whole / str(version))
            config_file.replace(whole / CONFIG)
            whole.replace(folder)
    return folder / str(version)


def free_version(folder: Path, wanted: int | None = None) -> int:
    """Find the number of a new version.

    Args:
        folder: the model's.
        wanted: the number it shall have; None takes the one after the highest, or 1.

    Raises:
        RepositoryError: there is such a version, or no version has such a number.
    """
    taken = [int(child.name) for child in _children(folder) if child.name.isdecimal()]
    free = max(taken, default=0) + 1
    if wanted in taken:
        raise RepositoryError(
            f"{folder} has a version {wanted} already.",
            f"Leave --version out, or say --version {free}.",
        )
    if wanted is not None and wanted < 1:
        raise RepositoryError(f"There is no version {wanted}.", f"Say --version {free}.")
    return wanted or free


def _staging_home(repository: Path) -> Path:
    """Beside the repository, for a server may take every folder inside for a model.

    Where its parent cannot be written, or it is a mounted disk, into which nothing can be renamed
    from outside, it is the repository: ``delugeserve serve`` passes over hidden folders.
    """
    parent = repository.parent
    movable = parent.stat().st_dev == repository.stat().st_dev
    return parent if movable and os.access(parent, os.W_OK | os.X_OK) else repository


def _sweep(home: Path, prefix: str) -> None:
    """Remove the staging folders of exports that were killed.

    An export holds its folder's lock as long as it lives, in whatever container.
    """
    filelock = require("filelock", "export")
    for folder in home.glob(f"{prefix}*"):
        with (
            contextlib.suppress(OSError, filelock.Timeout),
            filelock.FileLock(folder / _LOCK, timeout=0),
        ):
            shutil.rmtree(folder, ignore_errors=True)


def _children(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _flush(staged: Path, config_file: Path) -> None:
    """Bring the files to the disk before the rename that makes them count."""
    for path in (*staged.iterdir(), config_file):
        with path.open("rb") as file:
            os.fsync(file.fileno())
