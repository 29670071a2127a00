"""Ray, started once for many builds: alone, a build takes eight seconds to start and end it."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from pics_data.options import RayOptions
from pics_data.pipeline import engine


@pytest.fixture(scope="package")
def ray_until_the_end() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def one_ray(ray_until_the_end: ExitStack) -> None:
    """Ray runs, with two workers, and goes on to run: the builds of this process find it and use it."""
    import ray

    if not ray.is_initialized():
        ray_until_the_end.enter_context(engine(RayOptions(workers=2)))
