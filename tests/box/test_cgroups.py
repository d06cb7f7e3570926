"""Which control groups a process is in, and that a refusal is an answer too."""

import os
from pathlib import Path
from typing import Any

import pytest

from pytest_megacpp.box.host import memory, oom
from pytest_megacpp.box.host.cgroups import Membership, memberships
from pytest_megacpp.box.host.kernel_identity import names_gvisor


def test_lines_of_both_versions(tmp_path: Path) -> None:
    file = tmp_path / "cgroup"
    file.write_text("4:memory,hugetlb:/box\n1:name=systemd:/init:scope\n0::/machine\n")
    v1, named, v2 = memberships(file)
    assert (v1, v1.is_v2, v1.counts_memory) == (Membership(("memory", "hugetlb"), "/box"), False, True)
    assert (named.path, named.counts_memory) == ("/init:scope", False)
    assert (v2, v2.is_v2, v2.counts_memory) == (Membership((), "/machine"), True, True)


def test_odd_lines_and_a_missing_file_are_nothing(tmp_path: Path) -> None:
    file = tmp_path / "cgroup"
    assert list(memberships(file)) == []
    file.write_bytes(b"\n7\nmemory:/\n\xff\xff:memory:/box\n")
    assert [member.path for member in memberships(file)] == ["/box"]


def test_groups_that_may_not_be_looked_at_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where /sys/fs/cgroup has mode 0700; root could look, so the refusal is made here."""
    look = os.stat

    def refuse(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        if isinstance(path, str | Path) and str(path).startswith(f"{tmp_path}/sys"):
            raise PermissionError(13, "Permission denied", str(path))
        return look(path, *args, **kwargs)

    membership = tmp_path / "cgroup"
    membership.write_text("4:memory:/box\n0::/machine\n")
    group = tmp_path / "sys/machine"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("1\n")
    (group / "memory.events").write_text("oom_kill 0\n")
    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(PermissionError):
        os.stat(group)
    assert list(memory.cgroups(tmp_path / "sys", membership)) == []
    assert not oom.OomWitness(tmp_path / "sys", membership, gvisor=False).counts
    assert not names_gvisor("6.12.0", "#1 SMP", tmp_path / "sys", lambda: "")
