"""Fixtures: processes that are killed at one of the steps that change a repository."""

import tempfile
from pathlib import Path

import pytest


class Killed(BaseException):
    """Stands for a kill: no handler of ordinary errors may catch it."""


class Steps:
    """Counts the renames and deletions of a body, and kills it at one of them.

    Args:
        fatal: number of the step, from 1; None for none.
        late: kill it just after the step, not just before.
    """

    Killed = Killed

    def __init__(self, fatal=None, *, late=False):
        self.fatal, self.late, self.count, self.dead = fatal, late, 0, False

    def _step(self, original):
        def step(*args, **options):
            if self.dead:  # a dead process does not clean up
                raise Killed
            self.count += 1
            self.dead = self.count == self.fatal
            if self.dead and not self.late:
                raise Killed
            done = original(*args, **options)
            if self.dead:
                raise Killed
            return done

        return step

    def __enter__(self):
        self.patch = pytest.MonkeyPatch()
        for name in ("replace", "unlink"):
            self.patch.setattr(Path, name, self._step(getattr(Path, name)))
        remove = tempfile.TemporaryDirectory._rmtree
        self.patch.setattr(
            tempfile.TemporaryDirectory,
            "_rmtree",
            staticmethod(lambda *args, **options: self.dead or remove(*args, **options)),
        )
        return self

    def __exit__(self, *_error):
        self.patch.undo()


@pytest.fixture(scope="session")
def steps():
    """The class that counts steps and kills at one of them."""
    return Steps
