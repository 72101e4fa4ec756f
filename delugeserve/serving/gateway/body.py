"""Read the images of a request, within limits."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass

import anyio
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from delugeserve.serving.gateway.errors import RequestError
from delugeserve.serving.gateway.settings import GatewayLimits

PART = "image"  # name of the multipart fields that hold images

# "curl --data-binary @cat.jpg" declares a form, whatever the file is.
_RAW = ("", "application/octet-stream", "application/x-www-form-urlencoded", "binary/octet-stream")
_MULTIPART = "multipart/form-data"
_SEND_AN_IMAGE = (
    "Send the bytes of a JPEG, PNG or WebP file as the body, or several files as parts named "
    f"'{PART}' of multipart/form-data."
)


@dataclass(frozen=True)
class EncodedImage:
    """An image of a request.

    Attributes:
        name: its file name in a multipart request; empty otherwise.
        content: the bytes of an image file.
    """

    name: str
    content: bytes


class Admission:
    """Counts the requests that are being answered, and the bytes that they hold.

    Args:
        limits: how many of both there may be.
    """

    def __init__(self, limits: GatewayLimits) -> None:
        self._limits = limits
        self.requests = 0
        self.held = 0

    @contextlib.contextmanager
    def admit(self) -> Iterator[Held]:
        """Count a request for the length of the block.

        Raises:
            RequestError: there are too many.
        """
        if self.requests >= self._limits.requests:
            raise _too_busy()
        self.requests += 1
        held = Held(self)
        try:
            yield held
        finally:
            self.requests -= 1
            self.held -= held.size

    def hold(self, size: int) -> None:
        """Count bytes that a request holds."""
        if self.held + size > self._limits.buffered_bytes:
            raise _too_busy()
        self.held += size


@dataclass
class Held:
    """The bytes that one request holds."""

    admission: Admission
    size: int = 0

    def add(self, size: int) -> None:
        """Count more of them.

        Raises:
            RequestError: all requests together hold too many.
        """
        self.admission.hold(size)
        self.size += size


class _InMemory(MultiPartParser):
    """Keeps parts in memory: their size is limited, and nothing is written to disk."""

    def __init__(
        self, request: Request, stream: AsyncGenerator[bytes, None], limits: GatewayLimits
    ):
        self.spool_max_size = limits.request_bytes
        super().__init__(
            request.headers, stream, max_files=limits.images, max_fields=0, max_part_size=1024
        )


async def read_images(request: Request, limits: GatewayLimits, held: Held) -> list[EncodedImage]:
    """Read a request's images: its body, or the parts of a multipart body.

    Args:
        request: the request; its body was not read.
        limits: what is refused.
        held: counts the bytes.

    Returns:
        One or more images, none of them empty.

    Raises:
        RequestError: the body is too large, arrives too slowly, or holds no image.
        ClientDisconnect: the client went away.
    """
    kind = _content_type(request)
    _check_length(request, limits)
    stream = _limited(request, limits, held)
    try:
        with anyio.fail_after(limits.body_seconds):
            if kind == _MULTIPART:
                images = await _read_parts(request, stream, limits)
            else:
                images = [EncodedImage("", b"".join([chunk async for chunk in stream]))]
    except TimeoutError:
        raise RequestError(
            408,
            f"The request's body did not arrive within {limits.body_seconds:g} s.",
            "Send a smaller image, or send it over a faster connection.",
        ) from None
    for image in images:
        _check_image(image, limits)
    return images


def _content_type(request: Request) -> str:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise RequestError(
            415, "The request's body is compressed.", "Send it without Content-Encoding."
        )
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _MULTIPART and kind not in _RAW and not kind.startswith("image/"):
        raise RequestError(415, f"The request's body is of the type '{kind[:80]}'.", _SEND_AN_IMAGE)
    return kind


def _check_length(request: Request, limits: GatewayLimits) -> None:
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared[:20]) > limits.request_bytes:
        raise _too_large("The request's body", limits.request_bytes)


async def _limited(
    request: Request, limits: GatewayLimits, held: Held
) -> AsyncGenerator[bytes, None]:
    async for chunk in request.stream():
        if held.size + len(chunk) > limits.request_bytes:
            raise _too_large("The request's body", limits.request_bytes)
        held.add(len(chunk))
        yield chunk


async def _read_parts(
    request: Request, stream: AsyncGenerator[bytes, None], limits: GatewayLimits
) -> list[EncodedImage]:
    _, options = parse_options_header(request.headers["content-type"])
    if not options.get(b"boundary"):
        raise RequestError(
            400,
            "The multipart body has no valid boundary.",
            "Let the HTTP client write the header Content-Type, as curl does with -F.",
        )
    try:
        form = await _InMemory(request, stream, limits).parse()
    except MultiPartException as error:
        if error.message.startswith("Too many"):
            raise RequestError(
                422,
                f"The request has more than {limits.images} files, or fields that are not files.",
                f"Send up to {limits.images} files in parts named '{PART}', and nothing else.",
            ) from None
        raise RequestError(
            400, "The multipart body is damaged.", "Let the HTTP client write it."
        ) from None
    images = [await _read_part(name, value) for name, value in form.multi_items()]
    if not images:
        raise RequestError(422, f"The request has no file named '{PART}'.", _SEND_AN_IMAGE)
    return images


async def _read_part(name: str, value: UploadFile | str) -> EncodedImage:
    if name != PART or isinstance(value, str):
        raise RequestError(
            422,
            f"The request has a part named '{name[:80]}' that is not an image.",
            f"Name the parts '{PART}', and send a file in each.",
        )
    image = EncodedImage((value.filename or "")[:200], await value.read())
    await value.close()
    return image


def _check_image(image: EncodedImage, limits: GatewayLimits) -> None:
    if not image.content:
        raise RequestError(400, "The request has an empty image.", _SEND_AN_IMAGE)
    if len(image.content) > limits.image_bytes:
        raise _too_large("An image", limits.image_bytes)


def _too_large(what: str, limit: int) -> RequestError:
    return RequestError(
        413,
        f"{what} is larger than {limit:,} bytes.",
        "Send a smaller image: scale it down, or send fewer of them in one request.",
    )


def _too_busy() -> RequestError:
    return RequestError(
        429,
        "The server has too many requests at the moment.",
        "Wait as long as the header Retry-After says, then send the request again.",
        retry_after=1,
    )
