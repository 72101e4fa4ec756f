"""A repository to damage."""

import shutil

import pytest


@pytest.fixture
def stored(exported, tmp_path):
    """A copy of the repository ``exported``."""
    return shutil.copytree(exported, tmp_path / "model_repository")
