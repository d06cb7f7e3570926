"""What nvidia-smi and the kernel log say, read from texts in their documented formats."""

import contextlib
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_megacpp.box.gpus import survey
from pytest_megacpp.box.gpus.survey import GpuProcess, GpuState, GpuSurvey, Links, Xid

H200_XML = """\
<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
	<timestamp>Wed Nov 25 10:00:00 2026</timestamp>
	<driver_version>570.86.15</driver_version>
	<cuda_version>12.8</cuda_version>
	<attached_gpus>1</attached_gpus>
	<gpu id="00000000:19:00.0">
		<product_name>NVIDIA H200</product_name>
		<mig_mode>
			<current_mig>Disabled</current_mig>
			<pending_mig>Disabled</pending_mig>
		</mig_mode>
		<uuid>GPU-a0</uuid>
		<gpu_recovery_action>None</gpu_recovery_action>
		<fb_memory_usage>
			<total>143771 MiB</total>
			<reserved>602 MiB</reserved>
			<used>62110 MiB</used>
			<free>81060 MiB</free>
		</fb_memory_usage>
		<compute_mode>Default</compute_mode>
		<ecc_mode>
			<current_ecc>Enabled</current_ecc>
			<pending_ecc>Enabled</pending_ecc>
		</ecc_mode>
		<ecc_errors>
			<volatile>
				<sram_correctable>7</sram_correctable>
				<sram_uncorrectable_parity>1</sram_uncorrectable_parity>
				<sram_uncorrectable_secded>0</sram_uncorrectable_secded>
				<dram_correctable>0</dram_correctable>
				<dram_uncorrectable>2</dram_uncorrectable>
			</volatile>
			<aggregate>
				<sram_correctable>7</sram_correctable>
				<sram_uncorrectable_parity>1</sram_uncorrectable_parity>
				<sram_uncorrectable_secded>0</sram_uncorrectable_secded>
				<dram_correctable>0</dram_correctable>
				<dram_uncorrectable>9</dram_uncorrectable>
				<sram_threshold_exceeded>No</sram_threshold_exceeded>
			</aggregate>
		</ecc_errors>
		<retired_pages>
			<pending_blacklist>N/A</pending_blacklist>
			<pending_retirement>N/A</pending_retirement>
		</retired_pages>
		<remapped_rows>
			<remapped_row_corr>0</remapped_row_corr>
			<remapped_row_unc>2</remapped_row_unc>
			<remapped_row_pending>Yes</remapped_row_pending>
			<remapped_row_failure>No</remapped_row_failure>
		</remapped_rows>
		<fabric>
			<state>Completed</state>
			<status>Success</status>
		</fabric>
		<processes>
			<process_info>
				<pid>4711</pid>
				<type>C</type>
				<process_name>/usr/bin/python3</process_name>
				<used_memory>61500 MiB</used_memory>
			</process_info>
			<process_info>
				<pid>12</pid>
				<type>G</type>
				<process_name>Xorg</process_name>
				<used_memory>N/A</used_memory>
			</process_info>
		</processes>
	</gpu>
</nvidia_smi_log>
"""
T4_XML = """\
<nvidia_smi_log>
	<driver_version>535.129.03</driver_version>
	<cuda_version>12.2</cuda_version>
	<gpu id="00000000:00:1E.0">
		<uuid>GPU-b0</uuid>
		<mig_mode><current_mig>N/A</current_mig></mig_mode>
		<fb_memory_usage><total>15360 MiB</total><used>0 MiB</used></fb_memory_usage>
		<compute_mode>Prohibited</compute_mode>
		<ecc_mode><current_ecc>Disabled</current_ecc></ecc_mode>
		<ecc_errors><volatile><sram_uncorrectable>N/A</sram_uncorrectable></volatile></ecc_errors>
		<retired_pages><pending_retirement>No</pending_retirement></retired_pages>
		<remapped_rows>N/A</remapped_rows>
		<processes></processes>
	</gpu>
</nvidia_smi_log>
"""
P100_ERRORS = """\
<nvidia_smi_log><gpu id="0"><ecc_errors><volatile>
	<single_bit><device_memory>4</device_memory><total>4</total></single_bit>
	<double_bit><device_memory>1</device_memory><register_file>1</register_file><total>2</total></double_bit>
</volatile></ecc_errors></gpu></nvidia_smi_log>
"""
TOPOLOGY = (
    "\t\x1b[4mGPU0\tGPU1\tGPU2\tNIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m\n"
    "GPU0\t X \tNV18\tNV18\tNODE\t0-47,96-143\t0\t\tN/A\n"
    "GPU1\tNV18\t X \tSYS\tPIX\t0-47,96-143\t0\t\tN/A\n"
    "GPU2\tNV18\tSYS\t X \tSYS\t48-95,144-191\t1\t\tN/A\n"
    "NIC0\tNODE\tPIX\tSYS\t X \t\t\t\t\n"
    "\nLegend:\n\n  X    = Self\n  NV#  = Connection traversing a bonded set of # NVLinks\n\n"
    "NIC Legend:\n\n  NIC0: mlx5_0\n"
)
PEERS = " \tGPU0\tGPU1\t\n GPU0\tX\tOK\t\n GPU1\tCNS\tX\t\n\nLegend:\n\n  X    = Self\n  OK   = Status Ok\n"
LINKS = (
    "GPU 0: NVIDIA H200 (UUID: GPU-a0)\n"
    "\t Link 0: 26.562 GB/s\n\t Link 1: 26.562 GB/s\n\t Link 2: <inactive>\n"
    "GPU 1: NVIDIA H200 (UUID: GPU-a1)\n"
    "\t Link 0: <inactive>\n"
    "GPU 2: Tesla T4 (UUID: GPU-b0)\n"
)
KERNEL_LOG = """\
4,812,5142893,-;NVRM: loading NVIDIA UNIX x86_64 Kernel Module  570.86.15
4,997,99142893,-;NVRM: Xid (PCI:0000:19:00): 31, pid=4711, name=python, Ch 00000008, MMU Fault
6,998,99142894,-;eth0: link becomes ready
4,999,99242893,-;NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.
"""


def test_a_gpu_and_its_users_are_read() -> None:
    driver, cuda, (state,) = survey.parse_state(H200_XML)
    assert (driver, cuda) == ("570.86.15", "12.8")
    assert state == GpuState(
        uuid="GPU-a0",
        bus_id="00000000:19:00.0",
        memory_mib=143771,
        used_mib=62110,
        ecc=True,
        uncorrected=3,
        uncorrected_ever=10,
        remap_pending=True,
        remap_failed=False,
        mig=False,
        compute_mode="Default",
        recovery="None",
        fabric="Completed",
        processes=(GpuProcess(4711, "C", "/usr/bin/python3", 61500), GpuProcess(12, "G", "Xorg", None)),
    )


def test_what_a_card_does_not_tell_is_none() -> None:
    _, _, (state,) = survey.parse_state("WARNING: infoROM is corrupted\n" + T4_XML + "WARNING: twice\n")
    assert (state.ecc, state.uncorrected, state.remap_pending, state.remap_failed) == (False, None, False, None)
    assert (state.mig, state.fabric, state.recovery, state.compute_mode) == (None, None, None, "Prohibited")


def test_older_cards_count_double_bits() -> None:
    assert survey.parse_state(P100_ERRORS)[2][0].uncorrected == 2


def test_the_matrices_are_read_without_network_cards() -> None:
    assert survey.parse_matrix(TOPOLOGY) == (("X", "NV18", "NV18"), ("NV18", "X", "SYS"), ("NV18", "SYS", "X"))
    assert survey.parse_matrix(PEERS) == (("X", "OK"), ("CNS", "X"))


def test_links_are_counted() -> None:
    assert survey.parse_links(LINKS) == (
        Links("GPU-a0", 2, 3, 26.562),
        Links("GPU-a1", 0, 1, None),
        Links("GPU-b0", 0, 0, None),
    )


def test_xids_are_found_in_the_kernel_log() -> None:
    assert survey.parse_xids(KERNEL_LOG) == (
        Xid("0000:19:00", 31, "pid=4711, name=python, Ch 00000008, MMU Fault"),
        Xid("0000:3b:00", 79, "GPU has fallen off the bus."),
    )
    assert survey.parse_xids("") == ()


@pytest.mark.parametrize("parse", [survey.parse_state, survey.parse_matrix, survey.parse_links])
@pytest.mark.parametrize(
    "said", ["", "No devices were found", "<html/>", "<nvidia_smi_log", "GPU0 GPU1\nGPU0 X", "\tGPU0\tGPU1\nGPU0\tX\n"]
)
def test_nonsense_is_refused(parse: Callable[[str], object], said: str) -> None:
    with pytest.raises(ValueError):
        parse(said)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(), st.integers(0, 400), st.sampled_from([H200_XML, TOPOLOGY, PEERS, LINKS]))
def test_any_damage_is_read_or_refused_as_a_value(noise: str, at: int, text: str) -> None:
    for parse in (survey.parse_state, survey.parse_matrix, survey.parse_links):
        with contextlib.suppress(ValueError):
            parse(text[:at] + noise + text[at + 5 :])
    survey.parse_xids(noise)


ANSWERS = {survey.STATE: H200_XML, survey.TOPOLOGY: TOPOLOGY, survey.PEERS: PEERS, survey.LINKS: LINKS}


def test_everything_is_asked() -> None:
    found = survey.ask(lambda command: ANSWERS[tuple(command)], lambda: KERNEL_LOG)
    assert (found.driver, found.cuda, len(found.states)) == ("570.86.15", "12.8", 1)
    assert found.topology is not None
    assert found.peers is not None
    assert found.links is not None
    assert found.xids is not None


def test_a_question_without_an_answer_costs_only_its_own_fields() -> None:
    def answer(command: Sequence[str]) -> str:
        if "topo" in command:
            raise subprocess.CalledProcessError(255, list(command), "invalid option")
        return ANSWERS[tuple(command)]

    found = survey.ask(answer, lambda: None)
    assert (found.topology, found.peers, found.xids) == (None, None, None)
    assert found.driver == "570.86.15"
    assert survey.ask(lambda _: "", lambda: None) == GpuSurvey()


def test_the_kernel_log_is_read_where_it_may_be(tmp_path: Path) -> None:
    (tmp_path / "kmsg").write_text(KERNEL_LOG)
    assert survey.read_kernel_log(str(tmp_path / "kmsg")) == KERNEL_LOG
    assert survey.read_kernel_log(str(tmp_path / "absent")) is None
