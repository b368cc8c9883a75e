"""Start two training runs on one folder at the same moment: one trains, the other is refused, and nothing is lost.

    python benchmarks/race.py --starts 20

The one that trains must end with bit for bit the weights, the best model and the history of a run that
was alone; the other must be refused in one line that names its process. Kept in
benchmarks/results/race.json. Needs a system with fork (not Windows).
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import accuracy  # noqa: E402
import kill  # noqa: E402

from training import RunningError  # noqa: E402

TRAINED, REFUSED, FAILED = 0, 3, 1


def start(folder, loaders, moment):
    """A process that trains in the folder from that moment on, and writes why it was refused; its number."""
    child = os.fork()
    if child == 0:
        code = FAILED
        try:
            time.sleep(max(0.0, moment - time.time()))
            kill.train(folder, loaders, kill.SEED)
            code = TRAINED
        except RunningError as problem:
            folder.with_suffix(".refused").write_text(str(problem), encoding="utf-8")
            code = REFUSED
        finally:
            os._exit(code)
    return child


def measure(starts):
    """Start so many pairs; return how many had one that trained and one that was refused, and lost nothing."""
    loaders = kill.make_loaders()
    counts = {"starts": starts, "one_trained": 0, "named": 0, "same_weights": 0}
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        kill.in_child(whole, loaders)
        expected = kill.outcome(whole)
        for number in range(1, starts + 1):
            run, moment = Path(folder) / f"run{number}", time.time() + 0.2
            children = [start(run, loaders, moment) for _ in range(2)]
            codes = {child: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children}
            if sorted(codes.values()) != [TRAINED, REFUSED]:
                continue
            counts["one_trained"] += 1
            winner = next(child for child, code in codes.items() if code == TRAINED)
            sentence = run.with_suffix(".refused").read_text(encoding="utf-8")
            counts["named"] += f"process {winner} on " in sentence and "\n" not in sentence
            counts["same_weights"] += kill.same(kill.outcome(run), expected) and not (run / "earlier-1").exists()
    return counts


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=20, metavar="N")
    options = parser.parse_args(arguments)
    if not hasattr(os, "fork"):
        parser.exit(2, "This needs a system with fork.\n")
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    result = measure(options.starts)
    print(
        "{starts} pairs started on one folder each: {one_trained} times one trained and the other was refused, {named}"
        " times in one line that names the first; {same_weights} ended with the weights of a run alone".format(**result)
    )
    if options.starts >= 20:
        accuracy.keep(result, accuracy.RESULTS / "race.json")
    return 0 if len(set(result.values())) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
