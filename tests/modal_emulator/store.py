"""Owns what outlives a sandbox: apps, files by content, mounts, images, secrets, volumes; must not know an RPC."""

import hashlib
import secrets
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

ALPHABET = string.ascii_letters + string.digits


def new_id(prefix: str, length: int = 22) -> str:
    return f"{prefix}-{''.join(secrets.choice(ALPHABET) for _ in range(length))}"


@dataclass(frozen=True)
class MountedFile:
    name: str
    sha256: str
    mode: int


@dataclass
class Image:
    """`commands` of this layer, `bases` below it. `built` once a build succeeded."""

    id: str
    commands: Sequence[str]
    bases: Sequence[str]
    built: bool = False


@dataclass
class Store:
    """Everything by id; names of apps, secrets and volumes point to ids."""

    directory: Path
    names: dict[tuple[str, str], str] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    mounts: dict[str, tuple[MountedFile, ...]] = field(default_factory=dict)
    images: dict[str, Image] = field(default_factory=dict)
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    app_tags: dict[str, dict[str, str]] = field(default_factory=dict)

    def named(self, kind: str, name: str, *, create: bool) -> str | None:
        """The id that a name points to; a new one when asked for."""
        if (kind, name) not in self.names and create:
            self.names[kind, name] = new_id(kind)
        return self.names.get((kind, name))

    def bucket(self, name: str) -> Path:
        """Another company's; it is there when it is asked for."""
        return self.directory / "buckets" / name

    def volume(self, volume_id: str) -> Path:
        path = self.directory / "volumes" / volume_id
        path.mkdir(parents=True, exist_ok=True)
        return path

    def put_file(self, sha256: str, data: bytes) -> None:
        assert hashlib.sha256(data).hexdigest() == sha256, "a file doesn't have the digest that was given"
        self.files[sha256] = data

    def environment_of(self, image_id: str) -> dict[str, str]:
        """What the `ENV` lines of an image and those below it set."""
        image = self.images[image_id]
        below = {k: v for base in image.bases for k, v in self.environment_of(base).items()}
        return {**below, **dict(_env_lines(image.commands))}


def _env_lines(commands: Sequence[str]) -> Iterator[tuple[str, str]]:
    for command in commands:
        word, _, rest = command.partition(" ")
        if word.upper() == "ENV":
            name, _, value = rest.partition("=")
            yield name.strip(), value.strip().strip("'\"")


def blob_application(store: Store) -> web.Application:
    """What the blob store answers: S3's PUT with an ETag, and GET; volumes' files for reading."""

    async def put(request: web.Request) -> web.Response:
        data = await request.read()
        store.blobs[request.match_info["blob"]] = data
        return web.Response(headers={"ETag": f'"{hashlib.md5(data).hexdigest()}"'})

    async def get(request: web.Request) -> web.Response:
        blob = request.match_info["blob"]
        return web.Response(body=store.blobs[blob]) if blob in store.blobs else web.Response(status=404)

    application = web.Application(client_max_size=1 << 30)
    application.router.add_put("/blob/{blob}", put)
    application.router.add_get("/blob/{blob}", get)
    return application
