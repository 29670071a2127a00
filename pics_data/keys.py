"""The names of samples: what a tar calls their members, and what rejects call them."""

import hashlib
import re
from collections.abc import Iterable

from pics_data.records import Instance, Photo

MAX_KEY = 80  # characters: a tar header holds 100, member extension included
PLAIN_WORD = re.compile(r"[A-Za-z0-9_]{1,32}")


def sample_key(photo: Photo, instances: Iterable[Instance]) -> str:
    """The key of a sample: source, photo id and instance ids, in letters, digits, `-` and `_`."""
    key = "-".join(map(_word, (photo.source, photo.id, *(item.id for item in instances))))
    return key if len(key) <= MAX_KEY else f"{key[: MAX_KEY - 11]}-{_digest_of(key)}"


def _word(text: str) -> str:
    """`text` itself where it is plain and short, else what is plain of it and a digest that keeps it apart."""
    if PLAIN_WORD.fullmatch(text):
        return text
    return re.sub(r"[^A-Za-z0-9_]", "_", text)[:20] + "_" + _digest_of(text)


def _digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]
