"""Hugging Face's libraries, kept quiet while they load what takes a second."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet(logging: Any) -> Iterator[None]:
    """Without a bar, and without the library's own words on an error that is told in one line.

    `logging` is `diffusers.utils.logging` or `transformers.utils.logging`.
    """
    had_bar, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bar:
            logging.enable_progress_bar()
