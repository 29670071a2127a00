"""What `inspect` shows besides photo and cut-outs: views, turned copies, depth; and folders of meshes."""

from pathlib import Path

import numpy as np
import pytest
import trimesh

from pics_common.errors import UserError
from pics_data import codecs
from pics_data.config import BuildConfig
from pics_data.inspect import inspect_shards
from pics_data.inspect_strips import NUM_SHOWN, strips
from tests.data.plain_build import build_plainly


def test_views_and_depth_of_scenes_are_shown(tmp_path: Path) -> None:
    more = {"views": "mesh", "num_views": 2, "rotations": 1}
    config = BuildConfig(out=str(tmp_path / "s"), num_scenes=3, scene_size=64, object_size=48, **more)
    build_plainly(config)
    html = inspect_shards(str(tmp_path / "s"), tmp_path / "page").read_text()
    assert html.count('class="strip o1"') >= 1
    assert html.count("↺") >= 1
    assert 'class="strip depth"' in html
    assert "also in the tar" not in html


def test_a_row_shows_only_so_many_and_says_why_there_are_none() -> None:
    pictures = [np.zeros((20, 20, 4), np.uint8)] * (NUM_SHOWN + 3)
    cameras = [{"azimuth": 10.0 * k, "elevation": -0.2, "distance": 1.0} for k in range(NUM_SHOWN + 3)]
    meta = {"objects": [{"views": cameras}, {"no_views": "empty cut-out: no pixel is opaque"}]}
    first, second = strips([pictures, []], [[], []], None, meta)
    assert str(first).count("<img") == NUM_SHOWN
    assert "10° 0°" in str(first)
    assert "no views: empty cut-out" in str(second)


def test_a_folder_of_meshes_is_shown_mesh_by_mesh(tmp_path: Path) -> None:
    (tmp_path / "meshes" / "more").mkdir(parents=True)
    trimesh.creation.icosphere(subdivisions=2).export(tmp_path / "meshes" / "ball.ply")
    (tmp_path / "meshes" / "more" / "broken.glb").write_bytes(b"glTF nonsense")
    html = inspect_shards(str(tmp_path / "meshes"), tmp_path / "page").read_text()
    assert html.count("<img") == 5
    assert "ball.ply" in html
    assert "320 triangles" in html
    assert "more/broken.glb: cannot be read" in html
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no"):
        inspect_shards(str(tmp_path / "empty"), tmp_path / "page")


def test_depth_is_stored_in_thousandths_and_the_sky_is_told_apart() -> None:
    from pics_data.members import decode

    depth = np.array([[0.0, 1.2344, 65.5], [80.0, np.inf, 3.0]], np.float32)
    found = decode("depth.png", codecs.depth_png(depth))
    assert found.tolist() == [[0, 1234, 65500], [65534, 65535, 3000]]
