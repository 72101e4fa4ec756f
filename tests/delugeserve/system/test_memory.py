"""Freed memory is kept, then returned: measured by page faults, each time in a new process."""

import os
import subprocess
import sys

import pytest

MEBIBYTE = 1 << 20
SCRIPT = """
import resource, sys
from delugeserve.system.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        block = bytearray(int(sys.argv[1]) << 20)
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

faults()
usual, before = faults(), resident()
with keep_freed_memory():
    with keep_freed_memory():
        faults()
    kept, meanwhile = faults(), resident()
after = resident()
faults()
print(usual, kept, faults(), meanwhile - before, after - before)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs the GNU C library")


def measured(mebibytes, **environment):
    clean = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(mebibytes)],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return map(int, done.stdout.split())


def test_freed_memory_is_kept_and_then_returned():
    usual, kept, afterwards, resident, resident_afterwards = measured(64)
    assert usual > 1000
    assert kept < usual / 100
    assert afterwards > 1000
    assert resident > 60 * MEBIBYTE
    assert resident_afterwards < 10 * MEBIBYTE


@pytest.mark.parametrize("mebibytes", [1, 4])
def test_blocks_that_the_library_keeps_anyway_are_still_kept_afterwards(mebibytes):
    usual, kept, afterwards, *_ = measured(mebibytes)
    assert usual < 10
    assert kept < 10
    assert afterwards < 10


@pytest.mark.parametrize(
    "environment", [{"MALLOC_PERTURB_": "0"}, {"GLIBC_TUNABLES": "glibc.malloc.perturb=0"}]
)
def test_settings_of_the_environment_are_kept(environment):
    usual, kept, *_ = measured(64, **environment)
    assert kept == usual
