"""Memory of pictures: kept for the next picture, but not without bound."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")

# Page faults of 100 rounds with photos of 1 MB, then the memory held after 200 MB of photos are gone.
PROGRAM = """
import resource, sys
import numpy as np
from pics_common.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()

def round():
    for photo in [np.zeros((480, 640, 3), np.uint8) for _ in range(4)]:
        photo[:] = 1

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

round()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    round()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
before = resident()
photos = [np.ones((480, 640, 3), np.uint8) for _ in range(220)]
del photos
print(resident() - before)
"""


def faults_and_growth(way: str) -> tuple[int, int]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, way], capture_output=True, text=True, check=True)
    faults, growth = done.stdout.split()
    return int(faults), int(growth)


def test_pictures_use_the_memory_of_those_before() -> None:
    by_itself, kept = faults_and_growth("by itself")[0], faults_and_growth("keep")
    assert by_itself > 10_000
    assert kept[0] < by_itself / 20
    assert kept[1] < 80 * 2**20
