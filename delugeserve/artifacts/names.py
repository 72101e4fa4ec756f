"""Names of models in a repository: a folder's name, part of an address, and a value in commands."""

from __future__ import annotations

import re
import unicodedata

from delugeserve.errors import ModelNameError

_VALID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_LONGEST = 128


def check_model_name(name: str) -> None:
    """Refuse a name that Triton, a shell or a web address could not take as it is.

    Raises:
        ModelNameError: it has other characters than ASCII letters, digits, ``_``, ``.`` and ``-``,
            starts with ``.`` or ``-``, is empty, or has more than 128 characters.
    """
    if not _VALID.fullmatch(name) or len(name) > _LONGEST:
        raise ModelNameError(name, nearest_model_name(name))


def nearest_model_name(name: str) -> str:
    """Return a valid name that is like another one; accents are dropped, the rest becomes ``_``."""
    letters = unicodedata.normalize("NFKD", name.replace("ß", "ss"))
    plain = "".join(one for one in letters if not unicodedata.combining(one))
    joined = re.sub(r"[^A-Za-z0-9_.-]+", "_", plain).strip("_.-")
    return joined[:_LONGEST] or "model"
