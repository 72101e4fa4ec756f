"""Damaged, random and oversized image files: what a server must refuse without harm."""

# ruff: noqa: ARG001 - all makers have the same arguments

from __future__ import annotations

import functools
import io
import random
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, features

# Formats that the servers decode; AVIF where this Pillow writes it.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM")
FORMATS += ("AVIF",) if features.check("avif") else ()

ANSWERED = frozenset({200, 400, 413})  # what is damaged may still be readable
REFUSED = frozenset({400})
TOO_LARGE = frozenset({413})

_SIGNATURES = {
    "JPEG": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
    "PNG": b"\x89PNG\r\n\x1a\n",
    "GIF": b"GIF89a",
    "WEBP": b"RIFF\xff\xff\xff\x7fWEBPVP8 ",
    "AVIF": b"\x00\x00\x00\x1cftypavif",
    "TIFF": b"II*\x00\x08\x00\x00\x00",
    "HEIC": b"\x00\x00\x00\x18ftypheic",
}
_NOT_IMAGES = (
    b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
    b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    b"<!doctype html><script>alert(1)</script>",
    b"PK\x03\x04" + bytes(60),
    b'{"image": "aGVsbG8="}',
    b"push graphic-context\nviewbox 0 0 9 9\nfill 'url(https://localhost/x)'\n",
    b"file:///etc/passwd",
    b"/etc/passwd",
    b"\x00" * 512,
)

HostileImage = tuple[str, bytes, frozenset[int]]


def hostile_image(rng: random.Random) -> HostileImage:
    """Return an image file that is damaged or too large: its kind, its bytes, HTTP statuses."""
    return rng.choice(_KINDS)(rng)


@functools.cache
def image(kind: str, seed: int = 0, size: tuple[int, int] = (64, 48)) -> bytes:
    """Return a valid image file of random colours."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3))
    picture = Image.fromarray(pixels.astype(np.uint8)).resize(size)
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def _truncated(rng: random.Random) -> HostileImage:
    kind = rng.choice(FORMATS)
    whole = image(kind, rng.randrange(8))
    return f"truncated {kind}", whole[: rng.randrange(1, len(whole))], ANSWERED


def _mutated(rng: random.Random) -> HostileImage:
    kind = rng.choice(FORMATS)
    content = bytearray(image(kind, rng.randrange(8)))
    for _ in range(rng.choice((1, 3, 30))):
        # Headers are short, and most of what matters is in them.
        end = len(content) if rng.random() < 0.5 else min(64, len(content))
        place = rng.randrange(end)
        change = rng.randrange(4)
        if change == 0:
            content[place] = rng.randrange(256)
        elif change == 1:
            content[place : place + 4] = rng.choice((b"\xff" * 4, bytes(4), b"\x7f" + b"\xff" * 3))
        elif change == 2:
            del content[place : place + rng.randrange(1, 9)]
        else:
            content[place:place] = rng.randbytes(rng.randrange(1, 9))
        if not content:
            content = bytearray(b"\xff")
    return f"mutated {kind}", bytes(content), ANSWERED


def _spliced(rng: random.Random) -> HostileImage:
    first, second = rng.choice(FORMATS), rng.choice(FORMATS)
    one, two = image(first, 1), image(second, 2)
    content = one[: rng.randrange(1, len(one))] + two[rng.randrange(len(two)) :]
    return f"{first} spliced with {second}", content, ANSWERED


def _random(rng: random.Random) -> HostileImage:
    # "Px" starts a Netpbm image, which random bytes can complete.
    return "random bytes", b"\x00" + rng.randbytes(rng.choice((1, 16, 5000))), REFUSED


def _signature_alone(rng: random.Random) -> HostileImage:
    kind = rng.choice(sorted(_SIGNATURES))
    content = _SIGNATURES[kind] + rng.randbytes(rng.choice((0, 4, 400)))
    return f"signature of {kind}, then random bytes", content, REFUSED | TOO_LARGE


def _another_file(rng: random.Random) -> HostileImage:
    return "another kind of file", rng.choice(_NOT_IMAGES), REFUSED


def _png_bomb(rng: random.Random) -> HostileImage:
    side = rng.choice((20_000, 2**20, 2**31 - 1))
    return "PNG bomb", png(side, side, zlib.compress(bytes(1000))), REFUSED | TOO_LARGE


def _png_short_of_the_limit(rng: random.Random) -> HostileImage:
    # Its header is within the limits, and its data ends soon.
    return "PNG whose data ends early", png(8000, 8000, zlib.compress(bytes(100))), ANSWERED


def _png_text_bomb(rng: random.Random) -> HostileImage:
    whole = image("PNG")
    return "PNG with a text bomb", whole[:33] + _text_bomb() + whole[33:], ANSWERED


@functools.cache
def _text_bomb() -> bytes:
    return _chunk(b"zTXt", b"comment\0\0" + zlib.compress(bytes(16 * 2**20)))


def _gif_bomb(rng: random.Random) -> HostileImage:
    header = b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\x00\x00\x00"
    frame = b"\x2c" + struct.pack("<HHHH", 0, 0, 65535, 65535) + b"\x00\x02\x02\x4c\x01\x00"
    return "GIF bomb", header + frame * 100 + b"\x3b", REFUSED | TOO_LARGE


def _jpeg_scans(rng: random.Random) -> HostileImage:
    return "progressive JPEG of 3,000 scans", _many_scans(), ANSWERED


@functools.cache
def _many_scans() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(file, "JPEG", progressive=True)
    whole = file.getvalue()
    start = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[start:-2] * 3000 + b"\xff\xd9"


def _jpeg_sizes(rng: random.Random) -> HostileImage:
    content = bytearray(image("JPEG"))
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(
        ">HH", *rng.choice(((65535, 65535), (0, 0), (1, 65535)))
    )
    return "JPEG of another size than its header says", bytes(content), ANSWERED


def _exif(rng: random.Random) -> HostileImage:
    exif = b"Exif\x00\x00II*\x00" + struct.pack("<IHHHII", 8, 1, 0x0112, 4, 0xFFFFFFFF, 0xFFFFFFF0)
    whole = image("JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    return "JPEG with damaged EXIF", whole[:2] + segment + whole[2:], ANSWERED


def png(width: int, height: int, data: bytes) -> bytes:
    """Return a greyscale PNG whose header and compressed data are as given."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = _chunk(b"IHDR", header), _chunk(b"IDAT", data), _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + check


_KINDS: tuple[Callable[[random.Random], HostileImage], ...] = (
    *(_truncated, _mutated, _mutated, _mutated, _spliced, _random, _signature_alone),
    *(_another_file, _png_bomb, _png_short_of_the_limit, _png_text_bomb, _gif_bomb),
    *(_jpeg_scans, _jpeg_sizes, _exif),
)
