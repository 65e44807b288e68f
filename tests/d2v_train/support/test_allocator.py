import subprocess
import sys

import pytest

from d2v_train.support import allocator
from d2v_train.support.allocator import keep_freed_memory


# Page faults of repeated allocations of one large block, before and after.
PROGRAM = """
import ctypes, resource, sys
from d2v_train.support.allocator import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        block = libc.malloc(ctypes.c_size_t(40 * 2**20))
        ctypes.memset(block, 1, 40 * 2**20)
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
plain = faults()
assert keep_freed_memory()
faults()
kept = faults()
print(plain, kept)
"""


def test_memory_that_was_freed_is_used_again_without_new_pages(project_root):
    run = [sys.executable, "-c", PROGRAM]
    paths = {"PYTHONPATH": f"{project_root}:{project_root / 'recipes'}", "PATH": "/usr/bin"}
    out = subprocess.run(run, env=paths, capture_output=True, text=True, check=True).stdout
    plain, kept = map(int, out.split())
    assert kept < plain / 20


@pytest.mark.parametrize(
    "environment", [{"D2V_KEEP_FREED_MEMORY": "0"}, {"LD_PRELOAD": "/usr/lib/libtcmalloc_minimal.so.4"}]
)
def test_it_can_be_told_not_to(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("the allocator was changed"))
    assert keep_freed_memory() is None


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("musl", "1.2"))
    assert keep_freed_memory() is None
