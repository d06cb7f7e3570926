"""`[tool.pytest_megacpp.modal]` and `.source`: what they mean, and what is said when they make no sense."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_megacpp.desk.config.source import read_source
from pytest_megacpp.recording.plan import DataSet
from pytest_megacpp.surfaces.data_config import Bucket, DataConfig
from pytest_megacpp.surfaces.modal.config import ImageConfig, ModalConfig, NetworkConfig, VolumeConfig
from pytest_megacpp.surfaces.modal.settings import read_modal
from pytest_megacpp.surfaces.source import MIB, SourceConfig

DIGEST = "sha256:" + "0f" * 32


TOKENS = DataConfig("tokens", None, "corpus", "tokens-v2")
SHARDS = DataConfig("shards", Bucket("s3://training/v1", "training", "v1", secret="aws"), exclude=("^x",))
OF_A_DESK = DataConfig("here", Path("/mnt/here"))


def modal(toml: str, *, untrusted: bool = False, data: tuple[DataConfig, ...] = ()) -> ModalConfig:
    return read_modal(tomllib.loads(toml), untrusted=untrusted, data=data)


def of_data(config: ModalConfig) -> tuple[VolumeConfig, ...]:
    return tuple(mount for mount in config.mounts("r1") if mount.path.startswith("/megacpp/data/"))


def test_the_defaults() -> None:
    assert modal("") == ModalConfig(cache_volume=VolumeConfig("/megacpp/cache", "megacpp-cache", made=True))
    assert read_source({}) == SourceConfig()


EVERYTHING = """
app = "smoke"
environment = "ci"
image = "my.images:training"
baked_seed = "build/seeds"
secrets = ["wandb"]
pass_env = ["WANDB_MODE"]
cache_volume = "cache"
runs_volume = "records/smoke"
region = "us-east"
cloud = "oci"
runtime = "vm"
cpu = 64
memory_mib = 524288
capacity_s = 600
timeout_s = 3600
lease_s = 30
network = ["10.0.0.0/8", "huggingface.co", "*.modal.host"]
env = { HF_HUB_OFFLINE = "1" }
[volumes]
"/weights" = { volume = "weights", read_only = true }
"/scratch" = "scratch"
"""


def test_every_key() -> None:
    assert modal(EVERYTHING) == ModalConfig(
        app="smoke",
        environment="ci",
        image=ImageConfig(factory="my.images:training", baked_seed="build/seeds"),
        secrets=("wandb",),
        pass_env=("WANDB_MODE",),
        env={"HF_HUB_OFFLINE": "1"},
        cache_volume=VolumeConfig("/megacpp/cache", "cache", made=True),
        runs_volume=VolumeConfig("/megacpp/runs", "records", "smoke", made=True),
        volumes=(
            VolumeConfig("/weights", "weights", read_only=True),
            VolumeConfig("/scratch", "scratch"),
        ),
        region=("us-east",),
        cloud="oci",
        runtime="vm",
        cpu=64.0,
        memory_mib=524288,
        capacity_s=600.0,
        timeout_s=3600.0,
        lease_s=30.0,
        network=NetworkConfig(cidrs=("10.0.0.0/8",), domains=("huggingface.co", "*.modal.host")),
    )


@pytest.mark.parametrize(
    ("toml", "image"),
    [
        ('image = "images:training"', ImageConfig(factory="images:training")),
        ('image = "ubuntu:22.04"', ImageConfig(reference="ubuntu:22.04")),
        ('image = "nvcr.io/nvidia/pytorch:25.10-py3"', ImageConfig(reference="nvcr.io/nvidia/pytorch:25.10-py3")),
        (f'image = "ghcr.io/you/image@{DIGEST}"', ImageConfig(reference=f"ghcr.io/you/image@{DIGEST}")),
        (
            'image = "localhost:5000/you/image"\nadd_python = "3.12"\npull_secret = "ghcr"',
            ImageConfig(reference="localhost:5000/you/image", add_python="3.12", pull_secret="ghcr"),
        ),
        ('python = "3.12"\npackages = ["numpy>=2"]', ImageConfig(python="3.12", packages=("numpy>=2",))),
    ],
)
def test_images(toml: str, image: ImageConfig) -> None:
    assert modal(toml).image == image


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("imgae = 'x'", "unknown key 'imgae'; did you mean 'image'? Known: add_python, app,"),
        ("memory = 4096", "unknown key 'memory'; did you mean 'memory_mib'?"),
        ("app = 'my app'", "app must be of letters, digits"),
        ("image = 'not an image'", "image must name a function that returns a modal.Image"),
        (f"image = 'you/image@sha256:{'0' * 63}'", "image must name a function"),
        ("image = 'x.y:z'\nadd_python = '3.12'", "add_python means something only when image is a reference"),
        ("pull_secret = 'x'", "pull_secret means something only when image is a reference"),
        ("image = 'a/b:c'\npackages = ['numpy']", "packages means something only when there is no image of your own"),
        ("python = 3.12", 'python must be a version as a text, such as "3.12", not 3.12'),
        ("python = '3.10'", "python = '3.10' is too old: ranks need Python 3.11 or newer"),
        ("packages = 'numpy'", "packages must be a list of requirements"),
        ("packages = ['--index-url=http://evil']", "packages must be a list of requirements"),
        ("secrets = ['a b']", "secrets must be a list of names of Modal secrets"),
        ("pass_env = ['A=B']", "pass_env must be a list of names of variables"),
        ("env = { A = 1 }", '[tool.pytest_megacpp.modal.env]: variables are texts, such as A = "1"; not 1'),
        ("cache_volume = 'a/../b'", 'cache_volume in [tool.pytest_megacpp.modal]: write "VOLUME" or'),
        ("volumes = { weights = 'v' }", "'weights' must be a path in the box"),
        ("volumes = { '/a/../b' = 'v' }", "'/a/../b' must be a path in the box"),
        ("volumes = { '/megacpp/runs' = 'v' }", "is the plugin's own place"),
        ("volumes = { '/w' = { volume = 'v', readonly = true } }", "unknown key 'readonly'; did you mean 'read_only'?"),
        ("volumes = { '/w' = { read_only = true } }", "it must be a non-empty string, not None"),
        ("region = 3", "region must be a region or a list of them"),
        ("runtime = 'runc'", "unknown runtime 'runc'. Known: gvisor, vm"),
        ("runtime = 'gVisor'", "unknown runtime 'gVisor'; did you mean 'gvisor'?"),
        ("cpu = 0", "cpu must be a number of cores"),
        ("memory_mib = 0", "memory_mib must be a whole number of at least 1"),
        ("timeout_s = 60", "timeout_s must be above 120, which are kept back"),
        ("timeout_s = 100000", "at most 86400, Modal's own limit"),
        ("lease_s = -1", "lease_s must be a number of seconds above 0"),
        ("network = 'off'", "unknown network 'off'"),
        ("network = []", 'network must be "open", "none" or a list'),
        ("network = ['10.0.0.1/8']", "network lists address ranges"),
    ],
)
def test_nonsense_is_said_with_its_remedy(toml: str, said: str) -> None:
    with pytest.raises(pytest.UsageError) as error:
        modal(toml)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("exlude = []", "unknown key 'exlude'; did you mean 'exclude'?"),
        ("exclude = 'x'", "exclude must be a list of strings"),
        ("include = ['../x']", "include takes paths inside the project, not '../x'; use extra for others"),
        ("include = ['/etc/x']", "include takes paths inside the project"),
        ("max_mib = 0", "max_mib must be a whole number of at least 1"),
        ("exclude = ['!']", "invalid pattern in exclude"),
    ],
)
def test_nonsense_about_the_source_is_said(toml: str, said: str) -> None:
    with pytest.raises(pytest.UsageError) as error:
        read_source(tomllib.loads(toml))
    assert said in str(error.value)


def test_the_source() -> None:
    config = read_source(tomllib.loads("include = ['a/*.so']\nexclude = ['b']\nextra = ['../c']\nmax_mib = 3"))
    assert config == SourceConfig(("a/*.so",), ("b",), ("../c",), 3 * MIB)


# -- for strangers ---------------------------------------------------------------------------------------------------


def test_a_strangers_box_has_no_cache_and_sees_its_own_records_only() -> None:
    toml = "network = 'none'\ncache_volume = 'cache'\nruns_volume = 'records'"
    config = modal(toml, untrusted=True, data=(TOKENS,))
    assert [(m.name, m.directory, m.read_only) for m in config.mounts("r1")] == [
        ("records", "r1", False),
        ("corpus", "tokens-v2", True),
    ]
    assert [m.name for m in modal(toml, data=(TOKENS,)).mounts("r1")] == ["cache", "records", "corpus"]


def test_a_strangers_box_finds_what_a_trusted_one_copied_and_no_bucket() -> None:
    trusted = modal("network = 'none'", data=(SHARDS,))
    stranger = modal("network = 'none'", untrusted=True, data=(SHARDS,))
    (copy,) = of_data(trusted)
    assert of_data(stranger) == (replace(copy, read_only=True, made=False),)
    assert (list(trusted.buckets()), stranger.buckets()) == (["/megacpp/buckets/shards"], {})
    assert [one.source for one in stranger.data_sets()] == [""]


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("", "untrusted code would have an open network"),
        ("network = 'none'\nsecrets = ['wandb']\npass_env = ['HF_TOKEN']", "would see wandb, HF_TOKEN: take them out"),
        ("network = ['10.0.0.0/8']\nvolumes = { '/w' = 'weights' }", "could write to the volumes at /w"),
    ],
)
def test_a_stranger_gets_no_more_than_it_may_have(toml: str, said: str) -> None:
    with pytest.raises(pytest.UsageError) as error:
        modal(toml, untrusted=True)
    assert said in str(error.value)


# -- what follows ----------------------------------------------------------------------------------------------------


def test_data_lies_in_volumes_and_comes_from_buckets() -> None:
    config = modal("", data=(TOKENS, SHARDS, OF_A_DESK, replace(OF_A_DESK, name="both", volume="corpus")))
    tokens, shards, here, both = config.data_sets()
    assert (tokens.target, tokens.source) == ("/megacpp/data/tokens", "")
    assert shards == DataSet(
        *("shards", "/megacpp/data/shards/files", "/megacpp/buckets/shards", "s3://training/v1"), exclude=("^x",)
    )
    assert (here.target, both.target) == ("", "/megacpp/data/both")
    assert "a box on Modal doesn't reach /mnt/here: name a volume" in here.absent
    assert of_data(config) == (
        VolumeConfig("/megacpp/data/tokens", "corpus", "tokens-v2", read_only=True),
        VolumeConfig("/megacpp/data/shards", "megacpp-data", SHARDS.own_directory, made=True),
        VolumeConfig("/megacpp/data/both", "corpus", read_only=True),
    )
    assert config.buckets() == {"/megacpp/buckets/shards": SHARDS.source}


@pytest.mark.parametrize(
    ("run_s", "times"), [(0.0, (3600.0, 3480.0)), (600.0, (720.0, 600.0)), (1e6, (86400.0, 86280.0))]
)
def test_the_run_ends_before_its_container(run_s: float, times: tuple[float, float]) -> None:
    assert modal("timeout_s = 3600").times(run_s) == times


def test_a_budget_bounds_the_container_too() -> None:
    """The box keeps a budget by itself, unless its code takes the supervisor down."""
    config = modal("timeout_s = 3600")
    assert config.times(0.0, 400.0) == (520.0, 3480.0)
    assert config.times(600.0, 1e6) == (720.0, 600.0)
