"""What is recorded of the machine."""

from __future__ import annotations

import getpass
import platform
import socket
import subprocess
import sys
from importlib.metadata import version

from hfcompress.environment import environment_record, parse_cpuinfo

X86 = "processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\nflags\t\t: fpu avx2 avx512_vnni\n\nmodel name\t: B\n"
ARM = "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd asimddp i8mm\n"


def test_x86() -> None:
    """The first processor's name and flags are read."""
    assert parse_cpuinfo(X86) == ("Some CPU @ 2.00GHz", frozenset({"fpu", "avx2", "avx512_vnni"}))


def test_arm() -> None:
    """ARM tells features and no name."""
    assert parse_cpuinfo(ARM) == ("", frozenset({"fp", "asimd", "asimddp", "i8mm"}))


def test_no_cpuinfo() -> None:
    """Systems without `/proc/cpuinfo` tell nothing there."""
    assert parse_cpuinfo("") == ("", frozenset())


def test_record() -> None:
    """The record names library versions, Python, the processor and the threads."""
    record = environment_record(threads=3)
    expected = (version("torch"), version("transformers"), platform.python_version(), 3)
    assert expected == (record["torch"], record["transformers"], record["python"], record["threads"])
    assert record["cpu"]


def test_no_names() -> None:
    """Neither the host nor the user is part of the record."""
    values = {str(value) for value in environment_record(threads=1).values()}
    assert not {socket.gethostname(), getpass.getuser()} & values


def test_no_torch_import() -> None:
    """Versions come from the installed metadata, not from importing the libraries."""
    script = "import hfcompress.environment as e, sys; e.environment_record(1); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout == "False\n"
