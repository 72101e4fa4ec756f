"""The environment of a server: its libraries, and the Python that runs its models."""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Iterable
from pathlib import Path

from delugeserve.serving.triton.installation import (
    TritonInstallation,
    embedded_python,
    find_libpython,
    python_version,
)
from delugeserve.system.hardware import order_gpus


def build_environment(folder: Path, installation: TritonInstallation) -> dict[str, str]:
    """Return the complete environment of a server.

    Args:
        folder: the server's private folder, into which links are put.
        installation: the server.
    """
    environment = dict(os.environ)
    order_gpus(environment)  # so that GPUs have the numbers that plans were checked against
    libraries = []
    if installation.stub is not None:
        libraries.append(str(_link_libpython(folder / "libpython")))
    if installation.libraries:
        (folder / "server-libraries").symlink_to(installation.libraries)
        libraries.append(str(folder / "server-libraries"))
    if libraries:
        inherited = environment.get("LD_LIBRARY_PATH")
        environment["LD_LIBRARY_PATH"] = ":".join([*libraries, *([inherited] if inherited else [])])
    # An external server embeds its own Python, which can use our packages only if it is the same.
    if installation.stub or embedded_python(installation.backends) == python_version():
        programs = _link_python(folder / "python")
        environment["PATH"] = f"{programs}:{environment.get('PATH', os.defpath)}"
    return environment


def _link_python(folder: Path) -> Path:
    """Create a virtual environment of a few links; return the folder of its ``python3``.

    The Python inside the model processes ignores PYTHONHOME and PYTHONPATH. It takes the first
    ``python3`` on PATH to find its standard library and its packages.
    """
    base = Path(os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable))
    packages = folder / "lib" / f"python{python_version()}" / "site-packages"
    packages.mkdir(parents=True)
    # A decoder's model.py lies in the repository, which is no place for bytecode.
    lines = [*_package_folders(), "import sys; sys.dont_write_bytecode = True", ""]
    (packages / "packages.pth").write_text("\n".join(lines))
    (folder / "pyvenv.cfg").write_text(
        f"home = {base.parent}\ninclude-system-site-packages = false\n"
    )
    programs = folder / "bin"
    programs.mkdir()
    (programs / "python3").symlink_to(base)
    return programs


def _link_libpython(target: Path) -> Path:
    """Create a folder with this one library: its own may hold others that must not be found."""
    target.mkdir()
    library = find_libpython()
    if library is not None:
        (target / library.name).symlink_to(library)
    return target


def _package_folders() -> list[str]:
    """Return the folders of installed packages, without the folder of an editable project."""
    places: Iterable[str] = site.getsitepackages()
    if site.ENABLE_USER_SITE:
        places = [*places, site.getusersitepackages()]
    return [place for place in dict.fromkeys(places) if Path(place).is_dir()]
