"""Owns a box's image as Modal knows it: the user's own, or the default one after its recipe; must not know a run."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import modal

from pytest_megacpp.recording.seed_layout import BAKED_DIR, foreign, is_key
from pytest_megacpp.surfaces.modal.config import ImageConfig
from pytest_megacpp.surfaces.modal.image_recipe import Recipe, default_recipe, desk_versions


class ImageError(Exception):
    """The configured image can't be described to Modal; the text says why and how to fix it."""


def image(config: ImageConfig, top: Path, environment: str | None = None) -> Any:
    """A `modal.Image`, not built yet; `top` is the project's, from where a factory is imported, `environment` Modal's.

    Raises:
        ImageError
    """
    if config.factory is not None:
        made = _made_by(config.factory, top)
    elif config.reference is not None:
        made = _of_registry(config, config.reference, environment)
    else:
        made = after(default_recipe(config, *desk_versions()))
    return made if config.baked_seed is None else with_seed(made, top / config.baked_seed)


def with_seed(image: Any, directory: Path | str) -> Any:
    """`image`, a `modal.Image`, with the seeds that `megacpp seed bake DIRECTORY` wrote as its last layer: where a
    deployment has none of its own yet, its runs begin with them.

    Raises:
        ImageError: there are no seeds in the directory, or other things.
    """
    names = os.listdir(directory) if Path(directory).is_dir() else []
    if foreign(names) or not any(map(is_key, names)):
        raise ImageError(f"there are no baked seeds in {directory}: megacpp seed bake {directory}")
    return image.add_local_dir(directory, BAKED_DIR, copy=True, ignore=["**/.*"])


def after(recipe: Recipe) -> Any:
    """The default image."""
    made = modal.Image.debian_slim(python_version=recipe.python).apt_install(*recipe.system_packages)
    made = made.uv_pip_install(recipe.torch, index_url=recipe.torch_index)
    for requirements in recipe.layers:
        made = made.uv_pip_install(*requirements)
    return made


def _of_registry(config: ImageConfig, reference: str, environment: str | None) -> Any:
    """Without the image's own entry point, which need not run what it is given."""
    name = config.pull_secret
    secret = modal.Secret.from_name(name, environment_name=environment) if name is not None else None
    return modal.Image.from_registry(reference, secret, add_python=config.add_python).entrypoint([])


def _made_by(factory: str, top: Path) -> Any:
    module_name, _, name = factory.partition(":")
    sys.path.insert(0, str(top))
    try:
        found = getattr(importlib.import_module(module_name), name)
        made = found() if callable(found) else found
    except Exception as e:
        raise ImageError(f"image = {factory!r} failed with {type(e).__name__}: {e}") from e
    finally:
        sys.path.remove(str(top))
    if not isinstance(made, modal.Image):
        raise ImageError(f"image = {factory!r} must return a modal.Image, not {type(made).__name__}")
    return made
