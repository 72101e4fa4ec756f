"""Inputs that go to a server of this machine through memory that both share.

For a request of 150 KB this takes a quarter of the client's CPU time, for one of 10 MB a
fourteenth: nothing is copied into messages and through sockets. A region is registered with the
server in the background, while requests go through the connection, and a server that refuses gets
all of them that way. Its file is removed as soon as the server has mapped it, so a killed client
leaves none behind.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import mmap
import os
import secrets
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from delugeserve_client.address import Address
from delugeserve_client.errors import MissingPackageError
from delugeserve_client.proxies import is_loopback
from delugeserve_client.transports.messages import Buffer, Request

Mode: TypeAlias = Literal["auto", "off", "system", "cuda"]

SMALLEST = 2**17
"""Bytes from which an input goes through shared memory with ``auto``."""
_MOST = 8  # regions of a connection
_MOST_GIVEN_UP = 16
_FOLDER = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory is
_GRAIN = 2**16

_log = logging.getLogger(__name__)


class Region(Protocol):
    """Memory that a server may read.

    Attributes:
        name: its name, for the server.
        size: its length in bytes.
        kind: ``system`` or ``cuda``.
    """

    name: str
    size: int
    kind: str

    def write(self, parts: Sequence[Buffer]) -> None:
        """Write from its start."""

    def registered(self) -> None:
        """Take note that the server has mapped it."""

    def close(self) -> None:
        """Free it."""


class SystemRegion:
    """A region of POSIX shared memory; see :class:`Region`.

    Args:
        size: its length in bytes.

    Raises:
        OSError: there is no room for it.
    """

    kind = "system"

    def __init__(self, size: int) -> None:
        self.name = f"delugeserve-{os.getpid()}-{secrets.token_hex(8)}"
        self.size = size
        path = _FOLDER / self.name
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        # Called at the latest when the interpreter ends.
        self._unlink = weakref.finalize(self, _unlink, path, os.getpid())
        try:
            os.posix_fallocate(descriptor, 0, size)  # writing to it must not fail later
            self._memory = mmap.mmap(descriptor, size)
        except BaseException:
            self.registered()
            raise
        finally:
            os.close(descriptor)

    @property
    def key(self) -> str:
        """Its name, for ``shm_open``."""
        return f"/{self.name}"

    def write(self, parts: Sequence[Buffer]) -> None:  # noqa: D102
        place = 0
        for part in parts:
            self._memory[place : place + len(part)] = bytes(part) if len(part) < _GRAIN else part
            place += len(part)

    def registered(self) -> None:  # noqa: D102
        self._unlink()

    def close(self) -> None:  # noqa: D102
        self.registered()
        self._memory.close()


def _unlink(path: Path, pid: int) -> None:
    if pid == os.getpid():  # a forked process leaves its parent's file alone
        path.unlink(missing_ok=True)


class CudaRegion:
    """A region of a GPU's memory; see :class:`Region`.

    Args:
        size: its length in bytes.
        device: number of the GPU.

    Raises:
        MissingPackageError: a package of CUDA is not installed.
    """

    kind = "cuda"

    def __init__(self, size: int, device: int = 0) -> None:
        self._cuda = import_cuda()
        self.name = f"delugeserve-{os.getpid()}-{secrets.token_hex(8)}"
        self.size, self.device = size, device
        self._handle = self._cuda.create_shared_memory_region(self.name, size, device)

    @property
    def raw_handle(self) -> bytes:
        """What the server opens it with."""
        handle: bytes = self._cuda.get_raw_handle(self._handle)
        return handle

    def write(self, parts: Sequence[Buffer]) -> None:  # noqa: D102
        content = parts[0] if len(parts) == 1 else b"".join(parts)
        values: Any = np.frombuffer(content, np.uint8)
        self._cuda.set_shared_memory_region(self._handle, [values])

    def registered(self) -> None:
        """Do nothing: the memory has no file."""

    def close(self) -> None:  # noqa: D102
        self._cuda.destroy_shared_memory_region(self._handle)


def import_cuda() -> Any:
    """Import tritonclient's module for the memory of GPUs.

    Raises:
        MissingPackageError: it, or a package that it needs, is not installed.
    """
    try:
        return importlib.import_module("tritonclient.utils.cuda_shared_memory")
    except Exception as error:  # without a driver it raises errors of its own
        raise MissingPackageError(
            f"shared_memory='cuda' needs CUDA: {error}.",
            "Install it with: pip install 'tritonclient[cuda]', or use shared_memory='auto'.",
            module="tritonclient.utils.cuda_shared_memory",
        ) from error


Register: TypeAlias = Callable[[Region, Callable[[bool], None]], None]


class Regions:
    """The regions of one connection.

    Args:
        mode: see :class:`~delugeserve_client.Classifier`.
        address: the server's address.
        register: registers a region with the server, and tells whether that worked, in any thread.
    """

    def __init__(self, mode: Mode, address: Address, register: Register) -> None:
        here = is_loopback(address.host.rpartition(":")[0]) and _FOLDER.is_dir()
        self._off = mode == "off" or not here
        self._smallest = SMALLEST if mode == "auto" else 1
        self._demanded = mode in ("system", "cuda")
        self._new: Callable[[int], Region] = CudaRegion if mode == "cuda" else SystemRegion
        self._register = register
        self._lock = threading.Lock()
        self._free: list[Region] = []
        self._all: set[Region] = set()
        self._given_up: list[Region] = []
        self._pending = False

    def place(self, request: Request) -> Region | None:
        """Return a region that holds a request's input; None to send it through the connection."""
        size = request.nbytes
        if self._off or size < self._smallest:
            return None
        more = False
        with self._lock:
            region = next((one for one in self._free if one.size >= size), None)
            if region is not None:
                self._free.remove(region)
            elif not self._pending and len(self._all) < _MOST:
                self._pending = more = True
        if more:  # without the lock: the server may have answered when this returns
            self._add(-(-size // _GRAIN) * _GRAIN)
        if region is not None:
            region.write(request.parts)
        return region

    def give_back(self, region: Region) -> None:
        """Take a region back whose request was answered."""
        with self._lock:
            if region in self._all:
                self._free.append(region)

    def discard(self, region: Region) -> None:
        """Give a region up that the server may still read, as its request was not answered."""
        with self._lock:
            self._all.discard(region)
            self._given_up.append(region)
            self._off = self._off or len(self._given_up) >= _MOST_GIVEN_UP

    def refused(self, reason: str) -> None:
        """Use no regions any more, after the server could not read one."""
        with self._lock:
            self._off = True
            self._free.clear()
        _log.log(
            logging.WARNING if self._demanded else logging.DEBUG,
            "requests go through the connection, not through shared memory: %s",
            reason,
        )

    def close(self) -> list[Region]:
        """Free all regions; return them, for the server to forget them."""
        with self._lock:
            self._off = True
            regions, self._all = [*self._all, *self._given_up], set()
            self._free.clear()
            self._given_up.clear()
        for region in regions:
            with contextlib.suppress(BufferError):
                region.close()
        return regions

    def _add(self, size: int) -> None:
        try:
            region = self._new(size)
        except OSError as error:
            self._off = True
            _log.debug("no shared memory: %s", error)
            return

        def done(accepted: bool) -> None:
            region.registered()
            with self._lock:
                self._pending = False
                if accepted and not self._off:
                    self._all.add(region)
                    self._free.append(region)
                    return
            region.close()
            if not accepted:
                self.refused("the server does not offer it")

        self._register(region, done)
