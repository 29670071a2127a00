"""A thousand damaged inputs through the whole build: each is rejected with its reason or handled right, none is in a
shard wrongly, every good neighbour is there, and all of it adds up."""

import io
import tarfile
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pics_common.errors import UserError
from pics_data import cli
from pics_data.records import Photo, Reject
from pics_data.sources import coco
from pics_data.sources.coco_json import id_text
from tests.data.damage_kinds_for_tests import ANNOTATION, KINDS, PHOTO_ENTRY, DamagedSet, Kind, damaged_set
from tests.data.damaged_for_tests import Draft
from tests.data.plain_build import build_plainly, digests

NUM_GOOD = 300
TOLERANCE = 4.0  # mean difference of 255 between what was drawn and what a JPEG shows
OF_THE_PLAN = {ANNOTATION, PHOTO_ENTRY, "not in images"}
SETTINGS: dict[str, Any] = {"object_size": 32, "shard_samples": 100}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, on malformed EXIF


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> DamagedSet:
    return damaged_set(tmp_path_factory.mktemp("damaged"), NUM_GOOD)


@pytest.fixture(scope="module")
def built(damaged: DamagedSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of shards that plain functions make of it: in this process, which therefore survives them all."""
    out = tmp_path_factory.mktemp("built")
    build_plainly(damaged.drawn.config(out, **SETTINGS))
    return out


@dataclass
class Fate:
    """What a build made of one photo: its samples, and the reasons of its rejects and of those of its annotations."""

    samples: list[dict[str, bytes]] = field(default_factory=list)
    rejects: list[str] = field(default_factory=list)


def samples_of(out: Path) -> dict[str, dict[str, bytes]]:
    """The members of each sample in a folder of shards, by key."""
    samples: dict[str, dict[str, bytes]] = defaultdict(dict)
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                stream = tar.extractfile(member)
                assert stream is not None
                assert extension not in samples[key], f"{member.name} stands twice"
                samples[key][extension] = stream.read()
    return samples


def fates_of(damaged: DamagedSet, out: Path) -> tuple[dict[int, Fate], Counter[str]]:
    """What became of each photo, by its number; and the reasons of rejects that say of none that they are its own."""
    owners = {}
    for draft, _ in damaged.photos:
        for name in (id_text(draft.image.get("id")), draft.file_name, *draft.masks, *draft.other_ids):
            owners[f"coco-{name}"] = draft.number
        for annotation_id in (*draft.masks, "1", "?"):  # those of the photo, as they are and as they may be called
            owners[f"coco-{id_text(draft.image.get('id'))}-{annotation_id}"] = draft.number
    for path in out.glob("plan/0*.parquet"):
        for row in pq.read_table(path, columns=["key", "photo_id"]).to_pylist():
            owners[row["key"]] = owners[f"coco-{row['photo_id']}"]
    fates = {draft.number: Fate() for draft, _ in damaged.photos}
    nameless: Counter[str] = Counter()
    for key, members in samples_of(out).items():
        fates[owners[key]].samples.append(members)
    for reject in pq.read_table(out / "rejects.parquet").to_pylist():
        assert reject["reason"] == "missing photo" or (reject["stage"] == "plan") == (reject["reason"] in OF_THE_PLAN)
        if reject["key"] == "coco-?":
            nameless[reject["reason"]] += 1
        else:
            fates[owners[reject["key"]]].rejects.append(reject["reason"])
    return fates, nameless


def what_is_wrong(draft: Draft, damage: Kind | None, fate: Fate) -> str:
    """What is wrong with a photo's fate; "" if nothing is."""
    outcomes, beside = (damage.outcomes, damage.beside) if damage else (("sample",), ())
    found = Counter(["sample"] * len(fate.samples) + fate.rejects)
    if not any(found == Counter([*({outcome} - {"no pair"}), *beside]) for outcome in outcomes):
        return f"became {dict(found)}, not one of {outcomes} beside {beside}"
    return what_is_wrong_in(draft, fate.samples[0], damage is None or damage.is_exact) if fate.samples else ""


def what_is_wrong_in(draft: Draft, members: dict[str, bytes], is_exact: bool) -> str:
    """Whether a sample shows the photo and the masks that were drawn."""
    shown = np.asarray(Image.open(io.BytesIO(members["bg.jpg"])).convert("RGB"))
    if shown.shape != draft.shown.shape:
        return f"shows {shown.shape}"
    if is_exact and (difference := np.abs(shown.astype(int) - draft.shown).mean()) > TOLERANCE:
        return f"shows something else, by {difference:.1f}"
    truth = {str(a["id"]): mask for a, mask in zip(draft.annotations, draft.masks.values(), strict=False)}
    objects = orjson.loads(members["meta.json"])["objects"]
    if {item["id"] for item in objects} != set(truth):
        return f"has objects {objects}"
    for i, item in enumerate(objects):
        mask = np.asarray(Image.open(io.BytesIO(members[f"mask{i}.png"])))
        if not np.array_equal(mask, truth[item["id"]]):
            return f"has another mask of {item['id']} than was drawn"
    return ""


def test_there_are_enough(damaged: DamagedSet) -> None:
    kinds = {damage.name for _, damage in damaged.photos if damage}
    assert len(kinds) >= 200
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    assert sum(damage is not None for _, damage in damaged.photos) >= 1000


def test_each_is_rejected_with_its_reason_or_handled_right(damaged: DamagedSet, built: Path) -> None:
    fates, nameless = fates_of(damaged, built)
    wrong = Counter(
        f"{damage.name if damage else 'good'}: {said}"
        for draft, damage in damaged.photos
        if (said := what_is_wrong(draft, damage, fates[draft.number]))
    )
    assert not wrong
    assert nameless == Counter(reason for _, damage in damaged.photos if damage for reason in damage.nameless)


def test_damage_of_the_pixels_is_noticed_as_a_rule(damaged: DamagedSet, built: Path) -> None:
    fates, _ = fates_of(damaged, built)
    names = ("noise in its pixels", "zeros in its pixels")
    hit = [draft for draft, damage in damaged.photos if damage and damage.name in names]
    noticed = sum("broken photo" in fates[draft.number].rejects for draft in hit)
    assert noticed >= 0.75 * len(hit)


def test_it_adds_up(damaged: DamagedSet, built: Path) -> None:
    """Entries = samples + photos rejected + without pair, and entries that are none besides."""
    fates, nameless = fates_of(damaged, built)
    counts = orjson.loads((built / "recipe.json").read_bytes())["counts"]
    reasons = Counter(reject["reason"] for reject in pq.read_table(built / "rejects.parquet").to_pylist())
    entries = len(damaged.drawn.document["images"])
    assert entries == counts["photos"] + reasons[PHOTO_ENTRY]
    index = orjson.loads((built / "index.json").read_bytes())
    samples = sum(shard["nsamples"] for shard in index["shardlist"])
    assert samples == sum(len(fate.samples) for fate in fates.values())
    of_pixels = sum(n for reason, n in reasons.items() if reason not in OF_THE_PLAN | {"missing photo"})
    linked = sum(damage is not None and damage.name == "a link to nothing" for _, damage in damaged.photos)
    assert counts["photos"] == counts["missing"] + counts["without_pair"] + samples + of_pixels + linked
    without = sum(not fate.samples and set(fate.rejects) <= {ANNOTATION, "not in images"} for fate in fates.values())
    assert counts["without_pair"] == without - nameless[PHOTO_ENTRY]


def test_the_good_are_what_they_are_alone(damaged: DamagedSet, built: Path, tmp_path: Path) -> None:
    build_plainly(damaged.good.config(tmp_path, **SETTINGS))
    alone, together = samples_of(tmp_path), samples_of(built)
    assert len(alone) == NUM_GOOD
    assert all(together[key] == members for key, members in alone.items())


def run(*argv: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    return int(ended.value.code or 0)


@contextmanager
def watched_workers() -> Iterator[dict[int, int]]:
    """The most memory that each of Ray's workers at work has held so far, in kilobytes, by process id."""
    peaks: dict[int, int] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            for status in Path("/proc").glob("[0-9]*/status"):
                with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                    if b"Map(work)" in status.with_name("cmdline").read_bytes():
                        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
                        peaks[int(status.parent.name)] = int(line.split()[1])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


@pytest.mark.usefixtures("one_ray")
def test_the_real_command_makes_the_same_of_it(
    damaged: DamagedSet, built: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    settings = ("--object-size", "32", "--shard-samples", "100", "--max-reject-fraction", "1", "--workers", "2")
    with watched_workers() as peaks:
        assert run(*damaged.drawn.argv(out, *settings)) == 0
    said = capfd.readouterr()
    assert "Traceback" not in said.err
    assert digests(out) == digests(built)
    assert pq.read_table(out / "rejects.parquet") == pq.read_table(built / "rejects.parquet")
    assert peaks
    assert max(peaks.values()) < 1_000_000
    assert run("verify", str(out)) == 0


GOOD = """{"info": %s, "images": [{"id": 1, "width": 96, "height": 72, "file_name": "00000.jpg"}],
"annotations": [{"id": 2, "image_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "category_id": 3,
"segmentation": [[0, 0, 9, 0, 9, 9]]}], "categories": [{"id": 3, "name": "%s"}]}"""


def read(folder: Path, data: bytes) -> list[Photo | Reject]:
    (folder / "00000.jpg").write_bytes(b"x")
    path = folder / "a.json"
    path.write_bytes(data)
    return list(coco.photos([str(folder)], [str(path)]))


@pytest.mark.parametrize(
    ("data", "category"),
    [
        (b"\xef\xbb\xbf" + (GOOD % ("{}", "cup")).encode(), "cup"),
        ((GOOD % ('{"year": NaN, "limit": -Infinity, "size": 1%s}' % ("0" * 5000), "cup")).encode(), "cup"),
        ((GOOD % ('{"who": "\\ud83d"}', "c\\udfffp")).encode(), "c?p"),
        ((GOOD % ('{"who": "Andr\xe9"}', "th\xe9")).encode("latin-1"), "th\ufffd"),
        ((GOOD % ("{}", "th\xe9\\ud83c\\udf75")).encode(), "th\xe9\U0001f375"),
        ((GOOD % ("{}", "cup")).replace("\n", "\r\n\t ").encode(), "cup"),
    ],
    ids=["byte order mark", "numbers", "half a letter", "Latin-1", "letters", "spaces"],
)
def test_annotation_files_that_are_read_all_the_same(tmp_path: Path, data: bytes, category: str) -> None:
    (photo,) = read(tmp_path, data)
    assert isinstance(photo, Photo)
    assert [item.category for item in photo.instances] == [category]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "not JSON"),
        (lambda text: text.replace("[[0, 0", "[[0 0"), "not JSON at `{"),
        (lambda text: text.replace('"id": 2', "id: 2"), "not JSON at `{"),
        (lambda text: text.replace("}]}", "}]"), "not JSON"),
        (lambda text: text.replace("{}", "[" * 5000 + "]" * 5000), "not JSON"),
        (lambda text: text[:-5] + "\\" + '\\"' * 10**6, "not JSON"),
        (lambda text: text.encode("utf-16").decode("latin-1"), "not JSON"),
        (lambda text: text.replace('"cup"}', '"cup"}, {"id": 3.0, "name": "jug"}'), "id 3 twice, for cup and jug"),
    ],
    ids=["cut", "comma", "quotes", "brace", "deep", "quotes without end", "UTF-16", "two categories"],
)
def test_annotation_files_that_are_refused_in_one_line(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path, change(GOOD % ("{}", "cup")).encode("latin-1"))
    assert message in str(error.value)
    assert str(tmp_path / "a.json") in str(error.value)
