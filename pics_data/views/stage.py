"""The views of a shard's objects: samples in, the same samples with `obj<k>_view<v>.png` out. Plain functions, no Ray.

Views are made of the whole object where a sample has it (`full<k>.png`), else of its cut-out. An object that none can
be made of goes on without, and its metadata says why; or, if views are required, its sample is dropped.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any, Final

import numpy as np
import orjson

from pics_common.saliency import load_saliency, providers_of
from pics_common.turn import on_white, premultiplied
from pics_data import codecs
from pics_data.config import BuildConfig
from pics_data.members import decode
from pics_data.options import ViewOptions
from pics_data.records import Reject, RejectError, Sample
from pics_data.views import Cutout, Generator, Picture, ViewCamera, draw_cameras

_STREAM: Final = 1  # of an object's random numbers; see `pics_data.turns`
SAMPLES_AHEAD: Final = 16  # that are held for a network to be given whole batches; else it is one


def load_generator(options: ViewOptions, config: BuildConfig) -> Generator:
    """The generator that `options` name; `config` is that of the build, for the scenes or the meshes of its objects.

    Raises `UserError` where weights or meshes are missing or of no use.
    """
    if options.views == "inflate":
        from pics_data.views.inflate import generate

        return generate
    if options.views == "mesh":
        from pics_data.views import mesh

        if config.source == "scenes":
            return mesh.of_scenes(config.scene_settings())
        return mesh.of_folder(str(config.meshes))
    from pics_data.views import zero123

    device, saliency = "cuda" if config.gpus_per_worker else "cpu", None
    if options.view_saliency:
        providers = providers_of(device, "--view-saliency")
        saliency = load_saliency(options.view_saliency, "--view-saliency", providers=providers)
    return zero123.load(
        options.view_weights,
        device,
        num_steps=options.view_steps,
        guidance_scale=options.view_guidance,
        batch=options.view_batch,
        seed=config.seed,
        saliency=saliency,
    )


def with_views(
    records: Iterable[Sample | Reject], options: ViewOptions, generate: Generator
) -> Iterator[Sample | Reject]:
    """Each sample with `options.num_views` views of each object, in order; rejects pass.

    Cameras come from the sample's seed and the object's place alone.
    """
    ahead = SAMPLES_AHEAD if options.views == "zero123" else 1
    left = iter(records)
    while window := list(islice(left, ahead)):
        yield from _with_views(window, options, generate)


def _with_views(window: list[Sample | Reject], options: ViewOptions, generate: Generator) -> Iterator[Sample | Reject]:
    metas = [None if isinstance(record, Reject) else orjson.loads(record.members["meta.json"]) for record in window]
    cutouts: list[Cutout] = []
    cameras: list[tuple[ViewCamera, ...]] = []
    for record, meta in zip(window, metas, strict=True):
        if meta is None or isinstance(record, Reject):
            continue
        for k, item in enumerate(meta["objects"]):
            rgba = straight(_picture_of(record, k))
            cutouts.append(Cutout(record.key, k, rgba, item["category"], meta["photo"]["id"], item["id"]))
            cameras.append(draw_cameras(options.num_views, (meta["seed"], k, _STREAM)))
    answers = zip(cameras, generate(cutouts, cameras), strict=True)
    for record, meta in zip(window, metas, strict=True):
        if meta is None or isinstance(record, Reject):
            yield record
        else:
            yield _finished(record, meta, list(islice(answers, len(meta["objects"]))), options)


def _finished(
    sample: Sample,
    meta: dict[str, Any],
    answers: list[tuple[tuple[ViewCamera, ...], list[Picture] | RejectError]],
    options: ViewOptions,
) -> Sample | Reject:
    members = {name: data for name, data in sample.members.items() if name != "meta.json"}
    for k, (cameras, pictures) in enumerate(answers):
        item = meta["objects"][k]
        if isinstance(pictures, RejectError):
            why = f"{pictures.reason}: {pictures.detail}".rstrip(": ")
            if options.require_views:
                return Reject(sample.key, "views", pictures.reason, f"object {k}: {pictures.detail}".rstrip(": "))
            item["no_views"] = why
            continue
        for v, picture in enumerate(pictures, 1):
            members[f"obj{k}_view{v}.png"] = codecs.png(whitened(picture))
        item |= {"views": [asdict(camera) for camera in cameras], "views_by": options.views}
    return Sample(sample.key, {**members, "meta.json": orjson.dumps(meta)})


def _picture_of(sample: Sample, k: int) -> Picture:
    name = f"full{k}.png" if f"full{k}.png" in sample.members else f"obj{k}.png"
    picture: Picture = decode(name, sample.members[name])
    return picture


def straight(picture: Picture) -> Picture:
    """A stored cut-out [n, n, 4], on white -> the same with straight alpha."""
    ink = premultiplied(picture).astype(np.float32)
    ink[..., :3] *= 255 / np.maximum(ink[..., 3:], 1)
    return np.minimum(ink + 0.5, 255).astype(np.uint8)


def whitened(picture: Picture) -> Picture:
    """A picture with straight alpha [n, n, 4] -> as it is stored, on white."""
    alpha = picture[..., 3:].astype(np.uint16)
    ink = picture.copy()
    ink[..., :3] = (picture[..., :3] * alpha + 127) // 255
    return on_white(ink)
