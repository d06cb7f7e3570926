"""Owns what a sandbox is asked to be, in the client's words; must not know when it is created."""

import os
from typing import Any

from pytest_megacpp.recording.plan import Plan
from pytest_megacpp.surfaces.modal import client
from pytest_megacpp.surfaces.modal.config import HOME, PACKAGE_DIR, RUN_DIR, RUNS_DIR, ModalConfig

PLAN = f"{HOME}/plan.json"


def module_command(module: str) -> tuple[str, str, str]:
    """How a module of `pytest_megacpp.box` is run in any image."""
    return ("python3", f"{PACKAGE_DIR}/pytest_megacpp/box/remote/start.py", module)


def box_command(lease_s: float) -> tuple[str, ...]:
    """What the sandbox runs; `lease_s` 0: a box that needs no desk."""
    return (*module_command("remote.lease"), PLAN, RUN_DIR, f"{lease_s:g}", RUNS_DIR)


def sandbox_options(config: ModalConfig, plan: Plan, tags: dict[str, str], timeout_s: float) -> dict[str, Any]:
    """The arguments of `Sandbox.create` that are the same for every image and runtime."""
    cpu, memory_mib = config.machine(plan.ranks)
    return {
        **_network(config),
        "env": {"PYTHONPATH": PACKAGE_DIR, "PYTHONDONTWRITEBYTECODE": "1", "MEGACPP_RUN_ID": plan.run_id},
        "secrets": _secrets(config),
        "tags": tags,
        "volumes": {**_volumes(config, plan.run_id), **_buckets(config)},
        "gpu": None if plan.dry_run else plan.gpu,
        "cpu": cpu,
        "memory": memory_mib,
        "timeout": int(timeout_s),
        "workdir": HOME,
        "region": list(config.region) or None,
        "cloud": config.cloud,
    }


def _secrets(config: ModalConfig) -> list[Any]:
    modal = client.client()
    passed = {name: os.environ[name] for name in config.pass_env if name in os.environ}
    named = [modal.Secret.from_name(name, environment_name=config.environment) for name in config.secrets]
    return [*named, *([modal.Secret.from_dict(passed)] if passed else [])]


def _volumes(config: ModalConfig, run_id: str) -> dict[str, Any]:
    modal = client.client()
    return {
        volume.path: modal.Volume.from_name(
            volume.name, environment_name=config.environment, create_if_missing=volume.made
        ).with_mount_options(read_only=volume.read_only, sub_path=volume.directory or None)
        for volume in config.mounts(run_id)
    }


def _buckets(config: ModalConfig) -> dict[str, Any]:
    modal = client.client()
    mounts = {}
    for path, bucket in config.buckets().items():
        secret = bucket.secret and modal.Secret.from_name(bucket.secret, environment_name=config.environment)
        prefix = f"{bucket.prefix}/" if bucket.prefix else None
        mounts[path] = modal.CloudBucketMount(
            bucket.name, bucket_endpoint_url=bucket.endpoint_url, key_prefix=prefix, secret=secret, read_only=True
        )
    return mounts


def _network(config: ModalConfig) -> dict[str, Any]:
    network = config.network
    if network.is_open:
        return {}
    if not (network.cidrs or network.domains):
        return {"block_network": True}
    return {
        "outbound_cidr_allowlist": list(network.cidrs) or None,
        "outbound_domain_allowlist": list(network.domains) or None,
    }
