"""Files of encodings: what was written comes back; never another model's, nor another shard's, nor damaged ones."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from pics_common.errors import UserError
from pics_model.augment import AugmentSettings
from pics_model.encode import encode_shard, find_encoded, recipe_of
from pics_model.encoded import Encodings, file_name, open_encodings
from pics_model.encoded_file import Encoded, EncodedFile, EncodedWriter
from pics_model.pipeline import PICSPipeline
from pics_model.shard_set import find_shards
from pics_model.shard_table import Stored, open_shards
from tests.model.encoded_for_tests import OBJECTS, VIEWS, encode_all, preset, read, same, sample, with_views, write
from tests.model.shards_for_tests import write_index, write_tar

HEAD = 1600  # bytes
TURNED = AugmentSettings(rotation=30, flip=0.5, colour=0.1)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("encoded") / "shards")


@pytest.fixture(scope="module")
def pipeline() -> PICSPipeline:
    return with_views()


@pytest.fixture(scope="module")
def encodings(pipeline, shards, tmp_path_factory) -> Encodings:
    return encode_all(pipeline, shards, tmp_path_factory.mktemp("kept"))


files = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(files, st.integers(1, 3), st.booleans(), st.booleans(), st.randoms(use_true_random=False))
def test_a_file_gives_back_what_was_written(tmp_path_factory, views, num_variants, latents, features, random) -> None:
    path = tmp_path_factory.mktemp("file") / "a.safetensors"
    stored = [
        Stored(f"k{i}", "", {f"obj{k}.png": (0, 9 + k) for k in range(len(some))}, -1) for i, some in enumerate(views)
    ]
    rng = np.random.default_rng(random.randrange(2**32))

    def half(*shape: int) -> np.ndarray[Any, Any]:
        return rng.standard_normal(shape).astype(np.float16)

    written = {}
    for i, some in enumerate(views):
        latent = half(2, 3, 3) if latents else None
        for c in range(num_variants):
            encoded = Encoded(latent)
            if features:
                encoded.features, encoded.object_boxes = half(len(some), 5, 4), half(len(some), 4).astype(np.float32)
                encoded.views = [half(num, 5, 4) for num in some]
                encoded.cameras = [half(num, 3).astype(np.float32) for num in some]
            written[i, c] = encoded
    nothing = half(5, 4) if features else None
    order = sorted(written)
    random.shuffle(order)
    left_out = order.pop() if len(order) > 1 else None
    with path.open("w+b") as file:
        flat = [num for some in views for num in some]
        writer = EncodedWriter(file, stored, flat, num_variants, (2, 3, 3) if latents else None, nothing, {})
        for place, variant in order:
            writer.write(place, variant, written[place, variant])
        writer.finish()
    opened = EncodedFile(path)
    for place, variant in order:
        # The latent is written with the first variant.
        if left_out != (place, 0):
            same(opened.read(place, variant, stored[place]), written[place, variant])
    if left_out:
        with pytest.raises(UserError, match=f"a.safetensors, key k{left_out[0]}: not encoded"):
            opened.read(*left_out, stored[left_out[0]])
    assert opened.present() == [left_out is None or left_out[0] != i for i in range(len(views))]
    with safe_open(path, "np") as plain:  # the library finds it sound: no holes, no overlaps, the right length
        assert plain.metadata()["format"] == "pics-encoded-1"
        if features:
            place, variant = order[0]
            row = opened.rows.of(place, variant)[0][0]
            kept = plain.get_slice("features")[row : row + len(views[place])]
            assert np.array_equal(kept, written[place, variant].features)


def test_each_sample_takes_the_bytes_that_the_page_says(shards, encodings) -> None:
    shape = read(encodings, shards, 0).features.shape
    plain = 2 * 4 * 16 * 16  # a latent
    each = 2 * shape[1] * shape[2]  # a picture
    file = encodings._file(1)
    pictures = sum(OBJECTS["train-000001"]) + sum(map(sum, VIEWS["train-000001"]))
    data = 2 * plain + (pictures + 1) * each
    assert data < file.layout.num_bytes < data + 3000


# --- never another model's, nor of another shard, nor damaged ---


def test_another_models_are_refused_and_what_differs_is_named(pipeline, shards, encodings) -> None:
    table, place = open_shards(shards), encodings._folders[0].parent
    recipe = encodings.recipe
    assert open_encodings(table, recipe, place).recipe == recipe
    with torch.no_grad():
        encoder = pipeline.object_encoder.trunk.embeddings.patch_embeddings.projection.weight[0, 0]
        before = encoder[0, 0].clone()
        encoder[0, 0] += 1e-6
        other_trunk = recipe_of(pipeline)
        encoder[0, 0] = before
        decoder = pipeline.autoencoder.decoder.conv_out.bias
        before = decoder[0].clone()
        decoder[0] += 1e-6
        other_autoencoder = recipe_of(pipeline)
        decoder[0] = before
    assert recipe_of(pipeline) == recipe
    for wanted, words in (
        (other_trunk, f"made with another trunk of the object encoder, {recipe.trunk[:12]} there and"),
        (other_autoencoder, f"made with another autoencoder, {recipe.autoencoder[:12]} there and"),
        (recipe_of(preset(framing={"resolution": 64})), "made with another"),
        (replace(recipe, framing={**recipe.framing, "margin_max": 1.5}), "framing.margin_max, 1.25 there and 1.5 here"),
        (recipe_of(pipeline, cutouts="full"), "cutouts, visible there and full here"),
        (recipe_of(pipeline, augment=TURNED), "rotation, none there and 30 here"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            open_encodings(table, wanted, place)
        assert str(encodings._folders[0]) in str(caught.value)


def test_of_several_that_fit_one_is_to_be_named(pipeline, shards, tmp_path) -> None:
    table = open_shards(shards)
    one, two = recipe_of(pipeline), recipe_of(pipeline, variants=2)
    assert one.folder_name != two.folder_name
    encode_all(pipeline, shards, tmp_path, one)
    for shard in find_shards(shards):
        encode_shard(pipeline, two, shard, tmp_path / two.folder_name / file_name(shard), batch_size=2)
    with pytest.raises(UserError, match=r"several fit: .*\(1 variants\).*; name the folder of one"):
        open_encodings(table, one, tmp_path)
    assert open_encodings(table, one, tmp_path / two.folder_name).recipe.variants == 2


def test_where_there_are_none_it_says_how_to_make_them(pipeline, shards, tmp_path) -> None:
    with pytest.raises(UserError, match=r"there are none; `pics-data encode SHARDS --model MODEL` makes them"):
        open_encodings(open_shards(shards), recipe_of(pipeline), tmp_path)


def test_a_shard_without_is_named(pipeline, shards, encodings, tmp_path) -> None:
    kept = Path(shutil.copytree(encodings._folders[0], tmp_path / encodings._folders[0].name))
    (kept / "train-000001.safetensors").unlink()
    with pytest.raises(UserError, match=r"train-000001.safetensors: missing; run `pics-data encode` again"):
        open_encodings(open_shards(shards), encodings.recipe, tmp_path)


def test_they_may_lie_beside_the_shards(pipeline, shards, encodings, tmp_path) -> None:
    copy = Path(shutil.copytree(shards, tmp_path / "shards"))
    shutil.copytree(encodings._folders[0], copy / encodings._folders[0].name)
    same(read(open_encodings(open_shards(copy), encodings.recipe), copy, 3), read(encodings, shards, 3))


def reopened(encodings: Encodings, shards: Path) -> Encodings:
    return open_encodings(open_shards(shards), encodings.recipe, encodings._folders[0])


def test_a_shard_that_was_changed_is_noticed(shards, encodings, tmp_path) -> None:
    copy = Path(shutil.copytree(shards, tmp_path / "shards"))
    tar = copy / "train-000000.tar"
    counts = {f"{name}.tar": len(some) for name, some in OBJECTS.items()}

    def rewrite(samples: list[tuple[str, dict[str, bytes]]], index: bool = True) -> None:
        write_tar(tar, samples)
        if index:
            write_index(copy, {**counts, tar.name: len(samples)})

    first = [(f"s{i}", sample(i, n, VIEWS["train-000000"][i])) for i, n in enumerate(OBJECTS["train-000000"])]
    rewrite(first)
    same(read(reopened(encodings, copy), copy, 2), read(encodings, shards, 2))
    rewrite(
        [(f"s{9 * (key == 's2')}{key}", members) for key, members in first]
    )  # another key; as many bytes in the tar
    with pytest.raises(UserError, match=r"was changed \(SHA-256 "):
        reopened(encodings, copy)
    (copy / "index.json").unlink()  # without an index nobody knows the SHA-256
    assert tar.stat().st_size == (shards / tar.name).stat().st_size
    with pytest.raises(UserError, match=r"key s9s2: made of another sample than the shard has there now"):
        read(reopened(encodings, copy), copy, 2)
    rewrite(first[:2])
    with pytest.raises(UserError, match=r"was changed \(samples 3 then, 2 now\)"):
        reopened(encodings, copy)


@pytest.fixture(scope="module")
def damaged(encodings, tmp_path_factory) -> Path:
    """A copy of the encodings, whose first file is to be damaged."""
    return Path(shutil.copytree(encodings._folders[0], tmp_path_factory.mktemp("damaged") / "encodings"))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_anywhere_is_noticed(shards, encodings, damaged, data) -> None:
    whole = (encodings._folders[0] / "train-000000.safetensors").read_bytes()
    # As often where the header and the counts stand, and in `nothing`, which are small parts of the file.
    at = data.draw(
        st.integers(0, len(whole) - 1) | st.integers(0, HEAD - 1) | st.integers(len(whole) - 160, len(whole) - 1)
    )
    flipped = bytearray(whole)
    flipped[at] ^= 1 << data.draw(st.integers(0, 7))
    (damaged / "train-000000.safetensors").write_bytes(flipped)
    for index in range(3):
        try:
            opened = open_encodings(open_shards(shards), encodings.recipe, damaged)
            found = read(opened, shards, index)
        except UserError as error:
            named = str(error)
        else:
            same(found, read(encodings, shards, index))
            assert torch.equal(opened.nothing, encodings.nothing)
            named = str(damaged)
        assert str(damaged) in named


@pytest.mark.parametrize("length", [0, 5, 100, 9_000, 100_000])
def test_a_file_of_another_length_is_named(shards, encodings, damaged, length) -> None:
    whole = (encodings._folders[0] / "train-000000.safetensors").read_bytes()
    (damaged / "train-000000.safetensors").write_bytes(whole[:length].ljust(min(length, len(whole) + 2)))
    with pytest.raises(UserError, match=r"train-000000.safetensors: .*; delete it, and run `pics-data encode` again"):
        open_encodings(open_shards(shards), encodings.recipe, damaged)
    assert find_encoded(encodings.recipe, find_shards(shards)[0], damaged / "train-000000.safetensors") is None
