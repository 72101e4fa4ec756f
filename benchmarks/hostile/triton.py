"""Hostile requests to Triton's own HTTP and gRPC endpoints."""

# ruff: noqa: ARG001 - all makers have the same arguments

from __future__ import annotations

import json
import math
import random
import struct
from typing import Any

from hostile.images import hostile_image
from hostile.request import HostileRequest, Maker, Target

_SERVICE = "/inference.GRPCInferenceService/"
_BAD = frozenset({400})
_CLOSED = frozenset({403, 404})
_INVALID = frozenset({"INVALID_ARGUMENT"})
# gRPC's own answers to messages that it cannot read.
_UNREADABLE = frozenset({"INVALID_ARGUMENT", "INTERNAL", "UNIMPLEMENTED", "NOT_FOUND", "UNKNOWN"})

# Over HTTP


def _wrong_tensor(rng: random.Random, target: Target) -> HostileRequest:
    shape = [1, *target.shape]
    count = math.prod(shape)
    kind, tensor = rng.choice(
        (
            ("another dtype", {"datatype": "FP64"}),
            ("no dtype", {"datatype": "NOTHING"}),
            ("a negative shape", {"shape": [-1, *target.shape]}),
            ("a huge shape", {"shape": [2**62, 2**62, 3, 1]}),
            ("another shape", {"shape": [1, 1, 1, 1]}),
            ("a flat shape", {"shape": [count]}),
            ("a shape of text", {"shape": ["1", "x"]}),
            ("too few values", {"data": [1, 2, 3]}),
            ("values of text", {"data": ["a"] * count}),
            ("another name", {"name": "../image"}),
            ("no name", {"name": None}),
            (
                "shared memory",
                {"parameters": {"shared_memory_region": "x", "shared_memory_byte_size": 1}},
            ),
        )
    )
    whole = {"name": "image", "shape": shape, "datatype": "UINT8", "data": [0] * count}
    if "parameters" in tensor:
        del whole["data"]
    body = json.dumps({"inputs": [{**whole, **tensor}]}).encode()
    return _infer(target, f"a tensor with {kind}", _BAD | {403, 404}, body)


def _wrong_json(rng: random.Random, target: Target) -> HostileRequest:
    depth = rng.choice((100, 5000, 200_000))
    kind, body = rng.choice(
        (
            (f"{depth:,} nested arrays", b'{"inputs":' + b"[" * depth),
            (f"{depth:,} nested objects", b'{"a":' * depth),
            ("no JSON", rng.randbytes(300)),
            ("an empty body", b""),
            ("unfinished JSON", b'{"inputs": [{"name": "image", "sha'),
            ("a number without end", b'{"inputs": ' + b"9" * 100_000 + b"}"),
            ("text that is not UTF-8", b'{"inputs": "\xff\xfe"}'),
            ("repeated keys", b'{"inputs": [], "inputs": 1, "id": {}}'),
            ("an array", b"[]"),
            ("JSON of 9 MB", b'{"inputs": "' + b"a" * 9_000_000 + b'"}'),
        )
    )
    return _infer(target, kind, _BAD | {413}, body)


def _wrong_binary(rng: random.Random, target: Target) -> HostileRequest:
    size = rng.choice((0, 1, 10**9))
    tensor = {
        "name": "image",
        "shape": [1, *target.shape],
        "datatype": "UINT8",
        "parameters": {"binary_data_size": size},
    }
    head = json.dumps({"inputs": [tensor]}).encode()
    length = rng.choice(("-1", "x", "999999999", "9" * 30, str(len(head))))
    headers = {"inference-header-content-length": length}
    return _infer(target, "binary data of another size", _BAD, head + b"xyz", headers)


def _many_chunks(rng: random.Random, target: Target) -> HostileRequest:
    parts = (b"[",) * 3000
    return HostileRequest(
        "chunks of one byte", "http", f"/v2/models/{target.model}/infer", _BAD | {413}, body=parts,
        chunked=True,
    )  # fmt: skip


def _path(rng: random.Random, target: Target) -> HostileRequest:
    path = rng.choice(
        (
            f"/v2/models/{target.model}/versions/999999/infer",
            f"/v2/models/{target.model}/versions/-1/infer",
            "/v2/models/../../etc/passwd/infer",
            "/v2/models/%2e%2e%2f%2e%2e%2fetc/infer",
            f"/v2/models/{'a' * 3000}/infer",
            "/v2/models//infer",
            "/v2/models/other/infer",
        )
    )
    return HostileRequest(
        f"path {path[:40]}", "http", path, _BAD | {403, 404, 414}, body=(b'{"inputs": []}',)
    )


def _closed_path(rng: random.Random, target: Target) -> HostileRequest:
    path = rng.choice(
        (
            "/v2/logging", "/v2/../v2/logging", "//v2/logging", "/v2//logging", "/v2/%6cogging",
            "/V2/logging", f"/v2/repository/models/{target.model}/unload", "/v2/trace/setting",
            f"/v2/repository/models/{target.model}/load", "/v2/cudasharedmemory/status",
            f"/v2/models/{target.model}/trace/setting", "/v2/systemsharedmemory/region/x/register",
        )
    )  # fmt: skip
    return HostileRequest(f"closed {path[:40]}", "http", path, _CLOSED | _BAD, body=(b"{}",))


def _infer(
    target: Target,
    kind: str,
    expected: frozenset[int],
    body: bytes,
    headers: dict[str, str] | None = None,
) -> HostileRequest:
    path = f"/v2/models/{target.model}/infer"
    return HostileRequest(kind, "http", path, expected, headers=headers or {}, body=(body,))


# Over gRPC; messages are written by hand, so that they can be wrong in any way.


def _grpc_tensor(rng: random.Random, target: Target) -> HostileRequest:
    shape, size = [1, *target.shape], math.prod(target.shape)
    kind, fields = rng.choice(
        (
            ("another dtype", {"datatype": "FP32"}),
            ("no dtype", {"datatype": "x" * 1000}),
            ("a negative shape", {"shape": [-5, *target.shape]}),
            ("a huge shape", {"shape": [2**62, 2**62, 3, 1]}),
            ("no shape", {"shape": []}),
            ("a shape of 1,000 dimensions", {"shape": [1] * 1000}),
            ("another shape", {"shape": [1, 1, 1, 1], "raw": bytes(1)}),
            ("too few bytes", {"raw": bytes(size - 1)}),
            ("too many bytes", {"raw": bytes(size + 1)}),
            ("no bytes", {"raw": b""}),
            ("another name", {"name": "../../image"}),
            ("a name that is not UTF-8", {"name": b"\xff\xfe"}),
            ("two inputs", {"twice": True}),
        )
    )
    body = infer_message(
        target.model, **{"shape": shape, "datatype": "UINT8", "raw": bytes(size), **fields}
    )
    expected = _UNREADABLE if "UTF-8" in kind else _INVALID
    return _grpc(f"a tensor with {kind}", expected, body)


def _grpc_image(rng: random.Random, target: Target) -> HostileRequest:
    kind, content, statuses = hostile_image(rng)
    body = infer_message(
        f"{target.model}_image", shape=[1, 1], datatype="BYTES", raw=_text(content)
    )
    expected = _INVALID if 200 not in statuses else _INVALID | {"OK"}
    return _grpc(f"{kind}, as a tensor", expected, body)


def _grpc_bytes(rng: random.Random, target: Target) -> HostileRequest:
    raw = rng.choice((b"", b"\xff\xff\xff\xffabc", b"\x03\x00\x00\x00ab", b"ab", _text(b"a") * 2))
    body = infer_message(f"{target.model}_image", shape=[1, 1], datatype="BYTES", raw=raw)
    return _grpc("BYTES of another length", _INVALID, body)


def _grpc_model(rng: random.Random, target: Target) -> HostileRequest:
    name = rng.choice(("../../etc/passwd", "", "other", "a" * 5000, target.model + "\0"))
    version = rng.choice(("", "999", "-1", "x", "../1"))
    body = infer_message(name, version, shape=[1, *target.shape], datatype="UINT8", raw=b"")
    expected = _INVALID | {"NOT_FOUND", "UNIMPLEMENTED"}
    return _grpc(f"model {name[:20]!r}", expected, body)


def _grpc_garbage(rng: random.Random, target: Target) -> HostileRequest:
    good = infer_message(target.model, shape=[1, *target.shape], datatype="UINT8", raw=b"1234")
    body = rng.choice(
        (
            b"\xff" * 100,
            b"\x0a\xff\xff\xff\xff\x0f",  # a field of 4 GB that is not there
            good[: rng.randrange(1, len(good))],
            bytes(byte ^ (rng.random() < 0.05) * rng.randrange(256) for byte in good),
            b"\x2a\x04" * 10_000,
            b"\x83\x01" * 50_000,  # groups, nested
        )
    )
    return _grpc("a message that cannot be read", _UNREADABLE, body)


def _grpc_closed(rng: random.Random, target: Target) -> HostileRequest:
    method = rng.choice(
        ("RepositoryModelLoad", "RepositoryModelUnload", "ModelStreamInfer",
         "SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "CudaSharedMemoryStatus",
         "TraceSetting", "LogSettings", "Nothing")
    )  # fmt: skip
    path = rng.choice((_SERVICE, "/inference.grpcinferenceservice/", "/other.Service/")) + method
    expected = frozenset({"PERMISSION_DENIED", "UNIMPLEMENTED", "NOT_FOUND"})
    return HostileRequest(f"closed {path}", "grpc", path, expected)


def infer_message(
    model: str,
    version: str = "",
    *,
    shape: list[int],
    datatype: str,
    raw: bytes,
    name: str | bytes = "image",
    twice: bool = False,
) -> bytes:
    """Return an inference request as protobuf writes it, whatever its parts are."""
    tensor = _field(1, name if isinstance(name, bytes) else name.encode())
    tensor += _field(2, datatype.encode())
    tensor += _field(3, b"".join(_varint(size) for size in shape))
    inputs = _field(5, tensor) + _field(7, raw)
    return _field(1, model.encode()) + _field(2, version.encode()) + inputs * (2 if twice else 1)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _text(content: bytes) -> bytes:
    """Return an element of a BYTES tensor."""
    return struct.pack("<I", len(content)) + content


def _grpc(kind: str, expected: frozenset[Any], body: bytes) -> HostileRequest:
    return HostileRequest(kind, "grpc", f"{_SERVICE}ModelInfer", expected, body=(body,))


HTTP_MAKERS: tuple[Maker, ...] = (
    *(_wrong_tensor, _wrong_json, _wrong_binary, _many_chunks, _path, _closed_path),
)
GRPC_MAKERS: tuple[Maker, ...] = (
    *(_grpc_tensor, _grpc_image, _grpc_bytes, _grpc_model, _grpc_garbage, _grpc_closed),
)
