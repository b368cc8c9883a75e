"""Train a network, and read your own digits with it, from the command line.

examples:
  python torchnn.py --train                               train Net for 10 epochs, keep the best model
  python torchnn.py --train --arch CNN --epochs 5 --optimizer Adam --lr 0.001
  python torchnn.py --train --resume                      go on where a run was stopped
  python torchnn.py --infer seven.jpg                     which digit is it?
  python torchnn.py --infer *.png --top 3 --json
  python torchnn.py --infer seven.jpg --save-figure seen.png
  python torchnn.py --evaluate                            the best model on the test set
  python torchnn.py --evaluate --report report            the same with all figures, as a page
  python torchnn.py --export net.onnx                     for ONNX Runtime
"""

import argparse
import json
import math
import sys
import warnings
from pathlib import Path

try:
    import torch

    from checkpoint import BEST, LAST, CheckpointError, load_checkpoint, load_model, write_atomically
    from model import ARCHITECTURES
    from predict import FRAME, ImageError, predict, read_image
except KeyboardInterrupt:  # these imports take a second or two
    sys.exit(130)

FOLDER = Path(__file__).parent / "checkpoints"
HOLDOUT = 5_000  # training images to choose the best model by
RATES = {"SGD": 0.01, "Adam": 0.001, "AdamW": 0.003, "RMSprop": 0.001}
SCHEDULERS = ("OneCycleLR", "StepLR", "CosineAnnealingLR", "ReduceLROnPlateau", "none")
PLANNED = ("OneCycleLR", "CosineAnnealingLR")  # laid out for a number of epochs
SETTINGS = {  # of a run, with their defaults; kept in its checkpoints
    "arch": "Net",
    "epochs": 10,
    "patience": None,
    "batch_size": 128,
    "lr": None,  # by the optimizer
    "optimizer": "AdamW",
    "scheduler": "OneCycleLR",
    "seed": 1,
}


# ------------------------------------------------------------------------------------------------
# --train
# ------------------------------------------------------------------------------------------------


def train_command(options):
    """Train, keep the run in the folder, and report the best model's figures on the test set."""
    import utils  # here and below, since --infer starts sooner without it
    from training import fit

    folder = Path(options.folder)
    settings = _settings(options, folder / LAST)
    device = torch.device(options.device or utils.get_device())
    print(f"Device: {utils.describe_device(device)}")
    utils.set_seed(settings["seed"])
    train_loader, validation_loader, test_loader = _loaders(options, device, settings["batch_size"])
    data = train_loader.dataset.name
    if settings.setdefault("data", data) != data:
        raise ValueError(f"The run in {folder} was trained on {settings['data']}, and this is {data}: give the same.")
    print(f"{train_loader.dataset}; {len(validation_loader.dataset):,} to choose by")
    model = ARCHITECTURES[settings["arch"]]().to(device)
    optimizer = utils.get_optimizer(model, settings["optimizer"], settings["lr"])
    history = fit(
        model,
        device,
        train_loader,
        validation_loader,
        optimizer,
        utils.get_loss(),
        epochs=settings["epochs"],
        scheduler=_scheduler(optimizer, settings["scheduler"], settings["epochs"], len(train_loader)),
        folder=folder,
        patience=settings["patience"],
        resume=options.resume,
        settings=settings,
    )
    losses = history["validation_loss"]
    print(f"Best model: epoch {1 + losses.index(min(losses))}, kept as {folder / BEST}")
    _print_report(load_model(folder / BEST, device), device, test_loader)


def _settings(options, last):
    """The run's settings: as given, else as in the checkpoint to resume, else the defaults."""
    given = {name: getattr(options, name) for name in SETTINGS if getattr(options, name) is not None}
    if options.resume and last.exists():
        settings = _kept_settings(last)
        for name, value in given.items():
            planned = name == "epochs" and settings["scheduler"] in PLANNED
            if settings[name] != value and (planned or name not in ("epochs", "patience")):
                flag = "--" + name.replace("_", "-")
                raise ValueError(
                    f"The run in {last.parent} has {flag} {settings[name]}, not {value}: leave {flag} out to go on,"
                    " or leave out --resume to start anew."
                )
        settings |= given
    else:
        if options.resume:
            print(f"There is no {last} to resume from: starting with the first epoch.")
        settings = {**SETTINGS, **given}
    if settings["lr"] is None:
        settings["lr"] = RATES[settings["optimizer"]]
    return settings


def _kept_settings(last):
    """The settings in a checkpoint, each of the kind that the options allow."""
    settings = dict(load_checkpoint(last)["settings"])
    choices = {"arch": ARCHITECTURES, "optimizer": RATES, "scheduler": SCHEDULERS}
    wholes = {"epochs": 1, "batch_size": 1, "seed": 0}
    try:
        fine = all(settings[name] in allowed for name, allowed in choices.items())
        fine &= all(type(settings[name]) is int and low <= settings[name] < 2**32 for name, low in wholes.items())
        fine &= type(settings["lr"]) is float and 0 < settings["lr"] < math.inf and type(settings["data"]) is str
        fine &= settings["patience"] is None or (type(settings["patience"]) is int and settings["patience"] >= 1)
    except (KeyError, TypeError):
        fine = False
    if not fine:
        raise CheckpointError(f"{last} can't be resumed from: it lacks the settings that torchnn.py keeps.")
    return settings


def _loaders(options, device, batch_size):
    """Training, validation and test loader; augmented as in the fast recipe of benchmarks/accuracy.py."""
    import utils

    augment = utils.RandomAffineEach(degrees=10, zoom=(0.9, 1.1), shift=0.06, mode="bicubic")
    test_loader = _loader(options, device, "test")
    holdout = _holdout(test_loader.dataset)
    train_loader = _loader(
        options,
        device,
        "train",
        {"batch_size": batch_size, "shuffle": True},
        holdout=holdout,
        transform=utils.get_train_transforms(augment),
    )
    return train_loader, _loader(options, device, "validation", holdout=holdout), test_loader


def _loader(options, device, split, kwargs=None, normalisation=None, **more):
    import utils
    from dataset import DigitsInstead

    warnings.simplefilter("always", DigitsInstead)  # main shows no other warning
    kwargs, more = kwargs or {"batch_size": 500}, {"device": device, **more}
    if normalisation is not None:
        mean, std = normalisation
        more["transform"] = utils.get_test_transforms(mean=mean, std=std)
    return utils.get_MNISTdataset_with_loader(split, kwargs, dataset=options.dataset, root=options.data, **more)


def _holdout(test_data):
    """How many training images are kept apart: 5,000, or a fifth of the embedded digits."""
    return HOLDOUT if len(test_data) >= 10_000 else 287


def _scheduler(optimizer, name, epochs, batches):
    """The scheduler of this name with what suits a run of `epochs`; None for 'none'."""
    import utils

    if name == "none":
        return None
    options = {
        "OneCycleLR": {"total_steps": epochs * batches, "pct_start": 0.25},
        "StepLR": {"stepsize": max(1, 3 * epochs // 4)},
        "CosineAnnealingLR": {"stepsize": epochs},
        "ReduceLROnPlateau": {"stepsize": 2},
    }
    return utils.get_scheduler(optimizer, name=name, **options.get(name, {}))


# ------------------------------------------------------------------------------------------------
# --evaluate
# ------------------------------------------------------------------------------------------------


def evaluate_command(options):
    """Report a checkpoint's figures on the test set: a few lines, JSON, or a page with pictures."""
    import utils

    device = torch.device(options.device or utils.get_device())
    model = _load(options, device)
    loader = _loader(options, device, "test", normalisation=model.normalisation)
    if options.report is None:
        _print_report(model, device, loader, options.json)
        return
    from insights.report import write_report

    holdout = _holdout(loader.dataset)
    validation_loader = _loader(options, device, "validation", holdout=holdout, normalisation=model.normalisation)
    page = write_report(
        model,
        options.report,
        test_loader=loader,
        validation_loader=validation_loader,
        device=device,
        name=model.architecture,
    )
    print(f"Report: {page}")


def _load(options, device="cpu"):
    """The checkpoint's model, which must read 28×28 images into ten digits."""
    path = options.checkpoint or Path(options.folder) / BEST
    model = load_model(path, device)
    try:
        with torch.inference_mode():
            fits = model(torch.zeros(2, 1, FRAME, FRAME, device=device)).shape == (2, 10)
    except (ValueError, RuntimeError):
        fits = False
    if not fits:
        raise CheckpointError(f"{path} holds a network that does not read images of 28×28 into ten digits.")
    return model


def _print_report(model, device, loader, as_json=False):
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
    _keep_inputs(options.save_figure, *options.infer)
    model = _load(options, options.device or "cpu")
    answers, code = [], 0
    for name in options.infer:
        try:
            probabilities, seen = predict(model, name)
        except (OSError, ImageError) as problem:
            _complain(problem)
            code = 2
            continue
        order = probabilities.argsort(descending=True)[: options.top].tolist()
        top = [{"digit": digit, "probability": probabilities[digit].item()} for digit in order]
        answers.append((name, seen, probabilities))
        if options.json:
            print(json.dumps({"image": name, **top[0], "top": top}), flush=True)
        else:
            first, *others = (f"{t['digit']} ({100 * t['probability']:.1f} %)" for t in top)
            print(f"{name}: {first}" + (f", else {', '.join(others)}" if others else ""), flush=True)
    if options.save_figure and answers:
        _save_figure(Path(options.save_figure), answers)
        if not options.json:
            print(f"Figure: {options.save_figure}")
    return code


def _keep_inputs(output, *inputs):
    """Refuse an output that would take the place of an input."""
    if output is not None and Path(output).resolve() in {Path(name).resolve() for name in inputs}:
        raise ValueError(f"{output} is an input, and would be lost: write to another file.")


def _save_figure(path, answers):
    """A row for each image: the original, what the network saw, and the ten probabilities."""
    import io

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from plots import STYLE, TEST_STYLE

    kind = path.suffix[1:].lower() or "png"
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(answers), 3, figsize=(9, 2.9 * len(answers)), layout="constrained", squeeze=False
        )
        for (left, middle, right), (name, seen, probabilities) in zip(axes, answers, strict=True):
            left.imshow(read_image(name), cmap="gray", vmin=0, vmax=1)
            middle.imshow(seen, cmap="gray", vmin=0, vmax=1, extent=(0, FRAME, FRAME, 0))
            bars = right.bar(range(10), 100 * probabilities, color=TEST_STYLE["color"])
            right.bar_label(bars, [f"{100 * p:.0f}" if p >= 0.005 else "" for p in probabilities])
            right.set(xlabel="digit", ylabel="probability (%)", xticks=range(10), ylim=(0, 112))
            right.set_title(f"read as {int(probabilities.argmax())}")
            title = Path(name).name
            left.set_title(title if len(title) <= 32 else "…" + title[-31:], parse_math=False)
            middle.set_title("what the network saw")
            for ax in (left, middle):
                ax.axis("off")
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
        node.metadata_props.clear()  # where in which file each step was written
    program.save(content)
    session = onnxruntime.InferenceSession(content.getvalue(), providers=["CPUExecutionProvider"])
    images = torch.randn(7, 1, FRAME, FRAME)
    with torch.inference_mode():
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


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (--help shows examples)\n")


def parser():
    """All options; what is wrong with them is said in one line, with exit code 2."""
    summary, _, examples = __doc__.partition("\n\n")
    result = _Parser(
        prog="torchnn.py", description=summary, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = result.add_mutually_exclusive_group(required=True)
    what.add_argument("--train", action="store_true", help="train a network and keep the best by validation loss")
    what.add_argument("--infer", nargs="+", metavar="IMAGE", help="read the digit in each image")
    what.add_argument("--evaluate", action="store_true", help="report a checkpoint's figures on the test set")
    what.add_argument("--export", metavar="FILE.onnx", help="write a checkpoint's model for ONNX Runtime")

    run = result.add_argument_group("training")
    run.add_argument("--arch", choices=ARCHITECTURES, help="default Net")
    run.add_argument("--epochs", type=_whole(1), metavar="N", help="in all, default 10")
    run.add_argument("--batch-size", type=_whole(1), metavar="N", help="default 128")
    run.add_argument("--optimizer", choices=RATES, help="default AdamW")
    rates = ", ".join(f"{rate:g} for {name}" for name, rate in RATES.items())
    run.add_argument("--lr", type=_rate, metavar="RATE", help=f"learning rate; default {rates}")
    run.add_argument("--scheduler", choices=SCHEDULERS, help="default OneCycleLR")
    run.add_argument("--patience", type=_whole(1), metavar="N", help="stop after N epochs without a lower loss")
    run.add_argument("--seed", type=_whole(0), metavar="N", help="default 1")
    run.add_argument("--resume", action="store_true", help=f"go on from {LAST} in the folder, exactly")
    run.add_argument(
        "--folder", default=FOLDER, help=f"where the run is kept; default {FOLDER.name}/ beside torchnn.py"
    )

    use = result.add_argument_group("using a checkpoint")
    use.add_argument("--checkpoint", metavar="FILE", help=f"default: {BEST} in the --folder")
    use.add_argument(
        "--report", metavar="FOLDER", help="with --evaluate: a page of figures, what it learned and where it errs"
    )
    use.add_argument("--top", type=_whole(1), default=3, metavar="N", help="how many digits to name; default 3")
    use.add_argument("--json", action="store_true", help="print JSON, a line an image")
    use.add_argument("--save-figure", metavar="FILE", help="original, what the network saw, and the probabilities")

    both = result.add_argument_group("data and device")
    both.add_argument("--data", metavar="FOLDER", help="holds MNIST/raw; default MNIST_DATA, else data/")
    both.add_argument(
        "--dataset",
        choices=("auto", "mnist", "fashion_mnist", "kmnist", "digits"),
        default="auto",
        help="default auto: MNIST where it can be had, else scikit-learn's embedded digits",
    )
    both.add_argument("--device", choices=("cpu", "cuda", "mps"), help="default: the fastest; --infer: cpu")
    return result


def _complain(problem):
    print(f"torchnn.py: {' '.join(str(problem).split())}", file=sys.stderr)


def main(arguments=None):
    """Run one command; return the exit code: 0, 2 for bad input, 130 for Ctrl-C."""
    options = parser().parse_args(arguments)
    if options.report is not None and not options.evaluate:
        parser().error("--report goes with --evaluate")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # libraries' own; what a user must know comes as an error or a line
            warnings.showwarning = lambda message, *_, **__: _complain(message)
            return _run(options)
    except (OSError, ValueError, FloatingPointError) as problem:
        _complain(problem)
        return 2
    except ArithmeticError:
        _complain("The training left the range of numbers: start anew, with a smaller --lr.")
        return 2
    except torch.OutOfMemoryError:
        _complain("The GPU's memory is too small for this: use a smaller --batch-size, or --device cpu.")
        return 2
    except KeyboardInterrupt:
        last = Path(options.folder) / LAST
        if options.train and last.exists():
            _complain(f"Stopped. {last} holds the last complete epoch: go on with --resume.")
        return 130


def _run(options):
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("There is no CUDA device here: leave out --device, or use --device cpu.")
    if options.device == "mps" and not torch.backends.mps.is_available():
        raise ValueError("There is no MPS device here: leave out --device, or use --device cpu.")
    if options.infer:
        return infer_command(options)
    if options.train:
        train_command(options)
    elif options.evaluate:
        evaluate_command(options)
    else:
        export_command(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
