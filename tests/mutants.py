"""Do the tests notice? Plants faults of one line, one at a time, in a copy of the course, and runs the tests on it:

    python tests/mutants.py                 all of them: about 40 minutes on two cores
    python tests/mutants.py --only plateau  those with this word in the file's name or in what the fault is
    python tests/mutants.py --list          names them, and checks that each still fits the code

A mutant is killed when a test of its files fails, or hangs; it survives when they pass. The exit code is 1 when
one survives that is not explained, 2 when the table no longer fits the code or the tests fail without a fault.
By hand, not part of the tests: what survives asks for a test, or for a reason why it may.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT = 400  # seconds for the tests of one mutant, after which it hangs


@dataclass
class Fault:
    """`old` stands exactly once in the file; `new` takes its place. `explained`: why it may survive."""

    what: str
    old: str
    new: str
    explained: str = ""


FAULTS = {  # (file, the tests that should notice, without test_ and .py) → faults
    ("utils.py", "utils"): [
        Fault(
            "augmentation after Normalize",
            "*steps,\n            v2.Normalize([mean], [std]),",
            "v2.Normalize([mean], [std]),\n            *steps,",
        ),
        Fault("mean and deviation swapped", "v2.Normalize([mean], [std])", "v2.Normalize([std], [mean])"),
        Fault("pixels not scaled to [0, 1]", "scale=True", "scale=False"),
        Fault("a native bf16 seen on older GPUs", ">= (8, 0)", ">= (7, 0)"),
        Fault("bf16 where fp32 was asked for", 'enabled=precision == "bf16"', "enabled=True"),
        Fault("NumPy is not seeded", "    np.random.seed(seed)\n", ""),
        Fault("zoom in nine of ten", "zoom_probability=0.1", "zoom_probability=0.9"),
        Fault(
            "training without augmentation",
            "get_train_transforms() if datasettype",
            "get_test_transforms() if datasettype",
        ),
        Fault("validation is augmented", 'if datasettype == "train" else', 'if datasettype != "test" else'),
        Fault("momentum ignored", 'kwargs.setdefault("momentum", momentumval)', 'kwargs.setdefault("momentum", 0.0)'),
        Fault("the plateau's patience ignored", '"patience": stepsize, ', ""),
        Fault("cosine over twice the steps", '"T_max": stepsize', '"T_max": 2 * stepsize'),
        Fault(
            "one cycle stepped each epoch",
            'step_every or ("batch" if counts_batches else "epoch")',
            'step_every or "epoch"',
        ),
        Fault(
            "CyclicLR stepped each epoch", "lr_scheduler.OneCycleLR | lr_scheduler.CyclicLR", "lr_scheduler.OneCycleLR"
        ),
        Fault("the short last batch counts as a whole one", "self.loss += loss * size", "self.loss += loss * sizes[0]"),
        Fault(
            "accuracy as a fraction",
            "return self.loss / self.samples, 100 * self.correct",
            "return self.loss / self.samples, self.correct",
        ),
        Fault("an infinite loss goes on", "if not math.isfinite(loss):", "if math.isnan(loss):"),
        Fault("the last batches are not read", "        if self.unread:\n            self.read()\n", ""),
        Fault(
            "gradients add up over the batches",
            "            optimizer.zero_grad()  # 3. forget the gradients of the batch before\n",
            "",
        ),
        Fault("training in the mode it was left in", "    model.train()\n", ""),
        Fault("testing in training mode", "    model.eval()\n", ""),
        Fault("testing builds the graph", "with torch.no_grad(), _progress(test_loader", "with _progress(test_loader"),
        Fault("the epoch's scheduler step lost", '    if step_every == "epoch":\n        scheduler.step()\n', ""),
        Fault("channels_last=False ignored", "layouts[channels_last]", "layouts[None]"),
        Fault("a bar where nobody watches", "return sys.stderr.isatty()", "return True"),
    ],
    ("training.py", "training"): [
        Fault(
            "best_loss forgotten on resume",
            'history, best_loss = _history(folder / LAST, content), content["best_loss"]',
            "history = _history(folder / LAST, content)",
        ),
        Fault("the plateau stepped with the training loss", "scheduler.step(loss)", "scheduler.step(train_loss)"),
        Fault("a tie counts as better", '["validation_loss"][-1] < best_loss', '["validation_loss"][-1] <= best_loss'),
        Fault(
            "best saved after last",
            "                save(BEST)  # before last.pt: after a kill in between, this epoch is trained again\n"
            "            save(LAST)\n",
            "            save(LAST)\n            if better:\n                save(BEST)\n",
        ),
        Fault(
            "patience of one epoch more",
            "_epochs_without_gain(history) >= patience",
            "_epochs_without_gain(history) > patience",
        ),
        Fault(
            "validated on the training images",
            "utils.test(model, device, loaders[1]",
            "utils.test(model, device, loaders[0]",
        ),
        Fault("validated in another precision", 'precision=options["precision"]', "precision=None"),
        Fault(
            "the rate is noted after the epoch",
            "return train_loss, train_acc, loss, accuracy, rate, seconds",
            'return train_loss, train_acc, loss, accuracy, float(optimizer.param_groups[0]["lr"]), seconds',
        ),
        Fault("epochs counted anew on resume", "range(done + 1, epochs + 1)", "range(done + 1, done + epochs + 1)"),
        Fault(
            "the lock is not taken",
            "        lock.acquire(timeout=0.5)  # by when a run that starts at the same moment has said who it is\n",
            "",
        ),
        Fault("epochs from 0 in the history", "start=1", "start=0"),
        Fault(
            "the earlier best model is overwritten",
            "for name in (LAST, BEST, HISTORY) if",
            "for name in (LAST, HISTORY) if",
        ),
        Fault("temporary files in use are swept up", "> 3600", "> -1"),
        Fault(
            "the normalisation is not noted",
            "model.normalisation, model.novelty = normalisation, None",
            "model.novelty = None",
        ),
        Fault(
            "digits counted as predicted, not as labelled",
            "digits, hits = labels.cpu()",
            "digits, hits = outputs.argmax(dim=1).cpu()",
        ),
        Fault("clothes are redrawn as digits", "loader.dataset.classes == [str(digit) for digit in range(10)]", "True"),
        Fault("redrawn for the test, too", 'if split == "train" and loader', "if loader"),
        Fault(
            "every one and seven is redrawn",
            "generator=torch.Generator().manual_seed(0)).to(rows.device) < share",
            "generator=torch.Generator().manual_seed(0)).to(rows.device) < 10 * share",
        ),
        Fault("redrawn otherwise each time", "torch.Generator().manual_seed(1), 1, 1", "torch.default_generator, 1, 1"),
        Fault(
            "redrawn but not placed",
            "changed = place(european(own, labels, torch.Generator().manual_seed(1), 1, 1))",
            "changed = european(own, labels, torch.Generator().manual_seed(1), 1, 1)",
        ),
    ],
    ("training.py", "training recipes"): [
        Fault("the recipe's training images in order", '"shuffle": True', '"shuffle": False'),
        Fault(
            "augmented images normalised as MNIST's", '*recipe["augmentation"], **normalise', '*recipe["augmentation"]'
        ),
        Fault("one cycle laid out for one epoch", 'recipe["epochs"] * batches', "batches"),
        Fault(
            "recipes trained on the validation images too",
            "root=root, holdout=holdout, device=device",
            "root=root, device=device",
        ),
    ],
    ("training.py", "insights"): [
        Fault(
            "the range test suggests the edge of divergence",
            "float(rates[smoothed.argmin()]) / 10",
            "float(rates[smoothed.argmin()])",
        ),
        Fault("the range test's mean starts at 0", "mean / (1 - 0.9 ** len(losses))", "mean"),
        Fault(
            "the range test trains nothing",
            "copy.deepcopy((model, optimizer))",
            "(copy.deepcopy(model), copy.deepcopy(optimizer))",
        ),
        Fault(
            "the range test draws from the random state",
            "        restore_random_states(states, (loader,))",
            "        pass",
        ),
    ],
    ("checkpoint.py", "checkpoint training"): [
        Fault("the file is not flushed to the disk", "            os.fsync(file.fileno())\n", ""),
        Fault("a failed write leaves its temporary file", "            temporary.unlink()", "            pass"),
        Fault("opening may run code", "weights_only=True)", "weights_only=False)"),
        Fault("checksums not looked at", " or archive.testzip()", ""),
        Fault("weights that are not finite", "if not found.isfinite().all():", "if found.isinf().all():"),
        Fault("a loaded model is in training mode", "return model.eval()", "return model"),
        Fault("a loaded model is normalised as MNIST", 'tuple(content["normalisation"])', "(MEAN, STD)"),
    ],
    ("checkpoint.py", "training"): [
        Fault("Python's random state not restored", "    random.setstate((version, tuple(numbers), gauss))\n", ""),
        Fault(
            "NumPy's random state not restored",
            "    np.random.set_state((kind, np.array(keys, np.uint32), *position))\n",
            "",
        ),
        Fault("PyTorch's random state not restored", '    torch.set_rng_state(states["torch"])\n', ""),
        Fault("the loaders' generators not restored", "        generator.set_state(state)", "        pass"),
        Fault("the optimizer's moments lost", "            optimizer.load_state_dict(state)\n", ""),
        Fault(
            "the scheduler starts anew", '            scheduler.load_state_dict(content["scheduler"]["state"])\n', ""
        ),
        Fault("best_loss not kept", '"best_loss": float(best_loss)', '"best_loss": math.inf'),
    ],
    ("augment.py", "augment session1"): [
        Fault("rotation becomes a shear", "[cos, -up, across, cos]", "[cos, -up, 0 * across, cos]"),
        Fault(
            "rotation distorts where height is not width",
            "up, across = sin * height / width, sin * width / height",
            "up, across = sin * width / height, sin * height / width",
        ),
        Fault("rotation to one side only", "(2 * u[0] - 1) * self.degrees", "u[0] * self.degrees"),
        Fault("zoom drawn from the angle's draw", "(high - low) * u[2]", "(high - low) * u[0]"),
        Fault(
            "zoom out where zoom in was asked for",
            "torch.cos(angle) / zoom, torch.sin(angle) / zoom",
            "torch.cos(angle) * zoom, torch.sin(angle) * zoom",
        ),
        Fault("zoom where it should not be", "u[1] < self.zoom_probability", "u[1] > self.zoom_probability"),
        Fault("the same shift on both axes", "(2 * u[3:] - 1) * self.shift", "(2 * u[[3, 3]] - 1) * self.shift"),
        Fault("shift in whole widths", "(2 * u[3:] - 1) * self.shift", "2 * (2 * u[3:] - 1) * self.shift"),
        Fault(
            "sampled as if corners were centres",
            "mode=self.mode, align_corners=False",
            "mode=self.mode, align_corners=True",
        ),
        Fault("stretched without narrowing", "0 * tall, 1 / tall]", "0 * tall, 0 * tall + 1]"),
        Fault("sheared from top to bottom", "[tall, slant * tall, 0 * tall,", "[tall, 0 * tall, slant * tall,"),
        Fault("a slant that depends on the shape", "v[1] * self.shear * height / width", "v[1] * self.shear"),
        Fault(
            "thin and thick swapped",
            "torch.where(u[0] < self.p / 2, thin, thick), share",
            "torch.where(u[0] < self.p / 2, thick, thin), share",
        ),
        Fault("strokes change in every image", "torch.where(u[0] < self.p, changed, images)", "changed"),
        Fault("one share for all strokes", "share = u[1] * torch.where", "share = u[1].mean() * torch.where"),
        Fault("one draw flips a whole batch", "torch.rand(*images.shape[:-3], 1, 1, 1,", "torch.rand(1, 1, 1,"),
        Fault("flipped upside down", "images.flip(-1)", "images.flip(-2)"),
    ],
    ("model.py", "model"): [
        Fault(
            "batch norm after the activation",
            "            layers += [nn.BatchNorm1d(size)] if batch_norm else []\n"
            "            layers.append(ACTIVATIONS[activation]())\n",
            "            layers.append(ACTIVATIONS[activation]())\n"
            "            layers += [nn.BatchNorm1d(size)] if batch_norm else []\n",
        ),
        Fault("CNN's second dropout lost", "self.fc2(F.dropout(x, dropout, self.training))", "self.fc2(x)"),
        Fault(
            "CNN's dropout in evaluation too",
            "self.fc2(F.dropout(x, dropout, self.training))",
            "self.fc2(F.dropout(x, dropout))",
        ),
        Fault("Net without its third activation", "F.relu(self.conv3(x))", "self.conv3(x)"),
        Fault(
            "Net averages where it should take the largest",
            "F.max_pool2d(x, 2)  # (N, 256, 4, 4)",
            "F.avg_pool2d(x, 2)  # (N, 256, 4, 4)",
        ),
        Fault(
            "Net's answers in bf16",
            "coarsen the loss\n        return F.log_softmax(x, dim=1, dtype=torch.float32)",
            "coarsen the loss\n        return F.log_softmax(x, dim=1)",
        ),
        Fault(
            "the perceptron gives logits",
            "return F.log_softmax(self.layers(x), dim=1, dtype=torch.float32)  # (N, output_size)",
            "return self.layers(x).float()",
        ),
        Fault("the perceptron's activation ignored", "ACTIVATIONS[activation]()", "nn.ReLU()"),
    ],
    ("plots.py", "utils insights"): [
        Fault(
            "samples column by column",
            "zip(axes.flat, images.cpu().numpy(), labels",
            "zip(axes.T.flat, images.cpu().numpy(), labels",
        ),
        Fault("epochs from 0", "range(1, len(values) + 1)", "range(len(values))"),
        Fault(
            "training drawn as test",
            "zip(names, pair, (TRAIN_STYLE, TEST_STYLE)",
            "zip(names, pair, (TEST_STYLE, TRAIN_STYLE)",
        ),
        Fault("rates a point too early", "[*rates, rates[-1]]", "[*rates[1:], rates[-1], rates[-1]]"),
        Fault("limits ignored", "vmin=low, vmax=high", ""),
    ],
    ("session1.py", "session1"): [
        Fault("training images in order", '{"batch_size": batch_size, "shuffle": True}', '{"batch_size": batch_size}'),
        Fault(
            "validated on the training images",
            'get_MNISTdataset_with_loader("test"',
            'get_MNISTdataset_with_loader("train"',
        ),
        Fault("normalised as MNIST", "get_test_transforms(**HALVES)", "get_test_transforms()"),
        Fault("momentum ignored", '"SGD", learning_rate, momentum', '"SGD", learning_rate'),
        Fault("seconds given as minutes", "(time.perf_counter() - start) / 60", "time.perf_counter() - start"),
        Fault("percent where a fraction was promised", "return percent / 100", "return percent"),
        Fault("one image less", "images[:num_images]", "images[: num_images - 1]"),
    ],
    ("exercises/checking.py", "exercises"): [
        Fault(
            "near whole numbers are right",
            "torch.equal(answer, expected) if exact else torch.allclose",
            "torch.allclose",
        ),
        Fault(
            "other shapes are right",
            "    if answer.shape != expected.shape:\n        return False\n",
            "    answer, expected = torch.broadcast_tensors(answer, expected)\n",
        ),
        Fault("the first of several answers will do", "len(answer) == len(expected) and ", ""),
        Fault(
            "off by a percent is right",
            "if exact else torch.allclose(answer, expected, rtol=1e-4",
            "if exact else torch.allclose(answer, expected, rtol=1e-2",
        ),
        Fault("a slip is not recognised", "        if same(answer, slip):", "        if False:"),
        Fault("banned names are allowed", "if name := _uses(function, banned):", "if name := None:"),
        Fault(
            "banned names hide in a helper",
            "                todo += loaded(value)",
            "                todo += loaded(value) if value is function else []",
        ),
        Fault(
            "banned names hide in an inner function",
            "        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]",
            "        pass",
        ),
        Fault(
            "banned names hide behind another name",
            "if (name in banned or called in banned) and (",
            "if name in banned and (",
        ),
        Fault("arguments may be changed", "if not same(list(arguments), list(case)):", "if False:"),
        Fault("one case is enough", "    if all(right):", "    if any(right):"),
        Fault("the answer is disclosed", 'return "too large." if', 'return f"it is {expected}." if'),
    ],
    ("benchmarks/prose.py", "notebooks"): [
        Fault("any rounding will do", "half = 0.5000001", "half = 5"),
        Fault("a share explains any number", "(1, 100) if number.endswith", "(1, 100) if number or number.endswith"),
        Fault("pictures explain numbers", 'if kind.startswith("text/")', "if kind"),
        Fault("years with a unit are left out", "|\\s*(?:{UNITS}))", ")"),
    ],
    ("checks.py", "session1 model dataset"): [
        Fault(
            "True is a whole number",
            "None if isinstance(value, bool) else operator.index(value)",
            "operator.index(value)",
        ),
        Fault("the highest number is refused", "number > high", "number >= high"),
        Fault("the lowest number is refused", "number < low", "number <= low"),
    ],
    ("dataset.py", "dataset"): [
        Fault("SHA256SUMS is never read", "sums.read_text().splitlines() if sums.is_file() else []", "[]"),
        Fault("embedded digits of 255 / 15, which wrap", "(255 / 16)", "(255 / 15)"),
        Fault("embedded digits are split without their labels", "stratify=labels, ", ""),
        Fault("embedded digits enlarged by repeating pixels", 'mode="bilinear")', 'mode="nearest")'),
        Fault("images held out are trained on as well", "else order[holdout:]", "else order"),
        Fault("another holdout each time", ", generator=torch.Generator().manual_seed(0))", ")"),
        Fault(
            "the labels of the holdout are not its images'",
            "data.images[keep], data.labels[keep], split",
            "data.images[keep], data.labels[: len(keep)], split",
        ),
        Fault("the test set is divided too", '    if split == "test":\n        return data\n    if', "    if"),
        Fault(
            "MNIST_DATA before the argument",
            'root or os.environ.get("MNIST_DATA")',
            'os.environ.get("MNIST_DATA") or root',
        ),
        Fault("the warning comes each time", "            if root not in _told:\n", "            if True:\n"),
        Fault("labels above 9 are taken", " or contents[label_file].max(initial=0) > 9", ""),
        Fault("a file that is too long is taken", "if len(content) != size:", "if len(content) < size:"),
        Fault(
            "what came by download is not verified",
            'if name == "mnist" and sums[file] != MNIST_SHA256[file]:',
            "if False:",
        ),
        Fault(
            "a dead network is waited for each time",
            "if why is None or time.monotonic() - when >= RETRY_AFTER:",
            "if True:",
        ),
        Fault("drop_last ignored on a device", "[: len(self)]", ""),
        Fault("shuffle ignored on a device", "torch.randperm if self.shuffle else torch.arange", "torch.arange"),
        Fault(
            "batches transformed twice",
            "            images = self.transform(images)\n",
            "            images = self.transform(self.transform(images))\n",
        ),
        Fault("a damaged file that was kept is overwritten", "while kept.exists():", "while False:"),
        Fault(
            "exit code 0 for damaged data",
            "        print(problem, file=sys.stderr)\n        return 2",
            "        print(problem, file=sys.stderr)\n        return 0",
        ),
    ],
    ("images.py", "images predict"): [
        Fault("EXIF orientation ignored", "orientation = _orientation(image)", "orientation = 1"),
        Fault(
            "mirrored where EXIF says transposed", "if orientation in (2, 3, 6, 7):", "if orientation in (2, 3, 5, 8):"
        ),
        Fault("transparency laid onto black", 'image.size, "white"', 'image.size, "black"'),
        Fault("14 bits read as 16", "(255, 1023, 4095, 16383) if", "(255, 1023, 4095) if"),
        Fault("grey as the plain mean of the colours", "[0.299, 0.587, 0.114]", "[1 / 3, 1 / 3, 1 / 3]"),
        Fault(
            "the size is looked at after decoding",
            "        raise ImageError(_too_large(name))\n    orientation",
            "        image.load()\n        raise ImageError(_too_large(name))\n    orientation",
        ),
        Fault("HEIC is not opened", 'formats = (*FORMATS, "HEIF")', "formats = FORMATS"),
        Fault("a PDF is any other file", 'startswith(b"%PDF")', 'startswith(b"%XYZ")'),
        Fault("the size is that before turning", "if _orientation(image) < 5 else image.size[::-1]", ""),
        Fault(
            "always scaled down to one digit's size",
            "return _shrink(_from_array(image), longest)",
            "return _shrink(_from_array(image), WORKING_SIZE)",
        ),
    ],
    ("ink.py", "ink"): [
        Fault(
            "light digits on dark are not inverted",
            "return difference if far.sum() >= 0 else -difference",
            "return difference",
        ),
        Fault("no margin around a tight crop", "padded = _with_margin(grey)", "padded = grey"),
        Fault("a grey crop gets no margin", "if max(grey.shape) > 32 else 0.35", "if max(grey.shape) > 32 else 0.05"),
        Fault("the paper is what is dark", "paper = dark if", "paper = ~dark if"),
        Fault("faint ink is none", "FAINT = 0.03 ", "FAINT = 0.08 "),
        Fault(
            "what uneven paper leaves is ink",
            "contrast = np.clip(10 * 1.4826 * np.median(abs(ink)), FAINT, MIN_CONTRAST)",
            "contrast = FAINT",
        ),
        Fault("small pictures stay small", "MIN_SIZE = 112", "MIN_SIZE = 1"),
        Fault("lines are kept", "for rise, row, half in across:", "for rise, row, half in []:"),
        Fault("the stroke across a line goes, too", "np.minimum(cleaned[where], np.minimum(above, below))", "0"),
        Fault("the most slanted of equal lines", "np.argsort(abs(rises), kind", "np.argsort(-abs(rises), kind"),
        Fault("level lines only", "np.arange(-0.06, 0.0601, max(0.005, 1 / width)) * width", "np.zeros(1)"),
        Fault("what is left of the lines is the digit", " > max(ink.shape) / 6 else ink", " >= 0 else ink"),
        Fault("a stroke across the short side is a line", "if width < 0.6 * height and len(across) < 2:", "if False:"),
        Fault("no second look by a local background", "if mask is None or not _doubtful(ink, mask):", "if True:"),
        Fault("what touches the border is kept", "if border.any():", "if False:"),
        Fault("the box of the enlarged picture", " / times - margin", " - margin"),
        Fault("the box with the margin", " / times - margin", " / times"),
        Fault(
            "the paper's brightness from the ink too",
            "weight = start * np.clip(1 - (off / limit) ** 2, 0, 1)",
            "weight = start",
        ),
    ],
    ("predict.py", "predict"): [
        Fault("centred by its box, not by its mass", "round(FRAME / 2 - centre)", "round((FRAME - side) / 2)"),
        Fault(
            "aspect ratio lost",
            "size = [max(1, round(side * scale)) for side in ink.shape[::-1]]",
            "size = [SIDE, SIDE]",
        ),
        Fault("thin strokes stay thin", "if stroke < MIN_STROKE:", "if False:"),
        Fault(
            "the model's own normalisation ignored",
            'noted = getattr(model, "normalisation", (MEAN, STD))',
            "noted = (MEAN, STD)",
        ),
        Fault("the model stays in evaluation mode", "            module.training = mode", "            pass"),
        Fault("predicted in training mode", "    model.eval()\n", ""),
        Fault("an answer that is not finite is given", "if not probabilities.isfinite().all():", "if False:"),
    ],
    ("predict.py", "novelty"): [
        Fault("the temperature ignored", "outputs / temperature(model)", "outputs"),
    ],
    ("predict.py", "pages"): [
        Fault("two digits are one", "if (count := several(mask)) > 1:", "if (count := several(mask)) > 9:"),
        Fault("all are digits", "are_digits(model, digits)", "[True] * len(digits)"),
        Fault(
            "boxes of the scaled image",
            "scales = (width / grey.shape[1], height / grey.shape[0]) * 2",
            "scales = (1,) * 4",
        ),
    ],
    ("novelty.py", "novelty"): [
        Fault("the temperature may be below 1", "bounds=(0, np.log(10))", "bounds=(-2, np.log(10))"),
        Fault("the temperature multiplies", "scores / np.exp(log), labels", "scores * np.exp(log), labels"),
        Fault("the temperature of all features", "answers[:, -10:], held_out", "answers[:, :10], held_out"),
    ],
    ("drawn.py", "novelty"): [
        Fault("a flag to the right", "[-angle.cos(), angle.sin()]", "[angle.cos(), angle.sin()]"),
        Fault("a flag upwards", "[-angle.cos(), angle.sin()]", "[-angle.cos(), -angle.sin()]"),
        Fault("the foot at the top", "one[:, None], at(bottom),", "one[:, None], at(top),"),
        Fault("a seven without its bar", "keep = (~one | ", "keep = (one & "),
    ],
    ("benchmarks/handwriting.py", "handwriting"): [
        Fault("the classical ones are own digits", 'if not row["category"].startswith(CLASSICAL)', ""),
        Fault("what is refused is not counted", '"refused": len(rows) - len(answered)', '"refused": 0'),
        Fault(
            "an edge belongs to both bins",
            'if low < row["probability"] <= high',
            'if low <= row["probability"] <= high',
        ),
        Fault(
            "the best first",
            "key=lambda name: found[name][0] / found[name][1]",
            "key=lambda name: -found[name][0] / found[name][1]",
        ),
        Fault("labels may lack a column", "any(not all(row.get(name) for name in COLUMNS) for row in rows)", "False"),
    ],
    ("torchnn.py", "torchnn"): [
        Fault("the least probable digits first", "probabilities.argsort(descending=True)", "probabilities.argsort()"),
        Fault("one figure over the other", "own = path if len(answers) == 1 else", "own = path if answers else"),
        Fault("--all in one line", "key=lambda reading: reading.line)", "key=lambda reading: 0)"),
        Fault("--all may go with --train", '    "all": ("infer",),\n', '    "all": ("infer", "train"),\n'),
        Fault("exit code 0 for an image that can't be read", "            code = 2\n", ""),
        Fault("an ONNX file is written whatever it answers", "if not difference <= 1e-4:", "if False:"),
        Fault(
            "the exported model takes two images only", '        dynamic_shapes=({0: torch.export.Dim("N")},),\n', ""
        ),
        Fault("the seed ignored", 'utils.set_seed(settings["seed"])', "utils.set_seed(1)"),
        Fault(
            "the last model's results, not the best's",
            "    model = load_model(folder / BEST, device)\n",
            "",
        ),
        Fault(
            "evaluated on the training images", 'recipe_loader(normalised, "test"', 'recipe_loader(normalised, "train"'
        ),
        Fault(
            "the report's temperature fitted on the test images",
            'recipe_loader(normalised, "validation"',
            'recipe_loader(normalised, "test"',
        ),
        Fault(
            "evaluated with MNIST's normalisation", 'dict(zip(("mean", "std"), model.normalisation, strict=True))', "{}"
        ),
        Fault(
            "AdamW's rate for every optimizer",
            'settings["lr"] = _rates(settings["arch"])[settings["optimizer"]]',
            "pass",
        ),
        Fault("resumed with other settings than it began", "(planned or name not in", "(planned and name not in"),
        Fault("an input image may be overwritten", "    _keep_inputs(options.save_figure, *names)\n", ""),
        Fault("--lr ignored", '"learningrate": settings["lr"]', '"learningrate": optimizer.get("learningrate", 0.01)'),
        Fault("trained on the validation images", '"holdout": "auto"', '"holdout": 0 if not options.train else 1'),
        Fault("exit code 0 after Ctrl-C", "        return 130\n\n\ndef _run", "        return 0\n\n\ndef _run"),
    ],
    ("insights/answers.py", "insights"): [
        Fault(
            "the confusion matrix transposed",
            "confusion_matrix(labels, predicted",
            "confusion_matrix(predicted, labels",
        ),
        Fault(
            "precision and recall swapped",
            "precision_recall_fscore_support(labels, predicted",
            "precision_recall_fscore_support(predicted, labels",
        ),
        Fault("correct answers among the confusions", "off = matrix - np.diag(np.diag(matrix))", "off = matrix"),
        Fault("the rarest confusions first", "[::-1][:pairs]", "[:pairs]"),
        Fault(
            "mistakes, least confident first",
            "self.log_probabilities.exp().amax(dim=1)",
            "-self.log_probabilities.exp().amax(dim=1)",
        ),
        Fault(
            "correct answers, most confident first",
            "order[answers.right[order]].flip(0)",
            "order[answers.right[order]]",
        ),
        Fault(
            "the inputs of the first linear layer",
            "isinstance(module, nn.Linear)][-1:]",
            "isinstance(module, nn.Linear)][:1]",
        ),
        Fault(
            "other points each time",
            "random_state=0",
            "random_state=None",
            explained="the randomised PCA that t-SNE starts from gives the same points at these sizes",
        ),
    ],
    ("insights/inside.py", "insights"): [
        Fault("the model is looked at in training mode", "copy.deepcopy(model).eval()", "copy.deepcopy(model).train()"),
        Fault("the least varying feature maps", ".argsort()[::-1][:channels]", ".argsort()[:channels]"),
        Fault(
            "Grad-CAM of the predicted digit whatever was asked",
            "targets = _targets(recorder.logits, targets)",
            "targets = _targets(recorder.logits, None)",
        ),
        Fault(
            "explanations of the wrong target",
            "grad_cam(model, images, targets, layer)",
            "grad_cam(model, images, None, layer)",
        ),
        Fault(
            "occlusion of the wrong target",
            "occlusion(model, images, targets).numpy()",
            "occlusion(model, images).numpy()",
        ),
        Fault("Grad-CAM shows what speaks against the digit", "maps = F.relu((gradient", "maps = F.relu(-(gradient"),
        Fault(
            "Grad-CAM stretched over the image",
            'at = (torch.arange(size, device=maps.device) - place["centre"]) / place["jump"]\n'
            "    at = (2 * at + 1) / maps.shape[-1] - 1",
            "at = torch.linspace(-1, 1, size, device=maps.device)",
        ),
        Fault("Grad-CAM transposed", 'indexing="xy"', 'indexing="ij"'),
        Fault("occlusion's sign", "return maps[:, 0].cpu()", "return -maps[:, 0].cpu()"),
        Fault("blackened with the mean grey", "images.min().item()", "0.0"),
        Fault("jump adds up instead of multiplying", "jump *= stride", "jump += stride - 1"),
        Fault(
            "a layer's own stride counts in its field",
            "        reach = (kernel - 1) * layer.dilation * jump\n",
            "        reach = (kernel - 1) * layer.dilation * jump * stride\n",
        ),
        Fault("padding ignored in the centre", "reach / 2 - layer.padding * jump", "reach / 2"),
        Fault("dilation ignored in the field", "(kernel - 1) * layer.dilation * jump", "(kernel - 1) * jump"),
        Fault(
            "feature maps before the activation", "            self.layers[-1].output = output\n", "            pass\n"
        ),
    ],
    ("insights/calibration.py", "insights"): [
        Fault("the temperature's inverse", "(log_probabilities / temperature)", "(log_probabilities * temperature)"),
        Fault(
            "a bin's upper edge belongs to the next",
            ".ceil().long().clamp(1, bins) - 1",
            ".floor().long().clamp(0, bins - 1)",
        ),
        Fault(
            "the ECE's bins weigh the same",
            "((accuracy - confidence).abs() * count)[count > 0].sum().item() / len(labels)",
            "(accuracy - confidence).abs()[count > 0].mean().item()",
        ),
        Fault(
            "the temperature is fitted on the test images",
            "fit_temperature(validation.log_probabilities, validation.labels)",
            "fit_temperature(answers.log_probabilities, answers.labels)",
        ),
    ],
    ("insights/robustness.py", "insights"): [
        Fault(
            "every model gets the first one's normalisation",
            'getattr(network, "normalisation", (mean, std))',
            "(mean, std)",
        ),
        Fault("pixels not brought back to [0, 1]", "data.images[:images] * std + mean", "data.images[:images]"),
        Fault("distorted pixels beyond [0, 1]", ".clamp(0, 1)", ""),
        Fault("contrast about black", "mean + factor * (images - mean)", "factor * images"),
        Fault("other noise for each run", ", generator=generator)", ")"),
        Fault(
            "half of the images stay as they are",
            "part = slice(i, None, len(kinds))",
            "part = slice(i, None, 2 * len(kinds))",
        ),
    ],
    ("insights/report.py", "report"): [
        Fault("any ValueError leaves a figure out", "except insights.DoesNotApply", "except ValueError"),
        Fault(
            "the range test starts from the trained weights",
            "            module.reset_parameters()",
            "            pass",
        ),
        Fault("another report each time", "        torch.manual_seed(0)  # the same report each time\n", ""),
        Fault("the caller's random state is changed", "with torch.random.fork_rng():", "if True:"),
        Fault(
            "the temperature is fitted on the test images",
            "insights.predictions(model, validation_loader)",
            "insights.predictions(model, test_loader)",
        ),
        Fault("the report's page trusts the names", "autoescape=True", "autoescape=False"),
        Fault(
            "the page is not written whole",
            '    write_atomically(folder / "index.html", page.encode())',
            '    (folder / "index.html").write_bytes(page.encode())',
        ),
        Fault(
            "the caller's model is moved",
            "copy.deepcopy(model).to(device)",
            "model.to(device)",
            explained="the tests run on the CPU, where nothing moves",
        ),
    ],
}


def run(folder, tests):
    """pytest's exit code, 1 also after LIMIT."""
    # Without the settings of pyproject.toml: no notebooks, one process, and nothing that takes long by nature.
    files = [f"tests/test_{test}.py" for test in tests.split()]
    options = ["-q", "-x", "-p", "no:cacheprovider", "--no-header", "-o", "addopts=", "-m", "not slow"]
    command = [sys.executable, "-m", "pytest", *options, *files]
    environment = {**os.environ, "SMOKE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("MNIST_DATA", None)  # tests that train on MNIST are skipped
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        return 1
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # the processes that the tests started, too
            process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="only the mutants with this text in them")
    parser.add_argument("--list", action="store_true", help="name the mutants, and run nothing")
    options = parser.parse_args()

    mutants = [
        (file, tests, fault)
        for (file, tests), faults in FAULTS.items()
        for fault in faults
        if options.only.lower() in f"{file}: {fault.what}".lower()
    ]
    for file, _, fault in mutants:
        found = (ROOT / file).read_text(encoding="utf-8").count(fault.old)
        if found != 1:
            print(f"{file}: {fault.what}: its old text is there {found} times, and must be once:\n{fault.old}")
            return 2
        if options.list:
            print(f"{file}: {fault.what}")
    if options.list:
        return 0

    survived = unexplained = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder, "course")
        ignore = shutil.ignore_patterns(".*", "__pycache__", "data", "checkpoints")
        shutil.copytree(ROOT, folder, ignore=ignore)
        for test in sorted({test for _, tests, _ in mutants for test in tests.split()}):
            if run(folder, test) != 0:
                print(f"tests/test_{test}.py fails without a fault: mend that first.")
                return 2
        for number, (file, tests, fault) in enumerate(mutants, start=1):
            path, start = folder / file, time.perf_counter()
            whole = path.read_text(encoding="utf-8")
            path.write_text(whole.replace(fault.old, fault.new), encoding="utf-8")
            code = run(folder, tests)
            path.write_text(whole, encoding="utf-8")
            if code not in (0, 1):
                print(f"{file}: {fault.what}: the tests could not be run (pytest's exit code is {code}).")
                return 2
            survived += code == 0
            unexplained += code == 0 and not fault.explained
            outcome = "killed" if code else f"SURVIVED ({fault.explained or 'not explained'})"
            print(f"{number:3d} {file}: {fault.what}: {outcome}, {time.perf_counter() - start:.0f} s", flush=True)
    print(f"{len(mutants) - survived} of {len(mutants)} killed")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
