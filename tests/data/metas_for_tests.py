"""Metadata of samples that were never made: whatever shards/schema.json allows."""

from itertools import combinations
from typing import Any

from hypothesis import strategies as st


def meta_of(
    facts: list[dict[str, Any]], gaps: list[float] | None = None, key: str = "toy-1-2-3", **values: Any
) -> dict[str, Any]:
    """A `meta.json` with the sample's key and bytes. `facts` change what is said of each object; `gaps` of all pairs
    are 0 unless given; `values` change what is said of the sample."""
    plain = {
        "id": "7", "category": "cat", "box": [4, 5, 10, 20], "area": 0.05, "parts": 1, "holes": 0, "border": 0.0,
        "edge": 0.2, "crop": [0.5, 2.0, 24.0],
    }  # fmt: skip
    objects = [{**plain, **fact} for fact in facts]
    pairs = list(combinations(range(len(objects)), 2))
    relations = [
        {"objects": list(pair), "box_iou": 0.25, "gap_px": gap, "contact_px": 0 if gap else 9, "overlap_px": 0,
         "front": None}
        for pair, gap in zip(pairs, gaps or [0.0] * len(pairs), strict=True)
    ]  # fmt: skip
    photo = {"id": "1", "file_name": "a.jpg", "width": 640, "height": 480, "license": "CC0", "url": "http://x/a.jpg"}
    return {
        "key": key, "num_bytes": 3072, "schema": 2, "source": "toy", "photo": photo, "split": "train",
        "size": [240, 320], "objects": objects, **({"relation": relations[0]} if relations else {}),
        "relations": relations, "seed": 5, **values,
    }  # fmt: skip


@st.composite
def _metas(draw: st.DrawFn) -> dict[str, Any]:
    facts = st.fixed_dictionaries(
        {
            "category": st.sampled_from(["cat", "dog", 'a, "b" ö']),
            "parts": st.integers(1, 5),
            "holes": st.integers(0, 4),
            "border": st.integers(0, 10_000).map(lambda n: n / 10_000),
            "edge": st.integers(0, 10_000).map(lambda n: n / 10_000),
        },
        optional={"hidden": st.integers(0, 100).map(lambda n: n / 100)},
    )
    objects = draw(st.lists(facts, min_size=1, max_size=4))
    num_pairs = len(objects) * (len(objects) - 1) // 2
    gaps = draw(st.lists(st.integers(0, 800).map(lambda n: n / 100), min_size=num_pairs, max_size=num_pairs))
    seed = draw(st.integers(0, 2**48 - 1))
    return meta_of(objects, gaps, key=f"toy-{seed}", seed=seed, split=draw(st.sampled_from(["train", "val"])))


METAS = _metas()
