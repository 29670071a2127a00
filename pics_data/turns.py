"""Cut-outs turned in the plane, as members of their own: `obj<k>_rot<r>.png`, the angles in `meta.json`.

The picture behind stays as it is: a model learns to put an object upright that it was shown askew.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import orjson

from pics_common.turn import turn_on_white
from pics_data import codecs
from pics_data.members import decode
from pics_data.options import ViewOptions
from pics_data.records import Reject, Sample

_STREAM: Final = 2  # of the random numbers of an object: its margins, its cameras, its angles each have their own


def with_rotations(records: Iterable[Sample | Reject], options: ViewOptions) -> Iterator[Sample | Reject]:
    """Each sample with `options.rotations` turned copies of each cut-out, by angles from U(-rotation, rotation).

    Nothing is cut off: an object that would leave the square is shrunk into it. Angles, in degrees counterclockwise,
    come from the sample's seed and the object's place alone.
    """
    for record in records:
        yield record if isinstance(record, Reject) or not options.rotations else _turned(record, options)


def _turned(sample: Sample, options: ViewOptions) -> Sample:
    meta = orjson.loads(sample.members["meta.json"])
    members = {name: data for name, data in sample.members.items() if name != "meta.json"}
    for k, item in enumerate(meta["objects"]):
        rng = np.random.default_rng((meta["seed"], k, _STREAM))
        angles = [
            round(float(angle), 2) for angle in rng.uniform(-options.rotation, options.rotation, options.rotations)
        ]
        cutout = decode(f"obj{k}.png", members[f"obj{k}.png"])
        for r, angle in enumerate(angles, 1):
            members[f"obj{k}_rot{r}.png"] = codecs.png(turn_on_white(cutout, angle))
        item["rotations"] = angles
    return Sample(sample.key, {**members, "meta.json": orjson.dumps(meta)})
