"""Several sources in one set of shards: each recipe's own rules, the weights in the index, one plan."""

import json
from pathlib import Path

import pytest
import yaml

from pics_common.errors import UserError
from pics_common.recipe import parse_recipe
from pics_data import cli
from pics_data.config import BuildConfig
from pics_data.mixture import members_of
from tests.data.photos_for_tests import draw_set
from tests.data.plain_build import build_plainly, digests

PIPELINES = Path(__file__).parents[2] / "pipelines"


def run(*argv: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    return int(ended.value.code or 0)


def write_recipe(folder: Path, source: str, seed: int, **more: object) -> Path:
    drawn = draw_set(folder / source, num_photos=12, seed=seed)
    path = folder / f"{source}-small.yaml"
    path.write_text(yaml.safe_dump(drawn.recipe(source, **more)))
    return path


@pytest.mark.usefixtures("one_ray")
def test_a_mixture_is_one_set_of_shards_with_weights(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    coco = write_recipe(tmp_path, "coco", 1, pairs_per_photo=2)
    lvis = write_recipe(tmp_path, "lvis", 2)
    scenes = tmp_path / "scenes.yaml"
    scenes.write_text("source: scenes\nnum_scenes: 6\nscene_size: 48\n")
    recipe = tmp_path / "mixed.yaml"
    mix = {"mix": [str(coco), str(lvis), str(scenes)], "mix_weights": [3, 18, 0.5], "object_size": 32}
    recipe.write_text(yaml.safe_dump({**mix, "val_fraction": 0.2, "shard_samples": 5}))
    argv = ["build", "--recipe", str(recipe), "--out", str(tmp_path / "shards")]
    assert run(*argv) == 0
    index = json.loads((tmp_path / "shards" / "index.json").read_text())
    weights = {(e["source"], e["url"].split("-")[1], e["weight"]) for e in index["shardlist"]}
    assert weights == {("coco", "coco_small", 3.0), ("lvis", "lvis_small", 18.0), ("scenes", "scenes", 0.5)}
    assert {e["split"] for e in index["shardlist"]} == {"train", "val"}
    assert index["name"] == "pics-mixture"
    config = BuildConfig(
        mix=(coco, lvis, scenes), mix_weights=(3, 18, 0.5), object_size=32, val_fraction=0.2, shard_samples=5
    )
    build_plainly(BuildConfig(**{**config_values(config), "out": str(tmp_path / "plain")}))
    assert digests(tmp_path / "shards") == digests(tmp_path / "plain")
    assert run("verify", str(tmp_path / "shards")) == 0

    # Each member's samples are those that its own recipe makes.
    alone = ["--val-fraction", "0.2", "--object-size", "32", "--out", str(tmp_path / "alone")]
    assert run("plan", "--recipe", str(coco), *alone) == 0
    counts = json.loads((tmp_path / "alone" / "recipe.json").read_text())["groups"]
    mixed = json.loads((tmp_path / "shards" / "recipe.json").read_text())["groups"]
    of_coco = {group["split"]: group["num_samples"] for group in mixed if group["member"] == 0}
    assert {group["split"]: group["num_samples"] for group in counts} == of_coco

    # Training sees the weights.
    from pics_model.shard_reader import find_shards

    assert {shard.weight for shard in find_shards(tmp_path / "shards", "train")} == {3.0, 18.0, 0.5}
    capfd.readouterr()
    recipe.write_text(yaml.safe_dump({**mix, "mix_weights": [3, 18, 1], "val_fraction": 0.2, "shard_samples": 5}))
    assert run(*argv) == 2
    assert "another recipe" in capfd.readouterr().err


def config_values(config: BuildConfig) -> dict[str, object]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mix_weights": (1.0, 2.0)}, "2 weights for 1 recipes"),
        ({"mix_weights": (0.0,)}, "expected numbers above 0"),
        ({"min_area": 0.5}, "--min-area has no effect with --mix"),
        ({"mix": (PIPELINES / "coco.yaml", PIPELINES / "coco.yaml")}, "two recipes have the name coco"),
        ({"mix": (PIPELINES / "paper.yaml",)}, "is a mixture itself"),
        ({"mix": (Path("none.yaml"),)}, "none.yaml does not exist"),
    ],
)
def test_what_does_not_go_together_is_one_line(settings: dict[str, object], message: str) -> None:
    values = {"mix": (PIPELINES / "coco.yaml",), **settings}
    with pytest.raises(UserError, match=message):
        members_of(BuildConfig(**values))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="without --mix"):
        members_of(BuildConfig(mix_weights=(1.0,)))


def test_the_paper_s_mixture_has_its_six_sources_and_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PIPELINES.parent)
    config = parse_recipe(BuildConfig, ["--recipe", "pipelines/paper.yaml"], prog="pics-data build")
    members = members_of(config)
    assert {member.config.source: member.weight for member in members} == {
        "lvis": 3, "viton_hd": 6, "objects365": 1, "cityscapes": 18, "mapillary": 18, "bdd100k": 18
    }  # fmt: skip
    assert all(member.config.pairs_per_photo == 1 for member in members)
    assert all(member.config.out == "out/paper" for member in members)
    assert [member.name for member in members if member.config.gpus_per_worker] == ["objects365"]
