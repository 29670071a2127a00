"""Faults for Ray's workers: put this folder on PYTHONPATH, and say in PICS_FAULTS what is to go wrong.

`exit:SHARE:SEED` ends the process in that share of the attempts at a shard, in the middle of it; `raise:SHARE:SEED`
raises an `OSError` there, as a failing disk does; `photo:ID,ID` ends the process that is to decode such a photo. Each
fault adds a line to the file that PICS_FAULTS_LOG names. Whether an attempt fails depends on the seed, the shard and
how often it has failed, so the same faults come whatever process makes which shard.

Python imports this file when it starts. Nothing of it is in the product: it wraps a function when it is imported.
"""

import functools
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import pathlib
import sys

KIND, _, REST = os.environ.get("PICS_FAULTS", "").partition(":")
LOG = pathlib.Path(os.environ.get("PICS_FAULTS_LOG", ""))
WRAPPED = {"exit": "pics_data.pipeline", "raise": "pics_data.pipeline", "photo": "pics_data.decompose"}.get(KIND, "")


def in_a_worker():
    """Whether this process is one of Ray's workers, or a child that such a worker started."""
    return "ray" in sys.modules or "pics_data.quarantine" in sys.orig_argv


def chosen(share, seed, shard, failed=0):
    """Whether the attempt at `shard` fails that comes after `failed` failed ones."""
    digest = hashlib.sha256(f"{seed} {shard} {failed}".encode()).digest()
    return int.from_bytes(digest[:4]) < float(share) * 2**32


def fails(shard):
    share, seed = REST.split(":")
    return chosen(share, seed, shard, faults().count(shard))


def faults():
    """The lines of the log: what failed so far."""
    return LOG.read_text().splitlines() if LOG.exists() else []


def note(what):
    with LOG.open("a") as file:
        file.write(f"{what}\n")


def failing_writes(module):
    """Replaces `write_shard` by one that may fail half way: a part of the tar is written by then."""
    write_shard = module.write_shard

    def some(shard, records):
        for i, record in enumerate(records):
            if i == 1:
                note(shard)
                if KIND == "exit":
                    os._exit(1)
                raise OSError(5, "Input/output error (made to fail)")
            yield record

    @functools.wraps(write_shard)
    def wrapper(folder, shard, records):
        return write_shard(folder, shard, some(shard, records) if fails(shard) else records)

    module.write_shard = wrapper


def deadly_photo(module):
    """Replaces `decode_photo` by one that no process survives for the photo of the given id."""
    decode_photo = module.decode_photo

    @functools.wraps(decode_photo)
    def wrapper(photo, *rest):
        if photo.id in REST.split(",") and in_a_worker():
            note(photo.id)
            os.abort()
        return decode_photo(photo, *rest)

    module.decode_photo = wrapper


class Finder(importlib.abc.MetaPathFinder):
    """Finds one module, once, and has it changed when it has been run."""

    def find_spec(self, name, path=None, target=None):
        if name != WRAPPED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            (deadly_photo if KIND == "photo" else failing_writes)(module)

        spec.loader.exec_module = exec_module
        return spec


if WRAPPED:
    sys.meta_path.insert(0, Finder())
