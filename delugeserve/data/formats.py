"""The list of image formats, which the client and the data readers share."""

from delugeserve_client.formats import (
    FORMATS,
    HEIF_SUFFIXES,
    SUFFIXES,
    decodable_formats,
    is_image_file,
)

__all__ = ["FORMATS", "HEIF_SUFFIXES", "SUFFIXES", "decodable_formats", "is_image_file"]
