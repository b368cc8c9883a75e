"""Which numbers in the notebooks' text stand neither in their outputs nor in their code?

    python benchmarks/prose.py

Looked at are, in Markdown cells, numbers with a decimal point, a unit, a percent sign or a thousands separator, those
from 100 on, and both of "41 of 1,009"; not code, years, or how long an exercise takes. A number is explained where the
same notebook prints it, or has it in its code, rounded no more than the text rounds; or in ELSEWHERE, which says where
it comes from. The exit code is 1 when one is unexplained.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Notebook → number as the text writes it → where it comes from
ELSEWHERE = {}

NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?(?:e-?\d+)?"
UNITS = (
    r"%|°|points?\b|s\b|ms\b|seconds?\b|minutes?\b|hours?\b|times\b|pixels?\b|images?\b|epochs?\b|batch(?:es)?\b|digits?\b"
    r"|parameters?\b|weights?\b|biases\b|units?\b|numbers?\b|steps?\b|trials?\b|maps?\b|KB\b|MB\b|GB\b"
)
LOOKED_AT = re.compile(rf"(?<![\w.,/-])({NUMBER})(?!\w|\.\d)(?=(\s*-?(?:{UNITS})|\s+of\s+\d)?)")
LEFT_OUT = re.compile(
    r"```.*?```|`[^`]*`|\]\([^)]*\)|<[^>]*>|^#+ .*?$|\*(?:easy|medium|hard), \d+ minutes\*|^\*\*Time:\*\*.*?$"
    rf"|(?<![\d,.])(?:19|20)\d\d(?![\d,.]?\d|\s*(?:{UNITS}))",
    re.DOTALL | re.MULTILINE,
)


def told(text):
    """The numbers of a Markdown text that want an explanation, as it writes them."""
    text = LEFT_OUT.sub(" ", text.replace("{,}", ","))
    found = []
    for match in LOOKED_AT.finditer(text):
        number = match[1]
        if "." in number or "," in number or match[2] or value(number) >= 100 or text[: match.start()].endswith(" of "):
            found.append(number + ("%" if re.match(r"\s*%", text[match.end() :]) else ""))
    return found


def value(number):
    return float(number.rstrip("%").replace(",", ""))


def explained(number, known):
    """Is it one of the known numbers, rounded to as many places? A share may be known for a percentage."""
    digits = re.match(r"[\d,]*\.?(\d*)", number)[1]
    half = 0.5000001 * 10.0 ** -len(digits)
    factors = (1, 100) if number.endswith("%") else (1,)
    return any(abs(factor * each - value(number)) <= half for each in known for factor in factors)


def unexplained(notebook, elsewhere=()):
    """The numbers in the text of a notebook (its JSON) that nothing explains, in order."""
    known, texts = set(), []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            texts.append(source)
            continue
        printed = [source]
        for output in cell["outputs"]:
            printed.append("".join(output.get("text", "")))
            printed += ["".join(data) for kind, data in output.get("data", {}).items() if kind.startswith("text/")]
        for text in printed:
            known.update(value(number) for number in re.findall(NUMBER, text.replace("_", "")))
    numbers = [number for text in texts for number in told(text)]
    return [number for number in numbers if number not in elsewhere and not explained(number, known)]


def main():
    found = 0
    for path in sorted(ROOT.glob("S[0-9].ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for number in unexplained(notebook, ELSEWHERE.get(path.stem, ())):
            print(f"{path.name}: {number}")
            found += 1
    print(f"{found} unexplained")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
