"""Train a network, and read your own digits with it, from the command line.

examples:
  python torchnn.py --train                               train SmallNet for 20 epochs, keep the best model
  python torchnn.py --train --arch CNN --epochs 5 --optimizer Adam --lr 0.001
  python torchnn.py --train --resume                      continue a run that was stopped
  python torchnn.py --infer seven.jpg                     which digit is it?
  python torchnn.py --infer *.png --top 3 --json
  python torchnn.py --infer page.jpg --all                every digit of a page
  python torchnn.py --infer seven.jpg --save-figure seen.png
  python torchnn.py --evaluate                            the best model on the test set
  python torchnn.py --evaluate --report report            the same with all figures, as a page
  python torchnn.py --export net.onnx                     for ONNX Runtime
"""

import argparse
import glob
import itertools
import json
import math
import os
import sys
import warnings
from importlib import import_module
from pathlib import Path

try:
    import torch

    from checkpoint import BEST, LAST, CheckpointError, keep_novelty, load_checkpoint, load_model, write_atomically
    from model import ARCHITECTURES
    from novelty import is_digit
    from pages import READING_SIZE
    from predict import FRAME, ImageError, predict, predict_all, read_image, upright_size
except KeyboardInterrupt:  # these imports take a second or two
    sys.exit(130)

FOLDER = Path(__file__).parent / "checkpoints"
SETTINGS = ("arch", "epochs", "patience", "batch_size", "lr", "optimizer", "scheduler", "seed")  # kept with a run
RATES = {"SGD": 0.01, "Adam": 0.001, "RMSprop": 0.001}  # without --lr; for the recipe's optimizer its own rate
WITHOUT_BATCH_NORM = ("Net", "CNN", "ImageClassifier", "MLP")  # they want a smaller rate than the others
PLANNED = ("OneCycleLR", "CosineAnnealingLR")  # these schedules are made for a number of epochs


# ------------------------------------------------------------------------------------------------
# --train
# ------------------------------------------------------------------------------------------------


def train_command(options):
    """Train, keep the run in the folder, and print the best model's loss and accuracies on the test set."""
    import utils  # here and below, since --infer starts sooner without it
    from training import fit, recipe_loader, recipe_model, recipe_scheduler

    folder, device = Path(options.folder), options.device
    settings = _settings(options, folder / LAST)
    recipe = _recipe(settings)
    print(f"Device: {utils.describe_device(device)}")
    utils.set_seed(settings["seed"])
    train_loader, validation_loader, test_loader = (
        recipe_loader(recipe, split, **_data(options)) for split in ("train", "validation", "test")
    )
    data = train_loader.dataset.name
    if settings.setdefault("data", data) != data:
        kept = settings["data"][:50]
        raise ValueError(f"The run in {folder} was trained on {kept!r}, and this is {data!r}: give the same --dataset.")
    print(f"{train_loader.dataset}; {len(validation_loader.dataset):,} for validation")
    model = recipe_model(recipe).to(device)
    optimizer = utils.get_optimizer(model, **recipe["optimizer"])
    history = fit(
        model,
        device,
        train_loader,
        validation_loader,
        optimizer,
        utils.get_loss(recipe["loss"]),
        epochs=recipe["epochs"],
        scheduler=recipe_scheduler(recipe, optimizer, len(train_loader)),
        folder=folder,
        patience=settings["patience"],
        resume=options.resume,
        settings=settings,
    )
    losses = history["validation_loss"]
    print(f"Best model: epoch {1 + losses.index(min(losses))}, kept as {folder / BEST}")
    model = load_model(folder / BEST, device)
    _learn_digits(folder / BEST, model, train_loader.dataset, validation_loader.dataset)
    _print_results(model, device, test_loader)


def _learn_digits(path, model, digits, held_out):
    """Learn what is no digit, where the data are digits, and keep that in the checkpoint too."""
    from novelty import learn_digits

    if digits.classes == held_out.classes == [str(digit) for digit in range(10)]:
        learn_digits(model, digits, held_out)
        keep_novelty(path, model.novelty)


def _settings(options, last):
    """The run's settings: as given, else as in the checkpoint to resume, else as in the recipe."""
    given = {name: getattr(options, name) for name in SETTINGS if name in options.given}
    if options.resume and last.exists():
        settings = _kept_settings(last)
        for name, value in given.items():
            planned = name == "epochs" and settings["scheduler"] in PLANNED
            if settings[name] != value and (planned or name not in ("epochs", "patience")):
                flag = _flag(name)
                raise ValueError(
                    f"The run in {last.parent} has {flag} {settings[name]}, not {value}: leave out {flag} to continue"
                    " it, or leave out --resume to start a new run."
                )
        return settings | given
    if options.resume:
        print(f"There is no {last} to resume: starting with the first epoch.")
    settings = _defaults(given.get("arch")) | given
    if "lr" not in given:
        settings["lr"] = _rates(settings["arch"])[settings["optimizer"]]
    return settings


def _kept_settings(last):
    """The settings in a checkpoint, each as the parser takes it for an option; anything else in it is left out."""
    kept, reader = load_checkpoint(last)["settings"], parser()

    def refuse(message):
        raise ValueError(message)

    reader.error = refuse
    try:
        given = {name: kept[name] for name in SETTINGS if name != "patience" or kept[name] is not None}
        if not all(isinstance(value, str | int | float) for value in (*given.values(), kept["data"])):
            refuse("A setting is a word or a number.")
        options = reader.parse_args(["--train", *(f"{_flag(name)}={value}" for name, value in given.items())])
    except (KeyError, ValueError):
        raise CheckpointError(
            f"{last} can't be resumed: it lacks the settings that torchnn.py keeps. Leave out --resume to start a new"
            " run."
        ) from None
    return {name: getattr(options, name) for name in SETTINGS} | {"data": str(kept["data"])}


def _base(arch=None):
    """The recipe that the options change: one for each kind of network; None is the default network."""
    from training import RECIPES

    return RECIPES["torchnn-net" if arch in WITHOUT_BATCH_NORM else "torchnn"]


def _defaults(arch=None):
    """The settings of the recipe, and those that no recipe has."""
    recipe = _base(arch)
    return {
        "arch": arch or recipe["arch"],
        "epochs": recipe["epochs"],
        "patience": None,
        "batch_size": recipe["batch_size"],
        "lr": recipe["optimizer"]["learningrate"],
        "optimizer": recipe["optimizer"]["optname"],
        "scheduler": recipe["scheduler"]["name"],
        "seed": 1,
    }


def _rates(arch=None):
    """The default learning rate of each optimizer, for this network."""
    defaults = _defaults(arch)
    return RATES | {defaults["optimizer"]: defaults["lr"]}


def _recipe(settings):
    """The recipe with the run's settings in place of its own."""
    recipe, epochs, name = _base(settings["arch"]), settings["epochs"], settings["scheduler"]
    optimizer, schedule = recipe["optimizer"], recipe["scheduler"]
    if settings["optimizer"] != optimizer["optname"]:
        optimizer = {"optname": settings["optimizer"]}
    if name != schedule["name"]:
        steps = {"StepLR": max(1, 3 * epochs // 4), "CosineAnnealingLR": epochs, "ReduceLROnPlateau": 2}
        schedule = None if name == "none" else {"name": name, "stepsize": steps[name]}
    own = {key: settings[key] for key in ("arch", "epochs", "batch_size")}
    return {**recipe, **own, "optimizer": {**optimizer, "learningrate": settings["lr"]}, "scheduler": schedule}


def _data(options):
    """The options of the loaders: which data, where, and on which device."""
    from dataset import DigitsInstead

    warnings.simplefilter("always", DigitsInstead)  # main shows no other warning
    return {"dataset": options.dataset, "root": options.data, "holdout": "auto", "device": options.device}


# ------------------------------------------------------------------------------------------------
# --evaluate
# ------------------------------------------------------------------------------------------------


def evaluate_command(options):
    """Print a checkpoint's loss and accuracies on the test set, as lines or JSON, or write the page of figures."""
    from training import recipe_loader

    model, device = _load(options), options.device
    normalised = dict(zip(("mean", "std"), model.normalisation, strict=True))  # all that a test loader needs
    test_loader = recipe_loader(normalised, "test", **_data(options))
    if options.report is None:
        _print_results(model, device, test_loader, options.json)
        return
    from insights.report import write_report

    page = write_report(
        model,
        options.report,
        test_loader=test_loader,
        validation_loader=recipe_loader(normalised, "validation", **_data(options)),
        device=device,
        name=model.architecture,
    )
    print(f"Report: {page}")


def _load(options):
    """The checkpoint's model, on the device; it must read 28×28 images into ten digits."""
    path = options.checkpoint or Path(options.folder) / BEST
    model = load_model(path)
    try:  # on the CPU: what fails on a GPU may be the GPU's fault
        with torch.no_grad():
            fits = model(torch.zeros(2, 1, FRAME, FRAME)).shape == (2, 10)
    except (ValueError, RuntimeError):
        fits = False
    if not fits:
        raise CheckpointError(
            f"{path} holds a network that does not read images of 28×28 into ten digits: use another checkpoint."
        )
    return model.to(options.device)


def _print_results(model, device, loader, as_json=False):
    from training import evaluate

    loss, accuracy, digits = evaluate(model, device, loader)
    if as_json:
        print(json.dumps({"data": str(loader.dataset), "loss": loss, "accuracy": accuracy, "digits": digits}))
        return
    print(f"{loader.dataset}: loss {loss:.4f}, accuracy {accuracy:.2f} %")
    print("  ".join(f"{digit}: {value:.1f} %" for digit, value in zip(loader.dataset.classes, digits, strict=True)))


# ------------------------------------------------------------------------------------------------
# --infer
# ------------------------------------------------------------------------------------------------


def infer_command(options):
    """Print the digit, its probability and the runners-up of each image; 2 if any can't be used."""
    names = _expanded(options.infer)
    figures = _page_figures(options, names) if options.all else {None: options.save_figure}
    for figure in figures.values():
        _keep_inputs(figure, *names)
    model = _load(options)
    answers, code = [], 0
    for name in names:
        try:
            if options.all:
                readings = predict_all(model, name)
            else:
                probabilities, prepared = predict(model, name)
        except (OSError, ImageError) as problem:
            _complain(_explained(problem, options))
            code = 2
            continue
        if options.all:
            answers.append((figures[name], name, readings))
            _print_readings(name, readings, options.json)
            continue
        order = probabilities.argsort(descending=True)[: options.top].tolist()
        top = [{"digit": digit, "probability": probabilities[digit].item()} for digit in order]
        known = is_digit(model, prepared)
        answers.append((name, prepared, probabilities, known))
        if options.json:
            print(json.dumps({"image": name, **top[0], "top": top, "no_digit": not known}), flush=True)
        elif not known:
            print(f"{name}: no digit (nearest: {top[0]['digit']})", flush=True)
        else:
            first, *others = (f"{t['digit']} ({100 * t['probability']:.1f} %)" for t in top)
            print(f"{name}: {first}" + (f", else {', '.join(others)}" if others else ""), flush=True)
    if options.save_figure and answers:
        written = (_save_pages if options.all else _save_figure)(Path(options.save_figure), answers)
        if not options.json:
            print(*(f"Figure: {path}" for path in written), sep="\n")
    return code


def _print_readings(name, readings, as_json):
    """The digits of an image: the lines of writing as they stand, a question mark for what is no digit; or JSON."""
    if as_json:
        digits = [
            {"digit": r.digit, "probability": r.probability, "box": r.box, "line": r.line, "no_digit": not r.is_digit}
            for r in readings
        ]
        print(json.dumps({"image": name, "digits": digits}), flush=True)
        return
    known = sum(reading.is_digit for reading in readings)
    digits, others = "digit" if known == 1 else "digits", len(readings) - known
    marks = f", and {others} other mark{'s' if others > 1 else ''} (?)" if others else ""
    print(f"{name}: {known} {digits}{marks}", flush=True)
    for _, line in itertools.groupby(readings, key=lambda reading: reading.line):
        line = list(line)
        doubtful = [f"{r.digit} ({100 * r.probability:.0f} %)" for r in line if r.is_digit and r.probability < 0.9]
        seen = " ".join(str(r.digit) if r.is_digit else "?" for r in line)
        print(f"  {seen}" + (f"   less sure: {', '.join(doubtful)}" if doubtful else ""), flush=True)


def _expanded(names):
    """The names, patterns such as *.png replaced by the files that match: on Windows no shell has done it."""
    found = [[] if os.path.exists(name) else sorted(glob.glob(name)) for name in names]
    return [file for name, files in zip(names, found, strict=True) for file in files or [name]]


def _keep_inputs(output, *inputs):
    """Refuse an output file that is one of the inputs."""
    if output is not None and Path(output).resolve() in {Path(name).resolve() for name in inputs}:
        raise ValueError(f"{output} is an input and would be overwritten: write to another file.")


def _save_figure(path, answers):
    """A row for each image: the original, what the network saw, and the ten probabilities."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from plots import TEST_STYLE, styled

    with styled():
        figure, axes = plt.subplots(
            len(answers), 3, figsize=(9, 2.9 * len(answers)), layout="constrained", squeeze=False
        )
        for (left, middle, right), (name, prepared, probabilities, known) in zip(axes, answers, strict=True):
            left.imshow(read_image(name), cmap="gray", vmin=0, vmax=1)
            middle.imshow(prepared, cmap="gray", vmin=0, vmax=1, extent=(0, FRAME, FRAME, 0))
            bars = right.bar(range(10), 100 * probabilities, color=TEST_STYLE["color"])
            right.bar_label(bars, [f"{100 * p:.0f}" if p >= 0.005 else "" for p in probabilities])
            right.set(xlabel="digit", ylabel="probability (%)", xticks=range(10), ylim=(0, 112))
            right.set_title(("read as {}" if known else "no digit (nearest: {})").format(int(probabilities.argmax())))
            title = Path(name).name
            left.set_title(title if len(title) <= 32 else "…" + title[-31:], parse_math=False)
            middle.set_title("what the network saw")
            for ax in (left, middle):
                ax.axis("off")
    _write_figure(path, figure)
    return [path]


def _page_figures(options, names):
    """Image → the file for its figure: of several images name-1, name-2, … in their order."""
    path = Path(options.save_figure or "none")
    several = [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(1, len(names) + 1)]
    files = [path] if len(names) == 1 else several
    return dict(zip(names, files if options.save_figure else [None] * len(names), strict=True))


def _save_pages(_, answers):
    """Each image with a box around every digit, in a file of its own; return the files."""
    import matplotlib

    matplotlib.use("Agg")
    from plots import post_boxes

    for own, name, readings in answers:
        _write_figure(own, post_boxes(read_image(name, READING_SIZE), readings, size=upright_size(name)))
    return [own for own, _, _ in answers]


def _write_figure(path, figure):
    import io

    kind = path.suffix[1:].lower() or "png"
    if kind not in figure.canvas.get_supported_filetypes():
        raise ValueError(f"{path} can't be written: a figure is kept as .png, .pdf or .svg, not .{kind}.")
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=150)
    write_atomically(path, content.getvalue())


# ------------------------------------------------------------------------------------------------
# --export
# ------------------------------------------------------------------------------------------------


def export_command(options):
    """Write the checkpoint's model as ONNX, once ONNX Runtime gives the same answers with it."""
    import io
    import logging

    import onnxruntime

    _keep_inputs(options.export, options.checkpoint or Path(options.folder) / BEST)
    model = _load(options)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    example, content = torch.randn(2, 1, FRAME, FRAME), io.BytesIO()
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=["log_probabilities"],
        dynamic_shapes=({0: torch.export.Dim("N")},),
    )
    for node in program.model.graph:
        node.metadata_props.clear()  # source files and line numbers
    program.save(content)
    session = onnxruntime.InferenceSession(content.getvalue(), providers=["CPUExecutionProvider"])
    images = torch.randn(7, 1, FRAME, FRAME)
    with torch.no_grad():
        expected = model(images)
    (found,) = session.run(None, {"images": images.numpy()})
    difference = (torch.from_numpy(found) - expected).abs().max().item()
    if not difference <= 1e-4:
        raise ValueError(f"{options.export} was not written: ONNX Runtime's answers differ by {difference:.1e}.")
    write_atomically(options.export, content.getvalue())
    mean, std = model.normalisation
    print(
        f"{options.export}: {model.architecture}; images (N, 1, 28, 28), normalised as (x - {mean:g}) / {std:g} for"
        f" x in [0, 1] to log_probabilities (N, 10). ONNX Runtime gives the same answers within {difference:.0e}."
    )


# ------------------------------------------------------------------------------------------------
# Command line
# ------------------------------------------------------------------------------------------------

COMMANDS = {"train": train_command, "infer": infer_command, "evaluate": evaluate_command, "export": export_command}
GOES_WITH = {  # option → the commands that use it; --folder goes with all of them
    **dict.fromkeys((*SETTINGS, "resume"), ("train",)),
    "checkpoint": ("infer", "evaluate", "export"),
    "report": ("evaluate",),
    "top": ("infer",),
    "json": ("infer", "evaluate"),
    "all": ("infer",),
    "save_figure": ("infer",),
    "data": ("train", "evaluate"),
    "dataset": ("train", "evaluate"),
    "device": ("train", "infer", "evaluate"),
}


def _flag(name):
    return "--" + name.replace("_", "-")


def _whole(low):
    def whole(text):
        value = int(text)
        if not low <= value < 2**32:
            raise ValueError
        return value

    whole.__name__ = f"whole number from {low}"  # argparse names it in its message
    return whole


def _rate(text):
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError
    return value


_rate.__name__ = "number above 0"


class _Lazy:
    """An option's choices or default, read from a module of the course when needed: --infer starts sooner without."""

    def __init__(self, read):
        self.read = read

    def __iter__(self):  # which `in` uses too
        return iter(self.read())

    def __str__(self):
        return str(self.read())


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (--help shows examples)\n")


def parser():
    """All options; what is wrong with them is said in one line, with exit code 2."""
    summary, _, examples = __doc__.partition("\n\n")
    result = _Parser(
        prog="torchnn.py", description=summary, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command = result.add_mutually_exclusive_group(required=True)
    command.add_argument("--train", action="store_true", help="train a network and keep the best by validation loss")
    command.add_argument("--infer", nargs="+", metavar="IMAGE", help="read the digit in each image")
    command.add_argument("--evaluate", action="store_true", help="a checkpoint's loss and accuracy on the test set")
    command.add_argument("--export", metavar="FILE.onnx", help="write a checkpoint's model for ONNX Runtime")

    place = result.add_argument_group("the run").add_mutually_exclusive_group()
    place.add_argument(
        "--folder", default=FOLDER, help=f"where the run is kept; default {FOLDER.name}/ beside torchnn.py"
    )
    place.add_argument("--checkpoint", metavar="FILE", help=f"the model to use; default {BEST} in the --folder")

    run = result.add_argument_group("with --train")

    def setting(name, words, **more):
        run.add_argument(_flag(name), default=_Lazy(lambda: _defaults()[name]), help=words, **more)

    setting("arch", "%(choices)s; default %(default)s", choices=ARCHITECTURES, metavar="NAME")
    plain = WITHOUT_BATCH_NORM[0]
    epochs = _Lazy(lambda: f"{_defaults()['epochs']} ({_defaults(plain)['epochs']} without batch norm)")
    run.add_argument("--epochs", default=epochs, help="in all, default %(default)s", type=_whole(1), metavar="N")
    setting("batch_size", "default %(default)s", type=_whole(1), metavar="N")
    setting(
        "optimizer",
        "%(choices)s; default %(default)s",
        choices=_Lazy(lambda: import_module("utils").OPTIMIZERS),
        metavar="NAME",
    )
    rates = _Lazy(
        lambda: (
            ", ".join(f"{rate:g} for {name}" for name, rate in _rates().items())
            + f" (without batch norm {_defaults(plain)['lr']:g} for {_defaults(plain)['optimizer']})"
        )
    )
    run.add_argument("--lr", type=_rate, metavar="RATE", default=rates, help="learning rate; default %(default)s")
    setting(
        "scheduler",
        "%(choices)s; default %(default)s",
        choices=_Lazy(lambda: (*import_module("utils").SCHEDULERS, "none")),
        metavar="NAME",
    )
    run.add_argument("--patience", type=_whole(1), metavar="N", help="stop after N epochs without a lower loss")
    setting("seed", "default %(default)s", type=_whole(0), metavar="N")
    run.add_argument("--resume", action="store_true", help=f"continue exactly from {LAST} in the folder")

    answer = result.add_argument_group("with --infer and --evaluate")
    answer.add_argument("--top", type=_whole(1), default=3, metavar="N", help="--infer: digits to name; default 3")
    answer.add_argument("--all", action="store_true", help="--infer: every digit of an image, line by line")
    answer.add_argument(
        "--save-figure", metavar="FILE", help="--infer: original, what the network saw, probabilities; with --all boxes"
    )
    form = answer.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON; --infer: a line an image")
    form.add_argument(
        "--report", metavar="FOLDER", help="--evaluate: a page of figures, what the model learned and where it errs"
    )

    both = result.add_argument_group("data and device")
    both.add_argument("--data", metavar="FOLDER", help="holds MNIST/raw; default MNIST_DATA, else data/")
    both.add_argument(
        "--dataset",
        choices=_Lazy(lambda: import_module("dataset").CHOICES),
        default="auto",
        metavar="NAME",
        help="%(choices)s; default auto: MNIST where it can be had, else scikit-learn's embedded digits",
    )
    both.add_argument("--device", choices=("cpu", "cuda", "mps"), help="default: the fastest; --infer: cpu")
    return result


def read_options(arguments=None):
    """The parsed options, with the names of those that were `given`; all of them go with the command."""
    reader = parser()
    options = reader.parse_args(arguments)
    bare = argparse.Namespace(**dict.fromkeys(vars(options)))  # what has a value gets no default
    options.given = [name for name, value in vars(reader.parse_args(arguments, bare)).items() if value is not None]
    (options.command,) = (name for name in options.given if name in COMMANDS)
    if options.all and "top" in options.given:
        reader.error("--top goes without --all: leave it out")
    for name in options.given:
        commands = GOES_WITH.get(name, COMMANDS)
        if options.command not in commands:
            fitting = " or ".join(map(_flag, commands))
            reader.error(f"{_flag(name)} goes with {fitting}, not with {_flag(options.command)}: leave it out")
    return options


def _complain(problem):
    print(f"torchnn.py: {' '.join(str(problem).split())}", file=sys.stderr)


def _explained(problem, options):
    """What went wrong and what to do: the message of the course's own errors, a sentence for those of a library."""
    on_gpu = str(options.device) not in ("None", "cpu")
    if isinstance(problem, MemoryError | torch.OutOfMemoryError):
        way = "a smaller --batch-size" if options.train else "a computer with more of it"
        return f"There is not enough memory for this: use {way}{', or --device cpu' if on_gpu else ''}."
    if isinstance(problem, RuntimeError):
        what = (str(problem).strip() or type(problem).__name__).splitlines()[0].rstrip(".")  # CUDA adds paragraphs
        return f"PyTorch can't do this here: {what}.{' Use --device cpu.' if on_gpu else ''}"
    if isinstance(problem, ArithmeticError) and not isinstance(problem, FloatingPointError):  # which tells it itself
        if options.train:
            return "The training left the range of floating-point numbers: start a new run with a smaller --lr."
        return "The model's numbers left the range of floating-point numbers: use another checkpoint."
    if isinstance(problem, OSError) and problem.filename is not None:
        return f"{problem.filename} can't be used: {problem.strerror}. Give another name, or change its permissions."
    return problem


def main(arguments=None):
    """Run one command; return the exit code: 0, 2 for bad input, 130 for Ctrl-C."""
    try:
        options = read_options(arguments)
    except KeyboardInterrupt:  # choices are read from modules whose imports take seconds
        return 130
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # libraries' own; what a user must know comes as an error or a line
            warnings.showwarning = lambda message, *_, **__: _complain(message)
            return _run(options)
    except (OSError, ValueError, ArithmeticError, RuntimeError, MemoryError) as problem:
        _complain(_explained(problem, options))
        return 2
    except KeyboardInterrupt:
        last = Path(options.folder) / LAST
        if options.train and last.exists():
            _complain(f"Stopped. {last} holds the last complete epoch: continue with --resume.")
        return 130


def _run(options):
    backend = {"cuda": torch.cuda, "mps": torch.backends.mps}.get(options.device)
    if backend is not None and not backend.is_available():
        raise ValueError(f"There is no {options.device.upper()} device here: leave out --device, or use --device cpu.")
    if options.device is None and options.command in ("train", "evaluate"):
        from utils import get_device

        options.device = get_device()
    options.device = torch.device(options.device or "cpu")
    return COMMANDS[options.command](options) or 0


if __name__ == "__main__":
    sys.exit(main())
