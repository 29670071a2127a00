"""Settings of a command: which values can work, and how they are written down."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pics_common.errors import UserError


def require_ranges(config: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Raises `UserError` for the first option of the dataclass `config` that lies outside its (least, most); None is
    taken to be inside."""
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if value is not None and not low <= value <= high:
            expected = f"{low:g} or more" if high == float("inf") else f"{low:g} to {high:g}"
            raise UserError(f"--{name.replace('_', '-')} {value}: expected {expected}")


def plain(config: Any) -> dict[str, Any]:
    """A dataclass of settings as JSON values."""
    return {key: str(v) if isinstance(v, Path) else v for key, v in dataclasses.asdict(config).items()}
