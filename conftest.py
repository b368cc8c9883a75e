"""Every notebook that pytest runs is a smoke run: seconds, on the embedded digits."""

import os

os.environ["SMOKE"] = "1"
