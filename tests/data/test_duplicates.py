"""Fingerprints that copies keep, all near pairs and no other, and one photo of each group, whoever comes first."""

import io
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from pics_data import deduplicate, duplicates
from pics_data.config import BuildConfig
from pics_data.duplicates import drop_duplicates, near_pairs
from pics_data.fingerprint import (
    FINGERPRINT,
    Fingerprints,
    fingerprint,
    fingerprint_chunk,
    kept_chunk,
)

ORIENTATION = 0x0112


def picture(seed: int, width: int = 320, height: int = 240) -> Image.Image:
    """Blobs of all sizes, coarse ones stronger: the spectrum of a photo."""
    random = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells in (2, 4, 8, 16, 32, 64):
        noise = Image.fromarray(random.integers(0, 256, (cells, cells, 3), np.uint8))
        total += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), float) / cells
    total -= total.min()
    return Image.fromarray((total / total.max() * 255).astype(np.uint8))


def encoded(image: Image.Image, form: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def is_near(first: Fingerprints, second: Fingerprints) -> bool:
    """By the definition in the module's first lines, bit by bit."""
    assert first["valid"]
    assert second["valid"]
    a, b = (sum(int(word) << (64 * i) for i, word in enumerate(item["words"])) for item in (first, second))
    return ((a ^ b) & (2**40 - 1)).bit_count() <= 6 and ((a ^ b) >> 40).bit_count() <= 56


def prints_of(words: np.ndarray) -> Fingerprints:
    prints = np.zeros(len(words), FINGERPRINT)
    prints["words"], prints["pixels"], prints["valid"] = words, 100, True
    return prints


def flipped(word: int, bits: list[int]) -> int:
    for bit in bits:
        word ^= 1 << bit
    return word


# --- fingerprints


@pytest.mark.parametrize("seed", range(8))
def test_copies_of_a_picture_are_near(seed: int) -> None:
    image = picture(seed)
    original = fingerprint(encoded(image, quality=92))
    copies = {
        "quality": encoded(image, quality=40),
        "size": encoded(image.resize((224, 168))),
        "large": encoded(image.resize((1280, 960))),
        "brightness": encoded(ImageEnhance.Brightness(image).enhance(0.9)),
        "contrast": encoded(ImageEnhance.Contrast(image).enhance(0.8)),
        "trimmed": encoded(image.crop((5, 4, 315, 236))),
        "grey": encoded(image.convert("L")),
        "PNG": encoded(image, "PNG"),
        "WebP": encoded(image, "WEBP", quality=60),
    }
    assert [name for name, data in copies.items() if not is_near(original, fingerprint(data))] == []


def test_other_mirrored_and_turned_pictures_are_not_near() -> None:
    images = [picture(seed) for seed in range(12)]
    images += [images[0].transpose(how) for how in Image.Transpose]
    prints = [fingerprint(encoded(image)) for image in images]
    assert not any(is_near(a, b) for i, a in enumerate(prints) for b in prints[:i])


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_picture_is_taken_as_exif_turns_it(orientation: int) -> None:
    image = picture(3)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's `Transpose` from upright to stored
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = image.transpose(Image.Transpose(undo[orientation]))
    assert is_near(fingerprint(encoded(image)), fingerprint(encoded(stored, exif=exif)))
    assert not is_near(fingerprint(encoded(image)), fingerprint(encoded(stored)))


def test_plain_pictures_are_near_only_if_their_files_are_the_same() -> None:
    random = np.random.default_rng(0)
    plain = [encoded(Image.new("RGB", (320, 240), (level,) * 3)) for level in (0, 0, 1, 2, 128, 255)]
    plain += [encoded(Image.new("RGB", size)) for size in ((640, 480), (100, 100))]
    grain = [random.normal(8, 2, (240, 320)).clip(0, 255).astype(np.uint8) for _ in range(8)]
    plain += [encoded(Image.fromarray(grey)) for grey in grain]
    # A horizon: half white, half black, and nothing else.
    halves = [np.repeat(np.arange(240) > edge, 320).reshape(240, 320) for edge in (100, 120, 140)]
    plain += [encoded(Image.fromarray(half)) for half in halves]
    prints = np.array([fingerprint(data) for data in plain])
    found = drop_duplicates(prints, pa.array([f"{i:02d}" for i in range(len(plain))]), np.zeros(len(plain), bool))
    assert found.dropped.tolist() == [1]
    assert found.kept.tolist() == [0]


def test_what_no_shard_could_hold_has_no_fingerprint() -> None:
    whole = encoded(picture(1), quality=90)
    assert fingerprint(whole)["valid"]
    assert int(fingerprint(whole)["pixels"]) == 320 * 240
    assert not fingerprint(whole, max_pixels=320 * 240 - 1)["valid"]
    assert not fingerprint(whole[: len(whole) // 2])["valid"]
    assert not fingerprint(encoded(Image.fromarray(np.zeros((50, 60), np.uint16)), "PNG"))["valid"]
    for data in (b"", b"text", whole[2:], b"\xff\xd8\xff" + bytes(1000), b"P6 4 four 255 " + bytes(48)):
        assert fingerprint(data) == np.zeros((), FINGERPRINT)
    for form in ("TGA", "ICO", "PCX"):  # Pillow knows them, but no photo comes in them
        data = encoded(picture(1), form)
        assert fingerprint(data) == np.zeros((), FINGERPRINT)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damage_never_raises(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"]))
    whole = bytearray(encoded(picture(5, 40, 30), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    assert fingerprint(bytes(whole)).dtype == FINGERPRINT


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("size", [(1, 1), (3000, 2), (2, 700), (97, 96)])
def test_every_mode_and_shape_has_a_fingerprint(mode: str, size: tuple[int, int]) -> None:
    form = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    assert fingerprint(encoded(picture(2, *size).convert(mode), form))["valid"]


# --- chunks


def photo_files(folder: Path, count: int) -> list[tuple[str, str]]:
    out = []
    for i in range(count):
        path = folder / f"{i}.jpg"
        path.write_bytes(encoded(picture(i, 64, 48)))
        out.append((f"folder-{i}", str(path)))
    return out


def test_a_photo_that_cannot_be_read_has_a_row_of_its_own(tmp_path: Path) -> None:
    photos = photo_files(tmp_path, 2)
    photos[1:1] = [("a", str(tmp_path / "missing.jpg")), ("b", str(tmp_path)), ("c", "nul\0.jpg"), ("d", "")]
    os.mkfifo(tmp_path / "pipe.jpg")  # whoever reads it waits for ever
    photos[1:1] = [("e", str(tmp_path / "pipe.jpg"))]
    found = fingerprint_chunk(photos)
    assert found["valid"].tolist() == [True, False, False, False, False, False, True]
    assert found[6] == fingerprint(Path(photos[6][1]).read_bytes())


def test_a_chunk_is_kept_until_its_photos_are_others(tmp_path: Path) -> None:
    photos = photo_files(tmp_path, 3)
    url = str(tmp_path / "fingerprints" / "000000.parquet")
    made = kept_chunk(photos, url)
    assert (made == fingerprint_chunk(photos)).all()
    moved = [(key, str(tmp_path / "nowhere" / key)) for key, _ in photos]
    assert (kept_chunk(moved, url) == made).all()
    assert not kept_chunk([*moved[:2], ("other", moved[2][1])], url)["valid"].any()
    assert (kept_chunk(photos, url) == made).all()
    assert not kept_chunk(photos, url, max_pixels=10)["valid"].any()
    kept_chunk(photos, url)
    for damage in (b"", b"PAR1", Path(url).read_bytes()[:-9], Path(url).read_bytes()[: len(made)] + bytes(500)):
        Path(url).write_bytes(damage)
        assert (kept_chunk(photos, url) == made).all()
        assert (kept_chunk(moved, url) == made).all()


def test_chunks_are_kept_in_any_store() -> None:
    import fsspec

    url = "memory://photos/0.jpg"
    fsspec.filesystem("memory").pipe_file(url, encoded(picture(0)))
    made = kept_chunk([("k", url)], "memory://kept/fingerprints/000000.parquet")
    assert made["valid"].all()
    gone = [("k", "memory://photos/gone.jpg")]
    assert (kept_chunk(gone, "memory://kept/fingerprints/000000.parquet") == made).all()


def test_chunks_made_by_tasks_are_those_of_plain_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deduplicate, "CHUNK", 3)
    photos = photo_files(tmp_path, 14)
    Path(photos[9][1]).write_bytes(Path(photos[2][1]).read_bytes())
    config = BuildConfig(out=str(tmp_path / "out"), workers=2)
    found = deduplicate.find_duplicates(iter([(key, "train", path) for key, path in photos]), config)
    assert found in ({"folder-9": "folder-2"}, {"folder-2": "folder-9"})
    made = sorted((tmp_path / "out" / "fingerprints").iterdir())
    assert [path.name for path in made] == [f"{i:06d}.parquet" for i in range(5)]
    for i, path in enumerate(made):
        plain = tmp_path / "plain" / path.name
        kept_chunk(photos[3 * i : 3 * i + 3], str(plain))
        assert path.read_bytes() == plain.read_bytes()


# --- near pairs


def all_near(hashes: np.ndarray, max_distance: int, bits: int) -> set[tuple[int, int]]:
    mask = 2**bits - 1
    words = [int(item) & mask for item in hashes]
    return {(i, j) for j in range(len(words)) for i in range(j) if (words[i] ^ words[j]).bit_count() <= max_distance}


def as_list(pairs: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[int, int]]:
    return [pair for first, second in pairs for pair in zip(first.tolist(), second.tolist(), strict=True)]


@st.composite
def clustered(draw: st.DrawFn, words: int = 1) -> np.ndarray:
    """Few centres, and around them what differs in a few bits, so that near and equal ones and chains are many."""
    centres = draw(st.lists(st.integers(0, 2 ** (64 * words) - 1), min_size=1, max_size=4))
    place = st.one_of(st.integers(0, 39), st.integers(0, 64 * words - 1))
    changes = draw(
        st.lists(
            st.tuples(st.integers(0, len(centres) - 1), st.lists(place, max_size=7)),
            max_size=40,
        )
    )
    values = [flipped(centres[which], bits) for which, bits in changes]
    return np.array([[v >> (64 * k) & (2**64 - 1) for k in range(words)] for v in values], np.uint64).reshape(-1, words)


@given(clustered(), st.integers(0, 9), st.sampled_from([10, 16, 40, 63, 64]), st.integers(0, 4))
@settings(max_examples=300, deadline=None)
def test_all_near_pairs_and_no_other_each_once(words: np.ndarray, distance: int, bits: int, more: int) -> None:
    hashes = words[:, 0]
    num_blocks = min(distance + more, bits) if more else 0
    found = as_list(list(near_pairs(hashes, distance, bits, num_blocks)))
    assert len(found) == len(set(found))
    assert set(found) == all_near(hashes, distance, bits)
    in_parts = [
        pair for part in range(3) for pair in as_list(list(near_pairs(hashes, distance, bits, num_blocks, part, 3)))
    ]
    assert sorted(in_parts) == sorted(found)


@pytest.mark.parametrize(("num_blocks", "rows"), [(7, 16384), (7, 100), (8, 1000), (10, 16384)])
def test_no_near_pair_is_missed_among_thousands(num_blocks: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of the hashes share 24 bits, so that runs of equal keys cross from rows to rows."""
    monkeypatch.setattr(duplicates, "ROWS", rows)
    random = np.random.default_rng(num_blocks)
    hashes = random.integers(0, 2**40, 6000, np.uint64)
    hashes[:2000] &= np.uint64(0xFFFF << 24)
    expected: set[tuple[int, int]] = set()
    for i in range(len(hashes)):
        near = np.flatnonzero(np.bitwise_count(hashes[i] ^ hashes[i + 1 :]) <= 6) + i + 1
        expected.update((i, j) for j in near.tolist())
    found = as_list(list(near_pairs(hashes, 6, 40, num_blocks)))
    assert len(found) == len(expected) > 10_000
    assert set(found) == expected


def test_more_hashes_than_choose_other_blocks() -> None:
    chosen = [duplicates.choose_blocks(10**k, 6, 40) for k in range(1, 10)]
    assert chosen == sorted(chosen)
    assert all(6 < count <= 16 for count in chosen)
    assert chosen[0] == 7


def test_memory_stays_flat_where_all_hashes_share_most_bits() -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**14, 6000, np.uint64) << np.uint64(26)
    tracemalloc.start()
    count = sum(len(first) for first, _ in near_pairs(hashes, 6, 40))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count > 5_000_000  # 80 MB of them
    assert peak < 8_000_000


# --- which to drop


def one_by_one(prints: Fingerprints, keys: list[str], is_val: list[bool]) -> dict[int, int]:
    """The rule as it is told, without any haste: dropped photo -> the photo that stays in its place."""
    order = sorted(range(len(keys)), key=lambda i: (not is_val[i], -int(prints["pixels"][i]), keys[i]))
    stay: list[int] = []
    out = {}
    for i in order:
        if not prints["valid"][i]:
            continue
        near = [j for j in stay if is_near(prints[i], prints[j])]
        if near:
            out[i] = near[0]
        else:
            stay.append(i)
    return out


def as_dict(found: duplicates.Duplicates) -> dict[int, int]:
    assert found.dropped.tolist() == sorted(found.dropped.tolist())
    return dict(zip(found.dropped.tolist(), found.kept.tolist(), strict=True))


@given(clustered(words=4), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_drops_what_going_through_one_by_one_drops(words: np.ndarray, random) -> None:
    count = len(words)
    keys = [f"photo-{i}" for i in range(count)]
    random.shuffle(keys)
    is_val = [random.random() < 0.3 for _ in range(count)]
    prints = prints_of(words)
    prints["pixels"] = [random.randint(1, 3) for _ in range(count)]
    prints["valid"] = [random.random() < 0.9 for _ in range(count)]
    found = as_dict(drop_duplicates(prints, pa.array(keys, pa.string()), np.array(is_val, bool)))
    assert found == one_by_one(prints, keys, is_val)
    # The order of arrival is nothing.
    order = list(range(count))
    random.shuffle(order)
    moved = drop_duplicates(
        prints[order], pa.array([keys[i] for i in order], pa.string()), np.array([is_val[i] for i in order], bool)
    )
    assert {order[i]: order[j] for i, j in as_dict(moved).items()} == found


@given(clustered(words=4), st.integers(0, 30))
@settings(max_examples=150, deadline=None)
def test_pairs_too_many_to_hold_change_nothing(words: np.ndarray, held: int) -> None:
    words = np.unique(words, axis=0)
    keys = [f"{i:02d}" for i in range(len(words))]
    expected = one_by_one(prints_of(words), keys, [False] * len(words))
    leader = duplicates._leaders(words, held_pairs=held)
    assert {i: int(j) for i, j in enumerate(leader) if i != j} == expected


@pytest.mark.parametrize(("coarse", "fine", "dropped"), [(6, 56, 1), (7, 0, 0), (0, 57, 0), (7, 57, 0), (5, 56, 1)])
def test_both_distances_have_a_limit(coarse: int, fine: int, dropped: int) -> None:
    changed = np.random.default_rng(coarse).permutation(40)[:coarse].tolist()
    changed += (40 + np.random.default_rng(fine).permutation(216)[:fine]).tolist()
    value = flipped(2**255 // 3, changed)
    both = [[v >> (64 * k) & (2**64 - 1) for k in range(4)] for v in (2**255 // 3, value)]
    found = drop_duplicates(prints_of(np.array(both, np.uint64)), pa.array(["a", "b"]), np.zeros(2, bool))
    assert len(found.dropped) == dropped


def test_a_chain_of_small_changes_is_not_one_group() -> None:
    words = np.zeros((5, 4), np.uint64)
    for i in range(5):
        words[i, 0] = 2 ** (6 * i) - 1
    found = drop_duplicates(prints_of(words), pa.array(list("abcde")), np.zeros(5, bool))
    assert as_dict(found) == {1: 0, 3: 2}


@pytest.mark.parametrize("held", [0, 1, 2, 100])
def test_a_photo_follows_one_that_stayed_in_an_earlier_round(held: int) -> None:
    # The best is near the second only; the last is near the second, which goes, and near the third, which stays.
    words = np.zeros((4, 4), np.uint64)
    words[:, 0] = [2 ** (6 * i) - 1 for i in (0, 1, 3, 2)]
    assert duplicates._leaders(words, held_pairs=held).tolist() == [0, 0, 2, 2]


def test_validation_stays_before_training_then_pixels_then_the_smaller_key() -> None:
    prints = prints_of(np.zeros((4, 4), np.uint64))
    keys, train = ["d", "c", "b", "a"], np.zeros(4, bool)
    assert as_dict(drop_duplicates(prints, pa.array(keys), train)) == {0: 3, 1: 3, 2: 3}
    prints["pixels"][1] = 101
    assert as_dict(drop_duplicates(prints, pa.array(keys), train)) == {0: 1, 2: 1, 3: 1}
    is_val = np.array([True, False, True, False])
    assert as_dict(drop_duplicates(prints, pa.array(keys), is_val)) == {0: 2, 1: 2, 3: 2}


def test_nothing_to_compare() -> None:
    for count in (0, 1):
        prints = np.zeros(count, FINGERPRINT)
        for valid in (False, True):
            prints["valid"] = valid
            found = drop_duplicates(prints, pa.array(["a"][:count], pa.string()), np.zeros(count, bool))
            assert found.dropped.size == found.kept.size == 0


def test_copies_are_found_among_many_whatever_their_place() -> None:
    random = np.random.default_rng(1)
    words = random.integers(0, 2**64, (30_000, 4), np.uint64)
    words[-500:] = words[:500]
    words[-500:-250, 0] ^= np.uint64(0b111) << random.integers(0, 37, 250, np.uint64)
    words[-500:-250, 1:] ^= np.uint64(0xFF) << random.integers(0, 56, (250, 3), np.uint64)
    keys = pa.array([f"{i:05d}" for i in range(30_000)])
    expected = {29_500 + i: i for i in range(500)}
    assert as_dict(drop_duplicates(prints_of(words), keys, np.zeros(30_000, bool))) == expected

    def in_parts(words: np.ndarray) -> Iterator[duplicates.Pairs]:
        for part in (2, 0, 1):
            yield from duplicates.near_fingerprints(words, part, 3)

    assert as_dict(drop_duplicates(prints_of(words), keys, np.zeros(30_000, bool), in_parts)) == expected


# --- real photos


@pytest.mark.shared
def test_copies_of_real_photos_are_found_and_real_photos_are_not_copies(shared_data: Path) -> None:
    files = sorted((shared_data / "coco_mini").rglob("*.jpg"))
    prints = [fingerprint(path.read_bytes()) for path in files]
    for item, path in zip(prints[:60], files[:60], strict=True):
        image = Image.open(path).convert("RGB")
        width, height = image.size
        small = image.resize((round(width * 0.7), round(height * 0.7)), Image.Resampling.LANCZOS)
        trim = image.crop((width * 15 // 1000, height * 15 // 1000, width * 985 // 1000, height * 985 // 1000))
        bright = ImageEnhance.Brightness(image).enhance(1.1)
        # One of another size keeps almost all bits.
        assert np.bitwise_count(fingerprint(encoded(small))["words"] ^ item["words"]).sum() <= 16, path
        for copy in (encoded(image, quality=50), encoded(small), encoded(trim), encoded(bright)):
            assert is_near(item, fingerprint(copy)), path
    names = pa.array([path.name for path in files])
    assert drop_duplicates(np.array(prints), names, np.zeros(len(files), bool)).dropped.size == 0
