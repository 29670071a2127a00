"""An object store on this machine: moto's server behind the S3 API, that can be told to refuse requests."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pics_common import storage

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
INTERNAL = b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"


@dataclass
class Store:
    """A running store. `refuse` is the share of requests answered by 503 SlowDown or 500, `refused` their count.

    `requests` counts all requests by method and path, queries left out.
    """

    url: str
    refuse: float = 0.0
    refused: int = 0
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)

    def environment(self) -> dict[str, str]:
        """What a user sets to reach the store."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextmanager
def object_store(bucket: str, seed: int = 0) -> Iterator[Store]:
    """A store with an empty bucket, for the time of a `with` block."""
    import boto3
    from moto.server import DomainDispatcherApplication, create_backend_app
    from s3fs import S3FileSystem
    from werkzeug.serving import make_server

    rng = random.Random(seed)
    store = Store("")
    application = DomainDispatcherApplication(create_backend_app)

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        store.requests[environ["REQUEST_METHOD"], environ["PATH_INFO"]] += 1
        if rng.random() < store.refuse:
            store.refused += 1
            slow = rng.random() < 0.7
            body = SLOW_DOWN if slow else INTERNAL
            environ["wsgi.input"].read(
                int(environ.get("CONTENT_LENGTH") or 0)
            )  # take what the client sends, as stores do
            status = "503 Slow Down" if slow else "500 Internal Server Error"
            start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [body]
        return application(environ, start_response)

    server = make_server("127.0.0.1", 0, answer, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    store.url = f"http://127.0.0.1:{server.server_port}"
    names = {"endpoint_url": store.url, "aws_access_key_id": "someone", "aws_secret_access_key": "secret"}
    boto3.client("s3", region_name="us-east-1", **names).create_bucket(Bucket=bucket)
    S3FileSystem.clear_instance_cache()  # those of an earlier store know its address
    try:
        yield store
    finally:
        server.shutdown()


def put_folder(folder: Path, url: str) -> None:
    """Writes all files of a folder below `url`."""
    for path in folder.rglob("*"):
        if path.is_file():
            storage.upload(path, storage.join(url, *path.relative_to(folder).parts))
