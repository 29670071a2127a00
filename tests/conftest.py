"""Shared by all tests: where the real photos are, if they are here."""

from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos and annotations; the test is skipped where it is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"no real photos at {folder}")
    return folder


@pytest.fixture(scope="session")
def shared_reference() -> Path:
    """The folder of golden tensors; the test is skipped where it is absent."""
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip(f"no golden tensors at {folder}")
    return folder


@pytest.fixture(scope="module")
def same_threads_for_later_tests() -> Iterator[None]:
    """A predictor or a generator sets torch's number of threads, for the whole process."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
