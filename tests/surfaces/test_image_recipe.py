"""The default image: the desk's versions, heavy layers first, nothing that can't be installed by version."""

import sys

import pytest

from pytest_megacpp.surfaces.modal.config import ImageConfig
from pytest_megacpp.surfaces.modal.image_recipe import default_recipe, desk_versions

DESK = {
    "torch": "2.13.0+cpu",
    "pytest": "9.0.1",
    "pytest-timeout": "2.4.0",
    "pytest-xdist": "3.8.0",
    "hypothesis": "6.150.0",
    "numpy": "2.3.0",
    "pytest-megacpp": "0.1.0",
    "pytest-ours": "",
}
PLUGINS = ("pytest-xdist", "pytest-timeout", "hypothesis", "pytest-megacpp", "pytest-ours")


def test_the_desks_versions_go_into_layers() -> None:
    recipe = default_recipe(ImageConfig(packages=("numpy>=2",)), DESK, PLUGINS)
    assert recipe.python == "{}.{}".format(*sys.version_info)
    assert recipe.torch == "torch==2.13.0"
    assert recipe.layers == (
        ("numpy", "numpy>=2"),
        ("pytest==9.0.1", "hypothesis==6.150.0", "pytest-timeout==2.4.0", "pytest-xdist==3.8.0"),
    )


def test_an_image_without_packages_has_numpy_for_torch_s_object_collectives() -> None:
    assert default_recipe(ImageConfig(), {"pytest": "9.0.1"}, ()).layers == (("numpy",), ("pytest==9.0.1",))


def test_the_configuration_wins() -> None:
    config = ImageConfig(python="3.13", torch_index="https://download.pytorch.org/whl/cu128")
    recipe = default_recipe(config, DESK, ())
    assert (recipe.python, recipe.torch_index) == ("3.13", "https://download.pytorch.org/whl/cu128")


@pytest.mark.parametrize("torch", [None, "2.14.0a0+git1234", "2.9.0a0+145a3a7bda.nv25.10", ""])
def test_a_desk_without_a_released_torch_gets_the_supported_range(torch: str | None) -> None:
    installed = {} if torch is None else {"torch": torch}
    assert default_recipe(ImageConfig(), installed, ()).torch == "torch>=2.11,<3"
    assert default_recipe(ImageConfig(), {"torch": "2.13.0.post1"}, ()).torch == "torch==2.13.0.post1"


def test_this_desk_is_read() -> None:
    versions, plugins = desk_versions()
    assert "pytest-timeout" in plugins
    assert versions["pytest"] == pytest.__version__
    assert "numpy" in versions
    assert "numpy" not in plugins
