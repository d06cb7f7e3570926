"""Images as the unmodified client describes them to Modal, layer by layer."""

import sys
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import modal
import pytest

from pytest_megacpp.box.seed.store import SeedStore
from pytest_megacpp.recording.seed_layout import BAKED_DIR
from pytest_megacpp.surfaces.modal.config import ImageConfig
from pytest_megacpp.surfaces.modal.image import ImageError, after, image, with_seed
from pytest_megacpp.surfaces.modal.image_recipe import Recipe
from tests.box.seeding import SHAPE, fill, manifest
from tests.modal_emulator import Emulator

RECIPE = Recipe(
    python="3.12",
    system_packages=("g++",),
    torch="torch==2.13.0",
    torch_index=None,
    layers=(("numpy>=2",), ("pytest==9.0.1",)),
)


@pytest.fixture
def app(emulator: Emulator) -> Any:
    return modal.App.lookup("suite", create_if_missing=True)


def layers(emulator: Emulator, built: Any) -> list[str]:
    """Commands of the image and of those below it, the lowest first."""

    def of(image_id: str) -> Iterator[str]:
        layer = emulator.control.store.images[image_id]
        for base in layer.bases:
            yield from of(base)
        yield "\n".join(layer.commands)

    return list(of(built.object_id))


def test_heavy_layers_come_first(emulator: Emulator, app: Any) -> None:
    said = layers(emulator, after(RECIPE).build(app))
    order = [next(i for i, layer in enumerate(said) if word in layer) for word in ("g++", "torch", "numpy", "pytest==")]
    assert order == sorted(set(order))
    assert "3.12" in said[0]


def test_torch_may_come_from_another_index(emulator: Emulator, app: Any) -> None:
    recipe = Recipe("3.12", (), "torch==2.13.0", "https://download.pytorch.org/whl/cu128", ())
    assert "https://download.pytorch.org/whl/cu128" in "".join(layers(emulator, after(recipe).build(app)))


def test_an_edit_of_the_source_builds_nothing(emulator: Emulator, app: Any, tmp_path: Path) -> None:
    def built(text: str) -> tuple[str, int]:
        (tmp_path / "a.py").write_text(text)
        after(RECIPE).add_local_dir(tmp_path, "/megacpp").build(app)
        return after(RECIPE).build(app).object_id, emulator.calls["ImageJoinStreaming"]

    assert built("one") == built("two")


def test_a_registrys_image_with_its_secret_and_a_python(emulator: Emulator, app: Any) -> None:
    emulator.secret("ghcr", {"REGISTRY_USERNAME": "me", "REGISTRY_PASSWORD": "p"})
    reference = "ghcr.io/you/image@sha256:" + "0f" * 32
    config = ImageConfig(reference=reference, add_python="3.12", pull_secret="ghcr")
    said = layers(emulator, image(config, Path.cwd()).build(app))
    assert any(reference in layer for layer in said)
    assert said[-1].splitlines()[-1] == "ENTRYPOINT []"
    assert not any("pip install" in layer for layer in said)


@pytest.fixture
def baked(tmp_path: Path) -> Path:
    """A directory as `megacpp seed bake` leaves it."""
    made = SeedStore(tmp_path / "from").publish(manifest(), fill(tmp_path / "cache")).manifest
    SeedStore(tmp_path / "seeds").adopt(made, partial(SeedStore(tmp_path / "from").copy, made))
    return tmp_path / "seeds"


def test_a_baked_seed_is_the_last_layer(emulator: Emulator, app: Any, baked: Path) -> None:
    """The marks and archives are in it, what a store needs to work is not."""
    built = image(ImageConfig(baked_seed="seeds"), baked.parent).build(app)
    said = layers(emulator, built)
    assert said[-1].splitlines()[-1] == "COPY . /"
    assert any("pytest" in layer for layer in said[:-1])
    sent = {file.name for file in list(emulator.control.store.mounts.values())[-1]}
    shape, seed = f"{BAKED_DIR}/{SHAPE.key}", SeedStore(baked).seeds()[0].id
    assert sent == {f"{shape}/good", f"{shape}/{seed}/manifest.json", f"{shape}/{seed}/cache.tar"}


def test_an_image_of_the_users_own_takes_a_seed_too(baked: Path) -> None:
    assert isinstance(with_seed(modal.Image.debian_slim(), baked), modal.Image)
    assert isinstance(with_seed(modal.Image.debian_slim(), str(baked)), modal.Image)


def test_what_is_no_baked_seed_is_said_with_the_command(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    for name in ("absent", "empty", "other"):
        with pytest.raises(ImageError, match=f"no baked seeds in .*{name}: megacpp seed bake .*{name}"):
            image(ImageConfig(baked_seed=name), tmp_path)


@pytest.fixture
def factories(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("our_images")
    monkeypatch.setitem(sys.modules, "our_images", module)
    return module


def test_an_image_of_the_users_own(factories: types.ModuleType, tmp_path: Path) -> None:
    mine = modal.Image.debian_slim()
    factories.__dict__.update(made=lambda: mine, constant=mine)
    assert image(ImageConfig(factory="our_images:made"), tmp_path) is mine
    assert image(ImageConfig(factory="our_images:constant"), tmp_path) is mine


def test_a_factory_is_found_from_the_projects_top(tmp_path: Path) -> None:
    (tmp_path / "images_here.py").write_text("import modal\ndef made(): return modal.Image.debian_slim()\n")
    before = list(sys.path)
    assert isinstance(image(ImageConfig(factory="images_here:made"), tmp_path), modal.Image)
    assert sys.path == before


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("no_such_module:made", "image = 'no_such_module:made' failed with ModuleNotFoundError"),
        ("our_images:absent", "failed with AttributeError"),
        ("our_images:fails", "failed with RuntimeError: no base"),
        ("our_images:text", "must return a modal.Image, not str"),
    ],
)
def test_a_factory_that_fails_is_said(factory: str, said: str, factories: types.ModuleType, tmp_path: Path) -> None:
    def fails() -> None:
        raise RuntimeError("no base")

    factories.__dict__.update(fails=fails, text="ubuntu")
    with pytest.raises(ImageError) as error:
        image(ImageConfig(factory=factory), tmp_path)
    assert said in str(error.value)
