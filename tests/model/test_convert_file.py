"""Reading a checkpoint: nothing of it runs, whatever is wrong is said in a line, weights are views of the file."""

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pics_common.errors import UserError
from pics_model.published_file import read_checkpoint

WEIGHTS = {
    "a.weight": torch.arange(12.0).view(3, 4),
    "b": torch.randn(5).half(),
    "c": torch.nn.Parameter(torch.randn(2, 2).bfloat16()),
    "turned": torch.arange(12.0).view(3, 4).t(),
    "rows": torch.arange(20.0).view(5, 4)[2:4],
    "count": torch.tensor(7),
    "none": torch.empty(0, 3),
    "flags": torch.tensor([True, False]),
}


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def saved(path: Path, **more: Any) -> Path:
    torch.save({"state_dict": WEIGHTS, **more}, path)
    return path


def rewritten(path: Path, changes: dict[str, bytes | None], compression: int = zipfile.ZIP_STORED) -> Path:
    """The checkpoint `path` with other records; None leaves one out."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(records)).split("/")[0]
    records |= {f"{root}/{name}": data for name, data in changes.items()}  # type: ignore[misc]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records.items():
            if data is not None:
                archive.writestr(name, data)
    return path


class Careless(pickle.Unpickler):
    """Runs what a pickle names, all but torch's own, as plain loading does."""

    def find_class(self, module: str, name: str) -> Any:
        return (lambda *_: None) if module == "torch._utils" else super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        return None


class Reference:
    """Pickled as a tensor of a storage with this persistent id."""

    def __init__(self, pid: Any, shape: Any = (2,), stride: Any = (1,), offset: Any = 0) -> None:
        self.pid, self.rest = pid, (offset, shape, stride, False, OrderedDict())

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor_v2, (Stored(self.pid), *self.rest)


class Stored:
    def __init__(self, pid: Any) -> None:
        self.pid = pid


class Writer(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return obj.pid if isinstance(obj, Stored) else None


def by_hand(path: Path, top: Any, **records: bytes) -> Path:
    """A checkpoint with any pickle, and records `data/<name>`."""
    data = io.BytesIO()
    Writer(data, protocol=2).dump(top)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", data.getvalue())
        for name, content in records.items():
            archive.writestr(f"x/data/{name}", content)
    return path


def one(pid: Any, **more: Any) -> dict[str, Any]:
    return {"state_dict": {"w": Reference(pid, **more)}}


FLOAT = ("storage", torch.FloatStorage, "0", "cpu", 2)
LONGER = ("storage", torch.FloatStorage, "0", "cpu", 8)
EIGHT = torch.tensor([1.5, -2.0]).numpy().tobytes()


def test_weights_are_what_was_saved(tmp_path) -> None:
    checkpoint = read_checkpoint(saved(tmp_path / "a.ckpt", epoch=3, optimizer_states=[{"state": {0: torch.ones(3)}}]))
    assert list(checkpoint.weights) == list(WEIGHTS)
    for name, value in WEIGHTS.items():
        assert checkpoint.weights[name].dtype == value.dtype
        assert torch.equal(checkpoint.weights[name], value)
    checkpoint.check_sums(WEIGHTS, lambda _: None)
    for name in WEIGHTS:
        checkpoint.let_go(name)
    assert torch.equal(checkpoint.weights["a.weight"], WEIGHTS["a.weight"])


def test_a_module_s_own_state_dict_is_read(tmp_path) -> None:
    """Its pickle sets attributes on the dictionary."""
    state = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).state_dict()
    assert hasattr(state, "_metadata")
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    found = read_checkpoint(tmp_path / "a.ckpt").weights
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_nothing_that_the_pickle_names_is_run(tmp_path) -> None:
    """The same file makes the folder if it is unpickled."""
    made = tmp_path / "made"
    payload = Payload(made)
    hidden = {
        "callbacks": saved(tmp_path / "1.ckpt", callbacks={Payload: payload}),
        "callbacks' keys": saved(tmp_path / "2.ckpt", callbacks={payload: 1}),
        "beside the weights": by_hand(tmp_path / "3.ckpt", {"a": payload, **one(FLOAT)}, **{"0": EIGHT}),
        "a persistent id": by_hand(tmp_path / "4.ckpt", one(("storage", payload, "0", "cpu", 2)), **{"0": EIGHT}),
        "all of a persistent id": by_hand(tmp_path / "5.ckpt", one(payload), **{"0": EIGHT}),
        "sizes": by_hand(tmp_path / "6.ckpt", one(FLOAT, shape=payload), **{"0": EIGHT}),
        "a weight": by_hand(tmp_path / "7.ckpt", {"state_dict": {"w": payload}}),
        "a name": by_hand(tmp_path / "8.ckpt", {"state_dict": {payload: Reference(FLOAT)}}, **{"0": EIGHT}),
        "everything": by_hand(tmp_path / "9.ckpt", payload),
    }
    for where, path in hidden.items():
        try:
            checkpoint = read_checkpoint(path)
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017  # some are refused, some are read: none is run
        else:
            assert "posix.mkdir" in checkpoint.skipped, where
        assert not made.exists(), where
    for path in hidden.values():  # the payload is alive
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            Careless(archive.open(name)).load()
        assert made.exists(), path
        made.rmdir()


def test_functions_of_ours_cannot_be_changed_by_a_pickle(tmp_path) -> None:
    """BUILD sets attributes, even on what stands for functions."""
    reduce = b"ctorch._utils\n_rebuild_tensor_v2\n}X\x0c\x00\x00\x00__defaults__)s" + b"b."
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + reduce)
    with pytest.raises(UserError, match="its pickle cannot be read"):
        read_checkpoint(tmp_path / "a.ckpt")


BROKEN = {
    "no file": (lambda p: p, "does not exist; expected a file"),
    "a folder": (lambda p: p.mkdir(), "is a folder"),
    "empty": (lambda p: p.write_bytes(b""), "is no PyTorch checkpoint"),
    "a web page": (lambda p: p.write_text("<html>not found</html>"), "is no PyTorch checkpoint"),
    "legacy": (lambda p: torch.save({"state_dict": WEIGHTS}, p, _use_new_zipfile_serialization=False), "format of"),
    "cut short": (lambda p: p.write_bytes(saved(p).read_bytes()[:-300]), "is cut short"),
    "no state_dict": (lambda p: torch.save({"model": WEIGHTS, "epoch": 3}, p), r"no `state_dict` in it \(found model"),
    "no dictionary": (lambda p: torch.save([1, 2], p), "no dictionary"),
    "no weights": (lambda p: torch.save({"state_dict": {}}, p), "no `state_dict`"),
    "no tensor": (lambda p: torch.save({"state_dict": {"w": 3}}, p), "w is no tensor"),
    "compressed": (lambda p: rewritten(saved(p), {}, zipfile.ZIP_DEFLATED), "is compressed"),
    "big endian": (lambda p: rewritten(saved(p), {"byteorder": b"big"}), "byte order is .*expected little"),
    "a record less": (lambda p: rewritten(saved(p), {"data/1": None}), "weight b: its record is not in the file"),
    "a short record": (lambda p: rewritten(saved(p), {"data/0": bytes(8)}), "a.weight: 48 bytes, .* record has 8"),
    "not our pickle": (lambda p: rewritten(saved(p), {"data.pkl": b"\x80\x02}q"}), "data.pkl is damaged"),
    "no pickle": (lambda p: rewritten(saved(p), {"data.pkl": None}), "holds 0 data.pkl"),
    "a memo of exabytes": (lambda p: rewritten(saved(p), {"data.pkl": b"\x80\x02}r\xff\xff\xff\xff."}), "damaged"),
    "beyond the storage": (lambda p: by_hand(p, one(FLOAT, shape=(3,)), **{"0": EIGHT}), r"\(3,\) reaches beyond"),
    "offset beyond": (lambda p: by_hand(p, one(FLOAT, offset=1), **{"0": EIGHT}), "reaches beyond"),
    "negative": (lambda p: by_hand(p, one(FLOAT, shape=(-1,)), **{"0": EIGHT}), "expected whole numbers"),
    "overlapping": (lambda p: by_hand(p, one(FLOAT, shape=(2, 2), stride=(0, 1)), **{"0": EIGHT}), "overlap"),
    "crossing": (lambda p: by_hand(p, one(LONGER, shape=(2, 2), stride=(1, 1)), **{"0": 4 * EIGHT}), "over"),
    "of a kind": (lambda p: by_hand(p, one(("storage", torch.ComplexFloatStorage, "0", "cpu", 1))), "no known kind"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_is_said_in_a_line(tmp_path, case) -> None:
    make, words = BROKEN[case]
    path = tmp_path / "a.ckpt"
    make(path)
    with pytest.raises(UserError, match=words) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_of_a_weight_is_found(tmp_path) -> None:
    path = saved(tmp_path / "a.ckpt")
    record = read_checkpoint(path).records["b"]
    data = bytearray(path.read_bytes())
    data[record.offset + 3] ^= 1
    path.write_bytes(data)
    checkpoint = read_checkpoint(path)
    with pytest.raises(UserError, match="weight b is damaged"):
        checkpoint.check_sums(WEIGHTS, lambda _: None)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage_is_refused_or_does_no_harm(tmp_path_factory, data) -> None:
    """Bytes of the file, or of the pickle in a whole file, changed anywhere."""
    path = tmp_path_factory.mktemp("damaged") / "a.ckpt"
    saved(path, callbacks={Path: {"x": 1}})
    whole = data.draw(st.booleans())
    if whole:
        content = bytearray(path.read_bytes())
    else:
        with zipfile.ZipFile(path) as archive:
            content = bytearray(archive.read("a/data.pkl"))
    for place, byte in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=4)
    ):
        content[place] = byte
    content = content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    if whole:
        path.write_bytes(content)
    else:
        rewritten(path, {"data.pkl": bytes(content)})
    try:
        checkpoint = read_checkpoint(path)
        checkpoint.check_sums(checkpoint.weights, lambda _: None)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert all(value.double().sum() is not None for value in checkpoint.weights.values())
