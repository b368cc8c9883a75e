"""What the check cells of the notebooks say: `check("S1.2", answer)`, with a room for each session's exercises."""

from exercises.checking import check  # noqa: F401 (the notebooks import it from here)
