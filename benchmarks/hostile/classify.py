"""Hostile requests to ``POST /classify``."""

# ruff: noqa: ARG001 - all makers have the same arguments

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from hostile.images import REFUSED, TOO_LARGE, hostile_image, image
from hostile.request import HostileRequest, Maker, Target

_BLOCK = bytes(2**20)
_ANY_ERROR = frozenset({400, 403, 404, 405, 414, 431})


def _classify_image(rng: random.Random, target: Target) -> HostileRequest:
    kind, content, expected = hostile_image(rng)
    return _classify(target, kind, expected, content)


def _classify_part(rng: random.Random, target: Target) -> HostileRequest:
    kind, content, expected = hostile_image(rng)
    names = ("a.jpg", "../../etc/passwd", "a\\x00.png", "x" * 3000, "\u202egpj.exe", "%s%n")
    disposition = f'form-data; name="image"; filename="{rng.choice(names)}"'
    return _multipart(target, f"{kind}, as a part", expected, [(disposition, content)])


def _classify_parts(rng: random.Random, target: Target) -> HostileRequest:
    good = image("PNG")
    kind, parts, expected = rng.choice(
        (
            ("a part of another name", [('form-data; name="x"; filename="a"', good)], {422}),
            ("a field that is not a file", [('form-data; name="image"', b"x" * 3000)], {400, 422}),
            ("1,000 parts", [('form-data; name="image"; filename="a"', b"")] * 1000, {422}),
            ("a part without a name", [('form-data; filename="a"', good)], {400, 422}),
            ("no disposition", [("x", good)], {400, 422}),
            ("no parts", [], {400, 422}),
        )
    )
    return _multipart(target, kind, frozenset(expected), parts)


def _classify_multipart(rng: random.Random, target: Target) -> HostileRequest:
    kind, header, body = rng.choice(
        (
            ("no boundary", "", b"--x\r\n\r\n--x--"),
            ("an empty boundary", "; boundary=", b"--\r\n\r\n----"),
            ("a long boundary", "; boundary=" + "b" * 2000, b"x"),
            (
                "an unfinished part",
                "; boundary=x",
                b'--x\r\ncontent-disposition: form-data; name="im',
            ),
            ("long part headers", "; boundary=x", b"--x\r\n" + b"a: b\r\n" * 3000),
            ("an endless header", "; boundary=x", b"--x\r\n" + b"a" * 50_000),
            ("carriage returns", "; boundary=x", b"--x\r\n\r\n" + b"\r" * 200_000),
            ("random bytes", "; boundary=x", b"--x\r\n" + rng.randbytes(3000)),
            ("another character set", "; boundary=x; charset=utf-32", b"--x\r\n\r\na\r\n--x--"),
        )
    )
    headers = {"content-type": f"multipart/form-data{header}"}
    expected = frozenset({400, 422})
    return _classify(target, f"multipart: {kind}", expected, body, headers=headers)


def _classify_type(rng: random.Random, target: Target) -> HostileRequest:
    kinds = (
        "application/json",
        "text/html",
        "x" * 500,
        "multipart/mixed; boundary=x",
        "image",
        "\x7f",
    )
    headers = rng.choice(
        ({"content-type": rng.choice(kinds)}, {"content-encoding": rng.choice(("gzip", "br", "x"))})
    )
    expected = frozenset({400, 415})
    return _classify(target, f"{headers}", expected, image("JPEG"), headers=headers)


def _classify_query(rng: random.Random, target: Target) -> HostileRequest:
    values = ("-1", "0", "1e9", "9" * 400, "nan", "", "%00", "1%0d%0ax:y", "١", "[]", "true")  # noqa: RUF001
    query = rng.choice(
        (
            f"top_k={rng.choice(values)}",
            f"timeout={rng.choice(('-1', 'inf', 'nan', '1e9', '', '%00'))}",
            "top_k=1&top_k=2",
            f"{quote(rng.choice(('__proto__', 'a b', 'ä', 'topk')))}=1",
            "&".join(f"p{number}=1" for number in range(300)),
        )
    )
    return _classify(
        target, f"query {query[:40]}", frozenset({400, 422}), image("JPEG"), query=query
    )


def _classify_model(rng: random.Random, target: Target) -> HostileRequest:
    name = rng.choice(
        ("../../etc/passwd", "/etc/passwd", f"{target.model}\0", f"{target.model}_image", "",
         f"{target.model}/versions/1", "a" * 3000, "%", "*", "ä", "' OR 1=1 --", "${jndi:x}"),
    )  # fmt: skip
    query = f"model={quote(name)}"
    return HostileRequest(
        f"model {name[:40]!r}", "classify", f"/classify?{query}", frozenset({400, 404}),
        body=(image("JPEG"),),
    )  # fmt: skip


def _classify_chunks(rng: random.Random, target: Target) -> HostileRequest:
    content = rng.randbytes(3000)
    parts = tuple(content[place : place + 1] for place in range(len(content)))
    return _classify(target, "chunks of one byte", REFUSED, *parts, chunked=True)


def _classify_size(rng: random.Random, target: Target) -> HostileRequest:
    if not target.large:
        return _classify_image(rng, target)
    expected = TOO_LARGE | {400, 408}
    if rng.random() < 0.7:
        length = rng.choice((target.largest + 1, 2**40, 2**63, 10**30))
        headers = {"content-length": str(length)}
        return _classify(target, f"content-length {length}", expected, headers=headers)
    count = target.largest // len(_BLOCK) + 2
    return _classify(target, "a body above the limit", expected, *[_BLOCK] * count, chunked=True)


def _classify_slowly(rng: random.Random, target: Target) -> HostileRequest:
    if not target.slow_seconds:
        return _classify_image(rng, target)
    parts = (b"x",) * 200
    pause = target.slow_seconds / len(parts)
    return _classify(
        target, "a slow body", frozenset({408}), *parts, pause=pause,
        headers={"content-length": "100000"},
    )  # fmt: skip


def _path(rng: random.Random, target: Target) -> HostileRequest:
    paths = (
        "/../../etc/passwd", "/classify/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc%2fpasswd", "//etc/passwd", "/classify/", "/docs/../metrics", "/metrics",
        "/static/..\\..\\etc", "/%00", "/" + "a" * 5000, "/.git/config", "/openapi.json/x",
    )  # fmt: skip
    method = rng.choice(("GET", "POST", "PUT", "DELETE", "TRACE", "PROPFIND"))
    path = rng.choice(paths)
    return HostileRequest(f"path {path[:40]}", "classify", path, _ANY_ERROR, method)


def _classify(
    target: Target,
    kind: str,
    expected: frozenset[int],
    *body: bytes,
    headers: Mapping[str, str] | None = None,
    **options: Any,
) -> HostileRequest:
    query = options.pop("query", "")
    path = f"/classify?model={target.model}" + (f"&{query}" if query else "")
    return HostileRequest(
        kind, "classify", path, expected, headers=headers or {}, body=body, **options
    )


def _multipart(
    target: Target, kind: str, expected: frozenset[int], parts: list[tuple[str, bytes]]
) -> HostileRequest:
    body = b"".join(
        b"--xyz\r\ncontent-disposition: " + text.encode("latin-1", "replace") + b"\r\n\r\n"
        + content + b"\r\n"
        for text, content in parts
    )  # fmt: skip
    headers = {"content-type": "multipart/form-data; boundary=xyz"}
    return _classify(target, kind, expected, body + b"--xyz--\r\n", headers=headers)


MAKERS: tuple[Maker, ...] = (
    *(_classify_image,) * 8,
    *(_classify_part, _classify_parts, _classify_multipart, _classify_type, _classify_query),
    *(_classify_model, _classify_chunks, _classify_size, _classify_slowly, _path),
)
