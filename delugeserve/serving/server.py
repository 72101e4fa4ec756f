"""Finding a tritonserver, giving it a private folder to run from, and its command line."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import site
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from delugeserve.artifacts.remedies import export_command, read_facts
from delugeserve.artifacts.repository import StoredModel
from delugeserve.errors import MissingExtraError, ServerError, UsageError
from delugeserve.runtimes import plans
from delugeserve.serving.guardian import remove_traces
from delugeserve.system.hardware import order_gpus

WHEEL = "nvidia-pytriton"
#: Backends of ours, by name, with the Python module that does the work.
OWN_BACKENDS: Mapping[str, str] = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt_rtx",
}

FOLDER_PREFIX = "delugeserve-"
_LOCK = "lock"
_BACKENDS = Path(__file__).parent / "backends"
_ENGINE = Path(__file__).parents[1] / "runtimes" / "tensorrt_engine.py"
GLIBC = (2, 35)
# The wheel does not say which server it carries; one that was asked did.
_VERSIONS_IN_WHEELS = {"0.7.0": "2.51.0"}
_CONTAINER = "Elsewhere, use NVIDIA's Triton container and name its server with --tritonserver."


@dataclass(frozen=True)
class TritonInstallation:
    """A tritonserver on this machine.

    Attributes:
        executable: the server.
        backends: folder of its backends, each in a folder of its own.
        stub: the process that runs Python models, where it is not in ``backends/python`` already.
        libraries: folder of shared libraries it needs, if they are not in the usual places.
    """

    executable: Path
    backends: Path
    stub: Path | None = None
    libraries: Path | None = None


@dataclass(frozen=True)
class Launch:
    """Everything to start one server process.

    Attributes:
        command: program and arguments.
        environment: complete environment.
        folder: the private folder; whoever ends the process removes it.
        shm_prefix: start of the names of its shared-memory regions.
        lock: descriptor that holds the folder's lock; the process inherits it.
        cpu_only: every model runs in a backend of ours, on the processor.
    """

    command: list[str]
    environment: dict[str, str]
    folder: Path
    shm_prefix: str
    lock: int
    cpu_only: bool


@dataclass(frozen=True)
class Endpoints:
    """Where the server listens; a port of None is off."""

    address: str
    grpc: int
    http: int | None = None
    metrics: int | None = None


def find_tritonserver(executable: Path | None = None) -> TritonInstallation:
    """The server to use: the one named, else the installed wheel's, else one on PATH.

    Raises:
        UsageError: the one named is not there, or this machine cannot run the wheel's.
        MissingExtraError: there is none.
    """
    files = _wheel_folder()
    if executable is not None:
        found = shutil.which(executable)
        if not found:
            raise UsageError(
                f"There is no program '{executable}'.",
                "Name the tritonserver program itself, such as /opt/tritonserver/bin/tritonserver.",
            )
        if files is None or Path(found).resolve() != (files / "bin" / "tritonserver").resolve():
            return _outside(Path(found))
    if files is not None:
        _check_machine()
        stub = files / f"python_backend_stubs/{_python_version()}/triton_python_backend_stub"
        if not stub.is_file():
            raise UsageError(
                f"The installed {WHEEL} has no part for Python {_python_version()}.",
                "Use a Python from 3.10 to 3.13.",
            )
        return TritonInstallation(
            files / "bin" / "tritonserver",
            files / "backends",
            stub,
            files.parents[1] / "nvidia_pytriton.libs",
        )
    found = shutil.which("tritonserver")
    if found:
        return _outside(Path(found))
    _check_machine()
    raise MissingExtraError(WHEEL, "server")


def find_version(installation: TritonInstallation) -> str | None:
    """The version of a server, such as ``2.51.0``, without running it; None if nothing says so."""
    if installation.stub is not None:
        return _VERSIONS_IN_WHEELS.get(importlib.metadata.version(WHEEL))
    try:  # as in NVIDIA's container
        text = (installation.executable.parents[1] / "TRITON_VERSION").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        text = os.environ.get("TRITON_SERVER_VERSION", "")
    return text.strip() or None


def prepare(
    installation: TritonInstallation,
    models: Sequence[StoredModel],
    endpoints: Endpoints,
    exit_timeout: int,
) -> Launch:
    """Lay out a private folder and say how to start a server in it.

    The folder holds links: the models asked for (so that nothing else in the repository is
    loaded, and no client can make the server load more), the server's backends, and ours wherever
    the server has none of that name. No path in it has a space, which the server's Python backend
    would not survive.

    Raises:
        MissingExtraError: the runtime of a model's backend is not installed.
        MissingDeviceError: a model is a plan for a GPU, and there is none.
        PlanError: a model is a plan for another GPU or another version of its runtime.
        ServerError: a model needs a backend that is not there, or the folder cannot be made.
    """
    import fcntl  # not on Windows, where this module must import to say that it is no use

    folder = _private_folder()
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _lay_out(folder, installation, models)
        environment = _environment(folder, installation)
    except BaseException:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    command = [str(installation.executable), *_arguments(folder, endpoints, exit_timeout)]
    if all(model.complete for model in models):
        # Saves a second for every model: a process of its own asks the backend what lacks.
        command.append("--disable-auto-complete-config")
    if any(
        model.backend == "tensorrt"
        and not _is_own_backend(folder / "backends" / model.backend)
        and plans.is_version_compatible(model)
        for model in models
    ):
        # NVIDIA's backend refuses such plans unless told otherwise: they bring code of their own.
        command.append("--backend-config=tensorrt,version-compatible=true")
    cpu_only = all(
        model.backend not in plans.DISTRIBUTIONS
        and _is_own_backend(folder / "backends" / model.backend)
        for model in models
    )
    return Launch(command, environment, folder, _shm_prefix(folder), lock, cpu_only)


def sweep() -> None:
    """Remove what servers left behind whose guardian was killed outright.

    A guardian holds its folder's lock as long as it lives, in whatever container, so a lock that
    can be had is litter.
    """
    import fcntl

    for place in _temporary_folders():
        for lock_file in Path(place).glob(f"{FOLDER_PREFIX}*/{_LOCK}"):
            try:
                if lock_file.stat().st_uid != os.getuid():
                    continue
                lock = os.open(lock_file, os.O_RDWR)
            except OSError:  # it went away
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_traces(lock_file.parent, _shm_prefix(lock_file.parent))
            except OSError:  # held: its server runs
                pass
            finally:
                os.close(lock)


def _lay_out(folder: Path, installation: TritonInstallation, models: Sequence[StoredModel]) -> None:
    backends = folder / "backends"
    backends.mkdir()
    for backend in installation.backends.iterdir():
        if backend.name != "python" and backend.is_dir():
            (backends / backend.name).symlink_to(backend)
    if (installation.backends / "python").is_dir():
        _add_python_backend(backends / "python", installation)
        for name in OWN_BACKENDS:
            if not (backends / name).exists():
                _add_own_backend(backends / name)
    for model in models:
        plans.require_loadable(model, native=not _is_own_backend(backends / model.backend))
        _check_backend(model, backends)
    repository = folder / "models"
    repository.mkdir()
    for model in models:
        (repository / model.name).symlink_to(model.folder, target_is_directory=True)


def _shm_prefix(folder: Path) -> str:
    return f"{folder.name}_"


def _arguments(folder: Path, endpoints: Endpoints, exit_timeout: int) -> list[str]:
    def switch(name: str, port: int | None) -> list[str]:
        if port is None:
            return [f"--allow-{name}=false"]
        address = f"--{name}-address={endpoints.address}"
        return [f"--allow-{name}=true", address, f"--{name}-port={port}"]

    return [
        f"--model-repository={folder / 'models'}",
        f"--backend-directory={folder / 'backends'}",
        f"--backend-config=python,shm-region-prefix-name={_shm_prefix(folder)}",
        f"--exit-timeout-secs={exit_timeout}",
        *switch("grpc", endpoints.grpc),
        *switch("http", endpoints.http),
        *switch("metrics", endpoints.metrics),
    ]


def _environment(folder: Path, installation: TritonInstallation) -> dict[str, str]:
    """The server's environment: ours, with the way to our Python and its packages."""
    environment = dict(os.environ)
    order_gpus(environment)  # as plans were compared with them, and remedies name them
    libraries = []
    if installation.stub is not None:
        libraries.append(str(_link_libpython(folder)))
    if installation.libraries:
        (folder / "server-libraries").symlink_to(installation.libraries)
        libraries.append(str(folder / "server-libraries"))
    if libraries:
        inherited = environment.get("LD_LIBRARY_PATH")
        environment["LD_LIBRARY_PATH"] = ":".join([*libraries, *([inherited] if inherited else [])])
    # A server from elsewhere embeds a Python of its own, and ours serves it only if it is the same.
    if installation.stub or _embedded_python(installation.backends) == _python_version():
        programs = _make_python_environment(folder / "python")
        environment["PATH"] = f"{programs}:{environment.get('PATH', os.defpath)}"
    return environment


def _make_python_environment(folder: Path) -> Path:
    """A virtual environment of a few links, and the folder of its ``python3``.

    The Python inside the model processes ignores PYTHONHOME and PYTHONPATH. It takes the first
    ``python3`` on PATH for itself, and its packages are those of that program's environment.
    """
    base = Path(os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable))
    packages = folder / "lib" / f"python{_python_version()}" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "packages.pth").write_text("\n".join([*_package_folders(), ""]))
    (folder / "pyvenv.cfg").write_text(
        f"home = {base.parent}\ninclude-system-site-packages = false\n"
    )
    programs = folder / "bin"
    programs.mkdir()
    (programs / "python3").symlink_to(base)
    return programs


def _add_python_backend(target: Path, installation: TritonInstallation) -> None:
    source = installation.backends / "python"
    if installation.stub is None:
        target.symlink_to(source)
        return
    target.mkdir()
    # The server refuses a backend library that is a link out of the backend's folder.
    shutil.copy2(source / "libtriton_python.so", target)
    (target / "triton_python_backend_utils.py").symlink_to(
        source / "triton_python_backend_utils.py"
    )
    (target / installation.stub.name).symlink_to(installation.stub)


def _add_own_backend(target: Path) -> None:
    target.mkdir()
    sources = [_BACKENDS / target.name / "model.py", _BACKENDS / "batching.py"]
    if target.name in plans.DISTRIBUTIONS:
        sources.append(_ENGINE)
    for source in sources:
        shutil.copy2(source, target)


def _is_own_backend(folder: Path) -> bool:
    return (folder / "batching.py").is_file()


def _check_backend(model: StoredModel, backends: Path) -> None:
    folder = backends / model.backend
    if not model.backend or not folder.exists():
        known = sorted(path.name for path in backends.iterdir())
        facts = read_facts(model.folder, model.version)
        raise ServerError(
            f"Model '{model.name}' needs the backend '{model.backend or '?'}', which this server "
            f"lacks (it has {', '.join(known)}).",
            f"Export it for another with: {export_command(model.folder, facts, 'onnxruntime')}",
        )
    module = OWN_BACKENDS.get(model.backend)
    if module and _is_own_backend(folder) and find_spec(module) is None:
        extra = module.replace("_", "-") if model.backend in plans.DISTRIBUTIONS else "server"
        raise MissingExtraError(module, extra)


def _outside(executable: Path) -> TritonInstallation:
    """A server that is not ours, laid out as in NVIDIA's container."""
    real = executable.resolve()
    for backends in (real.parents[1] / "backends", Path("/opt/tritonserver/backends")):
        if backends.is_dir():
            return TritonInstallation(real, backends)
    raise UsageError(
        f"'{executable}' has no folder of backends beside it.",
        "Name the tritonserver of a complete installation, such as /opt/tritonserver/bin/"
        "tritonserver.",
    )


def _embedded_python(backends: Path) -> str | None:
    """Version of the Python that a server's stub was linked with."""
    try:
        stub = (backends / "python" / "triton_python_backend_stub").read_bytes()
    except OSError:
        return None
    match = re.search(rb"libpython(3\.\d+)\.so", stub)
    return match[1].decode() if match else None


def _wheel_folder() -> Path | None:
    """The wheel's ``tritonserver`` folder; the package itself is never imported."""
    try:
        importlib.metadata.distribution(WHEEL)
    except importlib.metadata.PackageNotFoundError:
        return None
    spec = find_spec("pytriton")
    for place in (spec.submodule_search_locations if spec else None) or ():
        files = Path(place) / "tritonserver"
        if (files / "bin" / "tritonserver").is_file():
            return files
    return None


def _check_machine() -> None:
    """Refuse, in one sentence, a machine that the wheel's server cannot run on."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        raise UsageError(f"The server runs on x86-64 Linux, not on {machine} {system}.", _CONTAINER)
    name, version = platform.libc_ver()
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if name != "glibc" or numbers < GLIBC:
        raise UsageError(
            f"The server needs glibc 2.35 or later, and this machine has {name or 'another libc'} "
            f"{version}".rstrip()
            + ".",
            _CONTAINER,
        )
    if find_libpython() is None:
        raise UsageError(
            f"The server needs a shared libpython{_python_version()}, and the Python at "
            f"{sys.base_prefix} was built without one.",
            "Use your distribution's Python with its libpython package, or one that was "
            "configured with --enable-shared.",
        )


def find_libpython() -> Path | None:
    """The running Python's shared library; None where it was built without one."""
    name = f"libpython{_python_version()}.so.1.0"
    folders = [sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib"]
    multiarch = sysconfig.get_config_var("MULTIARCH")
    if multiarch:
        folders += [f"/usr/lib/{multiarch}", f"/lib/{multiarch}"]
    for folder in folders:
        if folder and (Path(folder) / name).is_file():
            return Path(folder) / name
    return None


def _link_libpython(folder: Path) -> Path:
    # A folder with this one library: the one it lives in may hold others that must not be found.
    target = folder / "libpython"
    target.mkdir()
    library = find_libpython()
    if library is not None:
        (target / library.name).symlink_to(library)
    return target


def _package_folders() -> list[str]:
    """Where installed packages are; an editable project's own folder is none of them."""
    places: Iterable[str] = site.getsitepackages()
    if site.ENABLE_USER_SITE:
        places = [*places, site.getusersitepackages()]
    return [place for place in dict.fromkeys(places) if Path(place).is_dir()]


def _private_folder() -> Path:
    for place in _temporary_folders():
        try:
            return Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=place))
        except OSError:
            continue
    raise ServerError(
        f"There is no temporary folder to write to (tried {', '.join(_temporary_folders())}).",
        "Set TMPDIR to a folder with some megabytes of room and no space in its name.",
    )


def _temporary_folders() -> list[str]:
    candidates = [tempfile.gettempdir(), "/tmp", "/var/tmp"]  # noqa: S108
    return [place for place in dict.fromkeys(candidates) if not re.search(r"[\s:]", place)]


def _python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"
