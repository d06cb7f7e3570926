"""`[tool.pytest_megacpp.data]`: what it means, where it lies on this machine, what is said when it makes no sense."""

import re
import tomllib
from pathlib import Path

import pytest

from pytest_megacpp.desk.config.data import read_data
from pytest_megacpp.surfaces.data_config import GOOGLE, Bucket, DataConfig, here

PROJECT = Path("/home/me/project")


def data(toml: str) -> tuple[DataConfig, ...]:
    return read_data(tomllib.loads(toml), PROJECT)


def one(toml: str) -> DataConfig:
    (found,) = data(f"[x]\n{toml}")
    return found


@pytest.mark.parametrize(
    ("toml", "meant"),
    [
        ('source = "s3://corpus"', DataConfig("x", Bucket("s3://corpus", "corpus"))),
        (
            'source = "s3://corpus/a/b/"\nsecret = "aws"\nendpoint_url = "https://r2.example"',
            DataConfig("x", Bucket("s3://corpus/a/b/", "corpus", "a/b", "https://r2.example", "aws")),
        ),
        ('source = "gs://corpus"', DataConfig("x", Bucket("gs://corpus", "corpus", endpoint_url=GOOGLE))),
        ('source = "/mnt/corpus"\nvolume = "v/a/b"', DataConfig("x", Path("/mnt/corpus"), "v", "a/b")),
        ('source = "../corpus"', DataConfig("x", Path("/home/me/corpus"))),
        ('volume = "v"', DataConfig("x", None, "v")),
    ],
)
def test_what_is_meant(toml: str, meant: DataConfig) -> None:
    assert one(toml) == meant


def test_patterns_mean_what_they_mean_in_gitignore() -> None:
    found = one('source = "/d"\ninclude = ["*.bin", "/top/**"]\nexclude = ["tmp/", "# no comment"]')
    chosen = [re.compile(pattern) for pattern in found.include]
    assert [p for p in ("a.bin", "b/a.bin", "top/a/b", "b/top/a", "a.bin2") if any(r.match(p) for r in chosen)] == [
        *("a.bin", "b/a.bin", "top/a/b")
    ]
    (left_out,) = found.exclude
    assert re.match(left_out, "a/tmp/b")
    assert not re.match(left_out, "tmp")


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[X]", "[tool.pytest_megacpp.data.X]: 'X' can't be a data set's name; use a-z, 0-9 and _"),
        ("x = 1", "it must be a table, not 1"),
        (
            "[x]",
            'give a source, source = "s3://bucket/prefix" or a directory, or the volume that has it already',
        ),
        ("[x]\nsrc = '/d'", "unknown key 'src'; did you mean 'source'?"),
        ("[x]\nsource = 3", "source must be a non-empty string, not 3"),
        ("[x]\nsource = 'http://a/b'", 'source must be "s3://bucket/prefix", "gs://bucket/prefix" or a directory'),
        ("[x]\nsource = 's3://'", 'source must be "s3://bucket/prefix"'),
        ("[x]\nsource = 's3://corpus/a//b'", "source has an invalid prefix: 'a//b'"),
        ("[x]\nsource = '/d'\nsecret = 's'", "secret is valid only when source is a bucket"),
        ("[x]\nvolume = 'v'\nsecret = 's'", "secret is valid only when source is a bucket"),
        ("[x]\nvolume = 'v'\ninclude = ['a']", "include is valid only when there is a source"),
        ("[x]\nsource = '..'", "source = '/home/me' contains the project itself"),
        ("[x]\nsource = '/d'\nvolume = 'v/../w'", 'volume must be "VOLUME" or "VOLUME/DIRECTORY"'),
        ("[x]\nsource = '/d'\ninclude = '*.bin'", "include must be a list of patterns"),
        ("[x]\nsource = '/d'\nexclude = ['!a']", "'!a' in exclude is a negated pattern; put it in include instead"),
        ("[x]\nsource = 's3://corpus'\nendpoint_url = 'r2'", "endpoint_url must be the URL of a store"),
        ("[x]\nsource = 's3://corpus'\nsecret = 'a b'", "secret must be the name of a Modal secret, not 'a b'"),
    ],
)
def test_nonsense_is_said_with_its_remedy(toml: str, said: str) -> None:
    with pytest.raises(pytest.UsageError) as error:
        data(toml)
    assert said in str(error.value)


# -- on this machine -------------------------------------------------------------------------------------------------


def test_a_directory_is_copied_below_the_cache_to_a_place_of_its_own() -> None:
    configured = data("[a]\nsource = '/one'\nexclude = ['x']\n[b]\nsource = '/one'")
    first, second = here(configured, Path("/cache"), {})
    (other,) = here(data("[a]\nsource = '/two'\nexclude = ['x']"), Path("/cache"), {})
    (fewer,) = here(data("[a]\nsource = '/one'"), Path("/cache"), {})
    assert (first.source, first.origin, len(first.exclude)) == ("/one", "/one", 1)
    assert re.fullmatch("/cache/a-[0-9a-f]{8}", first.target)
    assert len({first.target, second.target, other.target, fewer.target}) == 4


def test_what_only_modal_reaches_says_so_unless_the_variable_names_it() -> None:
    configured = data("[far]\nsource = 's3://corpus/v1'\n[kept]\nvolume = 'v'\n[near]\nsource = '/d'")
    far, kept, _ = here(configured, Path("/cache"), {})
    assert (far.target, kept.target) == ("", "")
    assert far.absent.startswith("it is in s3://corpus/v1, which only a box on Modal can read; set MEGACPP_DATA_FAR")
    assert kept.absent.startswith("it is in the volume v, which")
    named = here(configured, Path("/cache"), {"MEGACPP_DATA_FAR": "/f", "MEGACPP_DATA_NEAR": "/n"})
    assert [(one.target, one.source) for one in named] == [("/f", ""), ("", ""), ("/n", "")]
