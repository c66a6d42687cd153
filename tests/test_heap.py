"""Memory of freed arrays stays with the process, whatever the environment has glibc do."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource
import numpy as np
from patchmorph.heap import keep_freed_memory
if {keep}:
    keep_freed_memory()
np.ones(2**17)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    np.ones(2**17)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(keep: bool) -> int:
    """Pages that the system clears for a hundred arrays of 1 MB, set as Dask sets its workers."""
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"}
    code = FAULTS.format(keep=keep)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no glibc")
def test_arrays_after_the_first_take_the_memory_of_freed_ones():
    freed = page_faults(keep=False)
    if freed < 100 * 128:
        pytest.skip("this C library returns nothing anyway")
    assert page_faults(keep=True) < freed / 10


RETURNED = """
import resource
import numpy as np
from patchmorph.heap import keep_freed_memory, return_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

keep_freed_memory()
arrays = [np.ones(2**17) for _ in range(200)]
used = arrays[::10]
del arrays
full = resident()
return_freed_memory({above})
print(full - resident(), all(one.all() for one in used))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no glibc")
@pytest.mark.parametrize(("above", "least", "most"), [(2**24, 0.5, 1.5), (2**30, -0.4, 0.4)])
def test_much_freed_memory_between_used_arrays_is_returned(above, least, most):
    """Of 200 MiB, 180 are freed; what the process itself takes meanwhile is far from half of it."""
    code = RETURNED.format(above=above)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    returned, kept = done.stdout.split()
    assert least <= int(returned) / (200 * 2**20) <= most
    assert kept == "True"
