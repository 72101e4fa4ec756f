"""Following a repository: each change of what it serves becomes a release."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from delugeserve.errors import DelugeServeError
from delugeserve.serving.fleet.release import Wish, look, take_wish

_log = logging.getLogger(__name__)

_INTERVAL = 1.0  # seconds


class Follower:
    """Looks at a repository each second, in a thread of its own.

    Args:
        repository: the model repository.
        names: the models to serve; None for all.
        post: receives what the repository asks for, whenever it may have changed, and whether
            releases that failed shall be tried again.
    """

    def __init__(
        self,
        repository: Path,
        names: Sequence[str] | None,
        post: Callable[[Wish, bool], None],
    ) -> None:
        self._repository, self._names, self._post = repository, names, post
        self._seen = look(repository, names)
        self._stopped = False
        self._again = False
        self._wake = threading.Event()
        self._complaint = ""
        self._thread = threading.Thread(target=self._run, name="follow", daemon=True)

    def start(self) -> None:
        """Start to look."""
        self._thread.start()

    def reload(self) -> None:
        """Look now, and try releases again that failed; safe in a signal handler."""
        self._again = True
        self._wake.set()

    def stop(self) -> None:
        """Stop; return at once."""
        self._stopped = True
        self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait(_INTERVAL)
            self._wake.clear()
            if self._stopped:
                return
            again, self._again = self._again, False
            seen = look(self._repository, self._names)
            if seen == self._seen and not again:
                continue
            try:
                wish = take_wish(self._repository, self._names)
            except DelugeServeError as error:
                # Half of a change by hand, perhaps; what is served is a copy and goes on.
                if str(error) != self._complaint:
                    self._complaint = str(error)
                    _log.warning("The repository is not followed until this is mended: %s", error)
                continue
            self._complaint = ""
            self._seen = seen
            self._post(wish, again)
