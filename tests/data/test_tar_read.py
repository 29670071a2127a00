"""Reading tars: against Python's tarfile, and what is said of damage."""

import io
import tarfile
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pics_data.shards import tar_member
from pics_data.tar_read import DamageError, read_members, read_range, tar_members, tar_samples

FORMATS = [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]


def tar_of(members: list[tuple[str, bytes]], tar_format: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 0.25  # in pax a fraction makes an extended header
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


SAMPLES = [(f"{key}.{kind}", f"{key} {kind}".encode() * 99) for key in "abc" for kind in ("bg.jpg", "mask0.png")]


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.text("abcß/-_.", min_size=1, max_size=200), st.integers(0, 1500)), max_size=8),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_members_are_those_of_pythons_tarfile(members: list[tuple[str, int]], tar_format: int) -> None:
    data = tar_of([(f"k{name}x", bytes(size)) for name, size in members], tar_format)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        wanted = [(member.name, member.offset, member.offset_data, member.size) for member in tar]
    assert [(m.name, m.start, m.offset, m.size) for m in tar_members(io.BytesIO(data))] == wanted


@pytest.mark.parametrize("tar_format", FORMATS)
def test_samples_are_neighbours_of_one_key_and_are_found_again_by_their_range(tar_format: int) -> None:
    # A name of more than 100 characters stands in a member of its own before the sample's first.
    long = "" if tar_format == tarfile.USTAR_FORMAT else "-long" * 30
    members = [(name.replace(".", f"{long}.", 1), data) for name, data in SAMPLES]
    file = io.BytesIO(tar_of(members, tar_format))
    samples = list(tar_samples(file))
    assert [sample.key for sample in samples] == [f"{key}{long}" for key in "abc"]
    assert samples[0].start == 0
    assert all(first.end == second.start for first, second in pairwise(samples))
    for sample in samples:
        wanted = {name.partition(".")[2]: data for name, data in members if name.startswith(f"{sample.key}.")}
        assert read_members(file, sample) == wanted
        assert read_range(file, sample.start, sample.num_bytes) == (sample.key, wanted)


def test_pictures_are_not_read(tmp_path: Path) -> None:
    """A member of 9 GiB, all of it a hole in the file: only its header may cost time. Its size is no octal number."""
    huge = tarfile.TarInfo("b.bg.jpg")
    huge.size = 9 << 30
    path = tmp_path / "train-000000.tar"
    with path.open("wb") as file:
        file.write(tar_member("a.bg.jpg", b"a") + huge.tobuf(tarfile.GNU_FORMAT))
        file.seek(huge.size, 1)
        file.write(tar_member("c.bg.jpg", b"c") + bytes(1024))
    with path.open("rb") as file:
        samples = list(tar_samples(file))
        assert [sample.key for sample in samples] == ["a", "b", "c"]
        assert read_members(file, samples[2]) == {"bg.jpg": b"c"}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(tar_of(SAMPLES).rstrip(b"\0")) // 512 * 512 + 1024 - 1))
def test_a_tar_that_is_cut_off_is_damaged(length: int) -> None:
    with pytest.raises(DamageError, match="cut off"):
        list(tar_samples(io.BytesIO(tar_of(SAMPLES)[:length])))


def test_a_broken_header_is_not_the_end() -> None:
    whole = tar_of(SAMPLES)
    for member in list(tar_members(io.BytesIO(whole))):
        data = bytearray(whole)
        data[member.start + 3] ^= 1
        with pytest.raises(DamageError, match=f"neither a member nor the end of a tar at byte {member.start:,}"):
            list(tar_samples(io.BytesIO(data)))
    with pytest.raises(DamageError, match="neither a member nor the end"):
        list(tar_samples(io.BytesIO(whole + whole)))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damage_anywhere_is_named_or_harmless(data: st.DataObject) -> None:
    whole = bytearray(tar_of(SAMPLES, data.draw(st.sampled_from(FORMATS))))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with suppress(DamageError):
        list(tar_samples(io.BytesIO(whole)))
    with suppress(DamageError):
        list(tar_samples(io.BytesIO(whole), Counter()))


def test_a_size_below_zero_does_not_lead_round_in_circles() -> None:
    info = tarfile.TarInfo("a.bg.jpg")
    info.pax_headers = {"size": "-1536"}
    with pytest.raises(DamageError, match="neither a member"):
        list(tar_samples(io.BytesIO(info.tobuf(tarfile.PAX_FORMAT) + bytes(1024))))


def test_what_is_no_sample_is_refused_or_counted() -> None:
    for kind, name in ((tarfile.SYMTYPE, "b.bg.jpg"), (tarfile.LNKTYPE, "b.bg.jpg"), (tarfile.REGTYPE, "x/b.bg.jpg")):
        info = tarfile.TarInfo(name)
        info.type = kind
        data = tar_member("a.bg.jpg", b"a") + info.tobuf() + bytes(1024)
        strangers: Counter[str] = Counter()
        assert [sample.key for sample in tar_samples(io.BytesIO(data), strangers)] == ["a"]
        assert strangers == Counter({kind.decode(): 1})
        with pytest.raises(DamageError, match="not a plain file"):
            list(tar_samples(io.BytesIO(data)))


def test_what_stands_twice_or_apart_is_damage() -> None:
    a, b = tar_member("a.bg.jpg", b"a"), tar_member("b.bg.jpg", b"b")
    with pytest.raises(DamageError, match=r"a: bg.jpg stands twice"):
        list(tar_samples(io.BytesIO(a + a + bytes(1024))))
    with pytest.raises(DamageError, match="a: its members do not stand together"):
        list(tar_samples(io.BytesIO(a + b + a + bytes(1024))))


def test_a_range_that_holds_no_sample_is_named() -> None:
    data = tar_of(SAMPLES)
    with pytest.raises(DamageError, match="neither a member"):
        read_range(io.BytesIO(data), 100, 1024)
    with pytest.raises(DamageError, match="no sample at byte"):
        read_range(io.BytesIO(data), len(data), 1024)
