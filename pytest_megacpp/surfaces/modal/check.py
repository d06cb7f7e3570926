"""Owns looking at what a launch on Modal would need, without renting a GPU; must not know lanes or who asks.

The image is built if it isn't yet: that is where launches fail most, and the next one doesn't wait for it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pytest_megacpp.surfaces.modal import client
from pytest_megacpp.surfaces.modal.calls import call
from pytest_megacpp.surfaces.modal.config import ImageConfig, ModalConfig, VolumeConfig
from pytest_megacpp.surfaces.modal.failures import CallTimeout, SurfaceError

IMAGE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check. `remedy` says what to do when it is not `ok`."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def checks(config: ModalConfig, top: Path) -> Iterator[Check]:
    """Yields the checks one after another; without an account nothing else can be checked."""
    account = _tried("account", _account)
    yield account
    if account.ok:
        yield from (_tried(f"secret {name}", partial(_secret, name, config)) for name in _secrets(config))
        yield from (_tried(f"volume {v.name}", partial(_volume, v, config)) for v in config.mounts("RUN"))
        yield _tried("image", partial(_image, config, top))


def _tried(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except SurfaceError as e:
        return Check(name, False, e.problem.detail, e.problem.remedy)
    except Exception as e:
        return Check(name, False, f"{type(e).__name__}: {e}")


def _account() -> Check:
    client.connect()
    modal = client.client()
    name = call("the workspace", client.CALL_S, lambda: modal.Workspace.from_context().hydrate().name)
    return Check("account", True, f"workspace {name}, client {modal.__version__}")


def _secrets(config: ModalConfig) -> tuple[str, ...]:
    pull = (config.image.pull_secret,) if config.image.pull_secret is not None else ()
    buckets = (bucket.secret for bucket in config.buckets().values() if bucket.secret is not None)
    return tuple(dict.fromkeys((*config.secrets, *pull, *buckets)))


def _secret(name: str, config: ModalConfig) -> Check:
    modal = client.client()
    if _exists(modal.Secret.from_name(name, environment_name=config.environment)):
        return Check(f"secret {name}", True, "exists")
    return Check(f"secret {name}", False, "does not exist", f"modal secret create {name}")


def _volume(volume: VolumeConfig, config: ModalConfig) -> Check:
    modal = client.client()
    at = f"{volume.path}, read-only" if volume.read_only else volume.path
    if _exists(modal.Volume.from_name(volume.name, environment_name=config.environment)):
        return Check(f"volume {volume.name}", True, f"exists, mounted at {at}")
    if volume.made:
        return Check(f"volume {volume.name}", True, f"will be created, mounted at {at}")
    remedy = f"modal volume create {volume.name}"
    return Check(f"volume {volume.name}", False, f"does not exist, to be mounted at {at}", remedy)


def _exists(thing: Any) -> bool:
    try:
        call("Modal", client.CALL_S, thing.hydrate)
    except CallTimeout:
        raise
    except Exception as e:
        if type(e).__name__ == "NotFoundError":
            return False
        raise
    return True


def _image(config: ModalConfig, top: Path) -> Check:
    from pytest_megacpp.surfaces.modal.image import ImageError, image

    try:
        described = image(config.image, top, config.environment)
    except ImageError as e:
        return Check("image", False, str(e), "fix the function, or image in [tool.pytest_megacpp.modal]")
    app = client.app(config.app, config.environment, {})
    client.build(described, app, "the image", IMAGE_S)
    return Check("image", True, f"{_named(config.image)} is built ({described.object_id})")


def _named(config: ImageConfig) -> str:
    return config.factory or config.reference or "the default image"
