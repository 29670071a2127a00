"""One file a dataset: its annotations or settings -> an iterator of `Photo`; no photo is opened here."""

from collections.abc import Iterator
from importlib import import_module

from pics_common.errors import UserError
from pics_data.config import BuildConfig
from pics_data.records import Photo, Reject


def records_of(config: BuildConfig) -> Iterator[Photo | Reject]:
    """The photos of the source that `config` names, and what of it could not be read."""
    if config.source == "scenes":
        from pics_data.sources import scenes  # the renderer takes a second to import: only who renders pays

        if config.meshes is not None and not config.meshes.is_dir():
            raise UserError(f"--meshes: {config.meshes} does not exist or is no folder; expected a folder of meshes")
        return iter(scenes.photos(config.scene_settings(), config.num_scenes))
    source = import_module(f"pics_data.sources.{config.source}")
    return iter(source.photos(config.images, config.annotations, config.check_photos))
