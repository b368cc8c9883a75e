"""The README's table of what holds besides accuracy and speed, made from the kept results.

python benchmarks/claims.py
"""

import json
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def kept(name):
    """What a benchmark has kept."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table():
    """Markdown: what is claimed, what was measured, and the command that measures it again."""
    infer, kill, fuzz, report = (kept(name) for name in ("infer", "kill", "fuzz", "report"))
    photos, start = infer["photos"], infer["start"]
    rows = [
        (
            f"{photos['count']} photographs made of test digits, read rightly by a `fast2` Net",
            f"{photos['accuracy']:.1f} %, {photos['milliseconds']:.0f} ms each",
            "infer",
        ),
        (
            "`--infer` with one image from a cold start / importing torch and torchvision",
            f"{start['infer']:.2f} s / {start['imports']:.2f} s = {start['ratio']:.2f}",
            "infer",
        ),
        (
            f"{kill['kills']} runs killed at random moments, {kill['temporary']} of them in the middle of a write,"
            " resumed to the weights of a whole run",
            f"{kill['same_weights']} of {kill['kills']}",
            "kill",
        ),
        *(
            (
                f"{found['count']:,} damaged {kind}, refused in one line or used, each within"
                f" {max(found['slowest'], 0.01):.2f} s",
                f"{found['refused'] + found['used'] - len(found['failures']):,} of {found['count']:,}",
                "fuzz",
            )
            for kind, found in fuzz.items()
        ),
        (
            f"the report's page with all its figures, from {report['images']:,} test images",
            f"{report['seconds']:.0f} s",
            "time_report",
        ),
    ]
    lines = ["| what | measured | by |", "| --- | --- | --- |"]
    return "\n".join(lines + [f"| {what} | {found} | `benchmarks/{name}.py` |" for what, found, name in rows])


if __name__ == "__main__":
    print(table())
