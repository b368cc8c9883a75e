"""Every notebook that pytest runs is a smoke run: seconds, on the embedded digits."""

import os

os.environ["SMOKE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:  # several processes: more threads than cores would slow all of them
    os.environ.setdefault("OMP_NUM_THREADS", "1")
