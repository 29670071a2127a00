"""What may be wrong with a sample: signs that its numbers show, and the option of `build` that leaves it out."""

from dataclasses import dataclass
from typing import Literal

from pics_data.config import BuildConfig

MIN_AREA = BuildConfig().min_area


@dataclass(frozen=True, slots=True)
class Rule:
    """A sign of a poor sample: a value of `column` beyond `limit`; above it, or with `low` below it.

    The worst samples beyond `harmless` are shown under `title`, each with its value in `words`.
    """

    column: str
    of: Literal["objects", "samples"]
    limit: float
    low: bool
    name: str
    says: str  # of samples: "20 % of the samples ..."
    option: str  # of `build`; "" where there is none
    title: str
    harmless: float
    words: str


RULES = (
    Rule("area", "objects", MIN_AREA, True, "tiny object",
         f"hold an object that covers less than {100 * MIN_AREA:.2f} % of the photo", f"--min-area {MIN_AREA:g}",
         "Smallest objects", 0.02, "{:.2%} of the photo"),
    Rule("parts", "objects", 4, False, "in pieces", "hold an object whose silhouette falls into more than 4 parts",
         "--max-parts 4", "Most pieces", 2, "{:.0f} parts"),
    Rule("holes", "objects", 4, False, "riddled", "hold an object whose silhouette has more than 4 holes",
         "--max-holes 4", "Most holes", 2, "{:.0f} holes"),
    Rule("border", "objects", 0.2, False, "cut off",
         "hold an object of whose outline more than 20 % lies on the photo's border", "--max-border 0.2",
         "Cut off by the border", 0.1, "{:.0%} of an outline"),
    Rule("edge", "objects", 0.02, True, "soft outline",
         "hold an object along whose outline hardly anything changes (mean gradient below 0.02): blurred, or the "
         "annotation misses the edge", "--min-edge 0.02", "Softest outlines", 0.04, "gradient {:.3f}"),
    Rule("hidden", "objects", 0.6, False, "mostly hidden", "hold an object of which others hide more than 60 %", "",
         "Most hidden", 0.5, "{:.0%} hidden"),
    Rule("widest_gap", "samples", 10, False, "far apart",
         "hold objects that are more than 10 px apart: no contact to learn from", "--max-gap 10", "Furthest apart", 5,
         "{:,.0f} px apart"),
)  # fmt: skip
