"""The tables of both READMEs, made from the kept results, and the durations that the sessions name.

    python benchmarks/claims.py            # the table of what holds besides accuracy and speed
    python benchmarks/claims.py --write    # all tables, into both READMEs; durations, into the sessions

A table stands between `<!-- name: … -->` and `<!-- end -->`; tests/test_readme.py compares each with its results.
"""

import argparse
import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import accuracy  # noqa: E402
import cost  # noqa: E402
import speed  # noqa: E402
import tries  # noqa: E402

MAKERS = {  # kept result → the command that makes it
    "infer": "infer.py",
    "handwriting": "handwriting.py FOLDER",
    "pages": "page.py",
    "nondigits": "nondigits.py --digits FOLDER",
    "kill": "kill.py --kills 50",
    "race": "race.py --starts 20",
    "fuzz": "fuzz.py --count 1000",
    "report": "time_report.py",
    "cost": "cost.py",
    "sessions": "pictures.py --times",
}


def kept(name):
    """What a benchmark has kept. Raises FileNotFoundError, which names the command, where it has not been run."""
    path = accuracy.RESULTS / f"{name}.json"
    if not path.exists():
        maker = MAKERS.get(name) or f"accuracy.py --recipe {name.removeprefix('accuracy-')} --seeds 5"
        raise FileNotFoundError(f"{path.name} is missing: make it by `python benchmarks/{maker}`.")
    return json.loads(path.read_text(encoding="utf-8"))


def on(result):
    """The device of a kept result, in brackets, where it is noted."""
    return f" ({accuracy.where(result['device'])})" if "device" in result else ""


def table():
    """Markdown: what is claimed, what was measured, and the command that measures it again."""
    infer, kill, race, fuzz, report = (kept(name) for name in ("infer", "kill", "race", "fuzz", "report"))
    photos, start = infer["photos"], infer["start"]
    rows = [
        (
            f"{photos['count']} photographs made of test digits, classified correctly by the default network",
            f"{photos['accuracy']:.1f} %, {photos['milliseconds']:.0f} ms each{on(infer)}",
            "infer",
        ),
        (
            "`--infer` with one image from a cold start / importing torch and torchvision",
            f"{start['infer']:.2f} s / {start['imports']:.2f} s = {start['ratio']:.2f}{on(infer)}",
            "infer",
        ),
        (
            f"{kill['kills']} runs killed at random moments, {kill['temporary']} of them in the middle of a write,"
            " resumed to the weights of an uninterrupted run",
            f"{kill['same_weights']} of {kill['kills']}",
            "kill",
        ),
        (
            f"{race['starts']} pairs of runs started in one folder at the same moment: one is refused in one line that"
            " names the other, which ends with the weights of a run alone",
            f"{min(race['one_trained'], race['named'], race['same_weights'])} of {race['starts']}",
            "race",
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
            f"{report['seconds']:.0f} s{on(report)}",
            "time_report",
        ),
    ]
    cells = ((what, found, f"`benchmarks/{name}.py`") for what, found, name in rows)
    return accuracy.markdown(("what", "measured", "by"), *cells)


LEAST = 10  # images of a source whose share is named


def handwriting():
    """Markdown: how real and simulated handwriting is read, with what was asked of it before it was measured."""
    hand, infer, pages, others = (kept(name) for name in ("handwriting", "infer", "pages", "nondigits"))

    def share(pair):
        return f"{100 * pair[0] / pair[1]:.1f} % ({pair[0]:,} of {pair[1]:,})"

    worst = next(pair for pair in hand["own_sources"] if pair[1] >= LEAST)
    all_pages, pairs = pages["pages"]["kinds"]["all"], pages["pairs"]
    touching = pages["touching"]["kinds"]["all"]
    kinds = {
        kind: (found["refused"] + found["no digit"], found["count"]) for kind, found in others["non-digits"].items()
    }
    reached = [kind for kind, (caught, count) in kinds.items() if caught >= 0.8 * count]
    missed = ", ".join(
        f"{kind} {100 * caught / count:.0f} %" for kind, (caught, count) in kinds.items() if kind not in reached
    )
    caught = tuple(map(sum, zip(*kinds.values(), strict=True)))
    photos, large = infer["photos"], infer["large"]
    rows = (
        ("own digits read rightly (photographed, scanned, drawn)", share(hand["own"]), "≥ 98.8 %"),
        ("the same, those called no digit counted as wrong", share((hand["own_said"], hand["own"][1])), ""),
        ("all, Semeion included, so counted", share((hand["all_said"], hand["all"])), ""),
        (f"the worst of their sources with at least {LEAST} images", share(worst), "≥ 93 %"),
        ("Semeion, 16×16, cropped to the digit", share(hand["categories"]["classical 16x16"]), "≥ 85 %"),
        ("of all answers above 99 %: right", share(hand["sure"]), "≥ 99.8 %"),
        ("own digits refused or called no digit", share((hand["own_refused"], hand["own"][1])), "≤ 1 %"),
        ("Semeion's digits included", share((hand["all_refused"], hand["all"])), ""),
        (
            "photographs made of test digits read rightly",
            share((round(photos["count"] * photos["accuracy"] / 100), photos["count"])),
            "≥ 99.8 %",
        ),
        ("what is no digit called so, or refused as blank or as several digits, of all kinds", share(caught), ""),
        (f"kinds of it of which at least 80 % are; the others: {missed}", f"{len(reached)} of {len(kinds)}", "all"),
        (
            f"{all_pages['pages']} pages made of 5 to 60 test digits: digits found and read in the right order",
            share((all_pages["read"], all_pages["digits"])),
            "≥ 98 %",
        ),
        ("of these pages: found where there is no digit", f"{all_pages['false']}", ""),
        ("pages of pairs that touch", share((touching["read"], touching["digits"])), ""),
        ("two digits where one was asked for: noticed", share((pairs["noticed"], pairs["count"])), ""),
        (
            "a photograph of 12 megapixels read as one digit / decoded",
            f"{large['reading'] / large['decoding']:.2f}",
            "≤ 3",
        ),
        (
            "searched for every digit / decoded",
            f"{large['reading all'] / large['decoding']:.2f}",
            "≤ 3",
        ),
    )
    return accuracy.markdown(("measure", "measured", "target"), *rows)


SMALL = {  # recipe → what was asked of its mean test accuracy (%), before any was measured
    "small": ("`SmallNet`, fewer than 20,000 parameters, at most 20 epochs", 99.65),
    "tiny": ("`TinyNet`, fewer than 8,000 parameters, at most 20 epochs", 99.55),
    "tiny1": ("`TinyNet`, 1 epoch", 99.15),
    "micro": ("`MicroNet`, at most 1,500 parameters, at most 40 epochs", 99.00),
    "small4": ("`SmallNet`, as many epochs as it needs to pass 99.4 %", 99.40),
}


def small():
    """Markdown: the small networks, what was asked of them, and what they reached."""
    rows = []
    for recipe, (what, target) in SMALL.items():
        result = kept(f"accuracy-{recipe}")
        verdict = "reached" if result["mean"] >= target else "missed"
        rows.append((what, f"≥ {target:.2f}", accuracy.spread(result), f"{result['n']}", verdict))
    return accuracy.markdown(("network", "target (%)", "test accuracy (%)", "seeds", ""), *rows)


def sessions(text):
    """The table of the sessions, with the minutes in its last two columns."""
    for session, found in speed.durations(kept("sessions"), speed.kept()).items():
        cells = " | ".join(speed.NOT_MEASURED if time is None else f"{time:.0f} min" for time in found)
        text = re.sub(rf"^(\| \[`{session}`\].*?)( \|[^|\n]*){{2}} \|$", rf"\1 | {cells} |", text, flags=re.M)
    return text


TWO_CORES = ("S5", "S6")  # the sessions whose kept run had two


def time_line(session):
    """What the first cell of a session says about its duration."""
    with_bf16, without = speed.durations(kept("sessions"), speed.kept())[session]
    other = "" if without is None else f", about {without:.0f} without"
    cores = "two CPU cores" if session in TWO_CORES else "one CPU core"
    return f"**Time:** {with_bf16:.0f} minutes on {cores} with bfloat16 arithmetic{other}; seconds with `SMOKE=1`."


FIRST = (  # the recipes in README.md
    *("mlp", "cnn", "image-classifier", "s5", "fast1", "fast2"),
    *("small", "small4", "tiny", "tiny1", "micro", "torchnn"),
)
SECTIONS = {  # file → name → what makes the section of its present text
    "README.md": {
        "sessions": sessions,
        "cpus": lambda _: speed.essentials(speed.kept()),
        "accuracy": lambda _: accuracy.table(FIRST, short=True),
    },
    "benchmarks/README.md": {
        "accuracy": lambda _: accuracy.table(),
        "small": lambda _: small(),
        "tries": lambda _: tries.table(tries.read()),
        "speed": lambda _: speed.report(speed.kept()),
        "cost": lambda _: cost.table(kept("cost")),
        "handwriting": lambda _: handwriting(),
        "claims": lambda _: table(),
    },
}


def section(name):
    """What finds a section of this name: its marker, its text, and the end marker, as three groups."""
    return re.compile(rf"(<!-- {name}: .*?-->\n)((?:(?!<!--).)*?)\n?(<!-- end -->)", re.DOTALL)


def write(root=HERE.parent):
    """Bring all sections of both files up to date."""
    for file, makers in SECTIONS.items():
        path = root / file
        text = path.read_text(encoding="utf-8")
        for name, make in makers.items():
            text = section(name).sub(lambda found, make=make: f"{found[1]}{make(found[2])}\n{found[3]}", text)
        path.write_text(text, encoding="utf-8")
    for path in root.glob("S[0-9].ipynb"):
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub(r"\*\*Time:\*\*[^\"\\]*", time_line(path.stem), text), encoding="utf-8")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="bring the tables in both READMEs up to date")
    options = parser.parse_args(arguments)
    try:
        write() if options.write else print(table())
    except FileNotFoundError as problem:
        parser.exit(2, f"{problem}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
