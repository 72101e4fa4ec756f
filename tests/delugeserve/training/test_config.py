"""The precision that 'auto' stands for."""

import pytest
import torch

from delugeserve.errors import UsageError
from delugeserve.training.config import resolve_precision


def test_precision_follows_the_processor(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for native, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(
            "delugeserve.system.hardware.has_native_bf16", lambda native=native: native
        )
        assert resolve_precision("auto") == expected
    assert resolve_precision("fp32") == "fp32"
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        resolve_precision("fp16")


def test_a_gpu_that_emulates_bf16_trains_in_fp32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for native in (True, False):
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda including_emulation=True, native=native: native or including_emulation,
        )
        assert resolve_precision("auto") == ("bf16" if native else "fp32")
