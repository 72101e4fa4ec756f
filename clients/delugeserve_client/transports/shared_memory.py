"""Inputs that go to a server of this machine through memory that both share.

Nothing is copied into messages and through sockets. A region is registered with the server in the
background, while requests go through the connection, and a server that refuses gets all of them
that way. Its file is removed as soon as the server has mapped it, so a killed client leaves none
behind. Its memory is freed with the last reference to it.
"""

from __future__ import annotations

import importlib
import logging
import mmap
import os
import secrets
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from delugeserve_client.address import Address
from delugeserve_client.errors import MissingPackageError
from delugeserve_client.proxies import is_loopback
from delugeserve_client.transports.connection import SharedMemory
from delugeserve_client.transports.messages import Buffer, Request

SMALLEST = 2**17
"""Bytes from which an input goes through shared memory with ``auto``."""
_MOST = 8  # regions of a connection
_MOST_GIVEN_UP = 16
_MOST_OUTGROWN = 8
_MOST_LOSSES = 3
_FOLDER = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory is
_GRAIN = 2**16

_log = logging.getLogger(__name__)


def can_share_memory(address: Address) -> bool:
    """Return whether a server may read this machine's memory: over gRPC, on this machine."""
    here = is_loopback(address.host.rpartition(":")[0]) and _FOLDER.is_dir()
    return here and address.protocol == "grpc"


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
        """Take note that the server has mapped it, or will not."""


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
        weakref.finalize(self, self._cuda.destroy_shared_memory_region, self._handle)

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


Register: TypeAlias = Callable[[Region, Callable[["bool | None"], None]], None]


class Regions:
    """The regions of one connection.

    Args:
        mode: see :class:`~delugeserve_client.Classifier`.
        address: the server's address.
        register: registers a region with the server, and tells whether the server accepts it, or
            None if it does not answer, in any thread.
    """

    def __init__(self, mode: SharedMemory, address: Address, register: Register) -> None:
        self._off = mode == "off" or not can_share_memory(address)
        self._smallest = SMALLEST if mode == "auto" else 1
        self._demanded = mode in ("system", "cuda")
        self._new: Callable[[int], Region] = CudaRegion if mode == "cuda" else SystemRegion
        self._register = register
        self._lock = threading.Lock()
        self._free: list[Region] = []
        self._all: set[Region] = set()
        self._given_up: list[Region] = []
        self._outgrown: list[Region] = []
        self._adding = False
        self._registering: Region | None = None
        self._losses = 0

    def place(self, request: Request) -> Region | None:
        """Return a region that holds a request's input; None to send it through the connection."""
        size = request.nbytes
        if self._off or size < self._smallest:
            return None
        more = False
        with self._lock:
            large = (one for one in self._free if one.size >= size)
            region = min(large, key=lambda one: one.size, default=None)
            if region is not None:
                self._free.remove(region)
            elif not self._adding and self._has_room():
                self._adding = more = True
        if more:  # without the lock: the server may have answered when this returns
            self._add(-(-size // _GRAIN) * _GRAIN)
        if region is None:
            return None
        try:
            region.write(request.parts)
        except Exception as error:  # CUDA's own
            self.discard(region)
            self.refused(str(error))
            return None
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

    def lost(self, region: Region, reason: str) -> None:
        """Make new regions, after the server could not find one, as after a restart."""
        with self._lock:
            first = region in self._all  # of those that were lost together
            if first:
                self._losses += 1
                for regions in (self._all, self._free, self._given_up, self._outgrown):
                    regions.clear()
        if first and self._losses >= _MOST_LOSSES:
            self.refused(reason)

    def refused(self, reason: str) -> None:
        """Use no regions any more."""
        with self._lock:
            self._off = True
            self._free.clear()
        _log.log(
            logging.WARNING if self._demanded else logging.DEBUG,
            "requests go through the connection, not through shared memory: %s",
            reason,
        )

    def close(self) -> list[Region]:
        """Use no regions any more; return all, for the server to forget them."""
        with self._lock:
            self._off = True
            regions = [*self._all, *self._given_up, *self._outgrown]
            if self._registering is not None:
                regions.append(self._registering)
            self._all.clear()
            self._free.clear()
        for region in regions:
            region.registered()
        return regions

    def _has_room(self) -> bool:
        """Return whether one more region may be made, if need be in place of a smaller one."""
        if len(self._all) < _MOST:
            return True
        if not self._free or len(self._outgrown) >= _MOST_OUTGROWN:
            return False
        smallest = min(self._free, key=lambda one: one.size)
        self._free.remove(smallest)
        self._all.discard(smallest)
        self._outgrown.append(smallest)
        return True

    def _add(self, size: int) -> None:
        try:
            region = self._new(size)
        except Exception as error:  # there is no room, or one of CUDA's own
            self._adding = False
            self.refused(str(error))
            return

        def done(accepted: bool | None) -> None:
            region.registered()
            with self._lock:
                off = self._off
                self._adding, self._registering = False, None
                if accepted and off:
                    self._given_up.append(region)
                elif accepted:
                    self._all.add(region)
                    self._free.append(region)
                elif accepted is None:
                    self._losses += 1
                refused = accepted is False or self._losses >= _MOST_LOSSES
            if refused and not off:
                self.refused("the server does not offer it")

        with self._lock:
            self._registering = region
            closed = self._off
        if closed:
            done(None)
            return
        try:
            self._register(region, done)
        except Exception as error:
            _log.debug("a region of shared memory cannot be registered: %s", error)
            done(False)
