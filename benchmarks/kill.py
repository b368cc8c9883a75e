"""Kill a training run at random moments, and see that nothing is lost.

    python benchmarks/kill.py --kills 50

Each time a new process trains with `fit`, which saves after every (short) epoch, and is killed with
SIGKILL at a random moment. Then `last.pt` and `best_model.pt` must load, wherever they exist, and a
process that resumes, seeded otherwise, must end with bit for bit the weights, the best model and the
history of a run that was never killed. Kept in
benchmarks/results/kill.json. Needs a system with fork (not Windows).
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import accuracy  # noqa: E402

import checkpoint  # noqa: E402
import model as models  # noqa: E402
import training  # noqa: E402
import utils  # noqa: E402

EPOCHS, SEED = 40, 0


def train(folder, loaders, seed):
    """The run: a small network with dropout, a rate that changes every batch, a checkpoint an epoch."""
    utils.set_seed(seed)
    model = models.create_model(dropout=0.2)
    optimizer = utils.get_optimizer(model, "AdamW", 0.003)
    scheduler = utils.get_scheduler(optimizer, name="OneCycleLR", total_steps=EPOCHS * len(loaders[0]))
    options = {"epochs": EPOCHS, "scheduler": scheduler, "folder": folder, "resume": True, "verbose": False}
    training.fit(model, "cpu", *loaders, optimizer, utils.get_loss(), **options)


def in_child(folder, loaders, seed=SEED, kill_after=None):
    """Train in a process of its own; kill it after so many seconds, or wait for its end. True if it was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            train(folder, loaders, seed)
            code = 0
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status) != 0:
        raise RuntimeError("The training itself failed; its traceback is above.")
    return os.WIFSIGNALED(status)


def outcome(folder):
    """What a run ends with: the weights of its last and its best model, and its history without the times."""
    last, best = (checkpoint.load_checkpoint(folder / name) for name in (checkpoint.LAST, checkpoint.BEST))
    history = {name: values for name, values in last["history"].items() if name != "seconds"}
    return [*last["weights"].values(), *best["weights"].values()], history


def same(one, other):
    return one[1] == other[1] and all(map(torch.equal, one[0], other[0]))


def make_loaders():
    """Training and validation loader of the embedded digits."""
    return [
        utils.get_MNISTdataset_with_loader(
            split, {"batch_size": size, "shuffle": True}, dataset="digits", holdout="auto"
        )
        for split, size in (("train", 400), ("validation", 300))
    ]


def measure(kills):
    """Kill so many runs; return how many left what, and how many were resumed to the same weights."""
    loaders = make_loaders()
    dice = random.Random(SEED)
    counts = {"kills": kills, "before_the_first": 0, "loaded": 0, "temporary": 0, "same_weights": 0}
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        start = time.perf_counter()
        in_child(whole, loaders)
        seconds = time.perf_counter() - start
        expected = outcome(whole)
        for number in range(1, kills + 1):
            run = Path(folder) / str(number)
            delay = dice.uniform(0, seconds)
            while not in_child(run, loaders, kill_after=delay):  # it was quicker, and has ended
                shutil.rmtree(run)
                delay *= dice.random()
            kept = [run / name for name in (checkpoint.LAST, checkpoint.BEST) if (run / name).exists()]
            counts["before_the_first"] += not kept
            counts["temporary"] += any(run.glob(".*.tmp"))  # the kill came in the middle of a write
            for path in kept:
                checkpoint.load_model(path)  # raises where it is not whole
            counts["loaded"] += len(kept)
            # Where there is a checkpoint, the seed must come from it.
            in_child(run, loaders, seed=SEED + number if kept else SEED)
            counts["same_weights"] += same(outcome(run), expected)
    return {**counts, "epochs": EPOCHS, "seconds": seconds}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, metavar="N")
    options = parser.parse_args(arguments)
    if not hasattr(os, "fork"):
        parser.exit(2, "This needs a system with fork.\n")
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    result = measure(options.kills)
    print(
        "{kills} kills of a run of {seconds:.1f} s, {temporary} in the middle of a write, {before_the_first} before the"
        " first checkpoint; {loaded} checkpoints loaded;"
        " {same_weights} resumed to the same weights".format(**result)
    )
    if options.kills >= 50:
        accuracy.keep(result, accuracy.RESULTS / "kill.json")
    return 0 if result["same_weights"] == options.kills else 1


if __name__ == "__main__":
    sys.exit(main())
