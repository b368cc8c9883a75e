"""Session 5's tasks: what a student might write, and a piece of the hint that it should get."""

LOOP = """
def look(model, loader):
    model.eval()
    losses, correct, count = 0.0, 0, 0
    with torch.no_grad():
        for images, labels in loader:
            outputs = model(images)
            losses += F.nll_loss(outputs, labels).item() * len(labels)
            correct += int((outputs.argmax(dim=1) == labels).sum())
            count += len(labels)
    return losses / count, 100 * correct / count


def train_and_choose(model, loaders, optimizer, epochs):
    found = {"train_loss": [], "train_acc": [], "validation_loss": [], "validation_acc": []}
    lowest = math.inf
    for _ in range(epochs):
        model.train()
        losses, correct, count = 0.0, 0, 0
        for images, labels in loaders["train"]:
            outputs = model(images)
            loss = F.nll_loss(outputs, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += loss.item() * len(labels)
            correct += int((outputs.argmax(dim=1) == labels).sum())
            count += len(labels)
        found["train_loss"].append(losses / count)
        found["train_acc"].append(100 * correct / count)
        loss, accuracy = look(model, loaders["validation"])
        found["validation_loss"].append(loss)
        found["validation_acc"].append(accuracy)
        if loss < lowest:
            lowest, weights = loss, copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    found["test_loss"], found["test_acc"] = look(model, loaders["test"])
    return found
"""


def but(*changes):
    """The mended loop with some lines as they should not be."""
    text = LOOP
    for before, after in changes:
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


# Other ways to the images
LOADER = "\nfrom torch.utils.data import DataLoader\n"
CLONES = """
def clones(loader):
    return [(images.clone(), labels) for images, labels in loader]
"""
AROUND = """
def around(model, images):
    return model.layers(images.flatten(1)).log_softmax(dim=1)
"""
AT_ONCE = """
def at_once(loader):
    images, labels = zip(*loader)
    return [(torch.cat(images), torch.cat(labels))]
"""
IN_LOOK = "outputs = model(images)\n            losses"

AS_GIVEN = but(
    ("            optimizer.zero_grad()\n", ""),
    ("    model.eval()\n", ""),
    ('look(model, loaders["validation"])', 'look(model, loaders["test"])'),
    ("+= loss.item() * len(labels)", "+= loss.item()"),
    ("(losses / count)", '(losses / len(loaders["train"]))'),
    ("F.nll_loss(outputs, labels).item() * len(labels)", "F.nll_loss(outputs, labels).item()"),
    ("return losses / count", "return losses / len(loader)"),
)

TOOLKIT = """
def train_and_choose(model, loaders, optimizer, epochs):
    found = {"train_loss": [], "train_acc": [], "validation_loss": [], "validation_acc": []}
    for _ in range(epochs):
        train(model, "cpu", loaders["train"], optimizer, get_loss(), found["train_loss"], found["train_acc"])
        test(model, "cpu", loaders["validation"], get_loss(), found["validation_loss"], found["validation_acc"])
    found["test_loss"], found["test_acc"] = test(model, "cpu", loaders["test"], get_loss())
    return found
"""

# An answer's network, quickly trained on the small digits, or not trained at all
QUICK = """
from torch import nn
from model import MLP, create_model
set_seed(1)
batches = {"batch_size": 32, "shuffle": True}
quick_loader = get_MNISTdataset_with_loader("train", batches, dataset="digits", holdout="auto")
"""
SOME = f"{QUICK}trained = learn(create_model(hidden_sizes=(32,)), quick_loader, 2, 0.002)\n"
NEAREST = """
plain = get_MNISTdataset_with_loader("train", batches, dataset="digits").dataset


class Nearest(nn.Module):
    def __init__(self, images):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("known", images.clone())

    def forward(self, x):
        return x.flatten(1)[:, :10] * self.scale


"""
GLOBAL = """
hidden = Net()


class Behind(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * hidden(x)


"""
HELD = """
held_out_loader = get_MNISTdataset_with_loader("validation", {"batch_size": 500}, dataset="digits", holdout="auto")
held_out, tested = predictions(trained, held_out_loader), predictions(trained, test_loader)
"""
ALONE = """
alone = {{"classic": {0}, "batch size": {1}, "AdamW": {2}, "one cycle": {3}, "augmentation": {4}}}
carries = {5!r}
"""
LOW, MIDDLE, HIGH = [90.1, 90.5], [90.9, 91.9], [96.0, 96.2]

WRONG = {
    1: [
        (AS_GIVEN, "in several ways: begin with the loop over the training images"),
        ("train_and_choose = None", "no answer yet"),
        ("train_and_choose = {'train_loss': 0.1}", "expected the function of the cell above, not a dict"),
        (but(("            optimizer.zero_grad()\n", "")), "a step is made with more than its own batch's gradient"),
        (
            but(
                ("            optimizer.zero_grad()\n", ""),
                ("        model.train()", "        optimizer.zero_grad(); model.train()"),
            ),
            "a step is made with more than its own batch's gradient",
        ),
        (
            but(
                (
                    "            optimizer.zero_grad()\n            loss.backward()",
                    "            loss.backward()\n            optimizer.zero_grad()",
                )
            ),
            "the weights stay as they are",
        ),
        (but(("    model.eval()\n", "")), "in which mode is the network when it is judged?"),
        (
            but(("        model.train()\n", ""), ("    lowest = math.inf", "    lowest = math.inf\n    model.train()")),
            "it trains in evaluation mode",
        ),
        (
            but(('look(model, loaders["validation"])', 'look(model, loaders["test"])')),
            "the test images are read 5 times",
        ),
        (
            but(("copy.deepcopy(model.state_dict())", "model.state_dict()")),
            "the last epoch's weights are tested",
        ),
        (
            but(
                ("+= loss.item() * len(labels)", "+= loss.item()"),
                ("(losses / count)", '(losses / len(loaders["train"]))'),
            ),
            "a training loss is not the mean over the images",
        ),
        (
            but(
                ("F.nll_loss(outputs, labels).item() * len(labels)", "F.nll_loss(outputs, labels).item()"),
                ("return losses / count", "return losses / len(loader)"),
            ),
            "a validation loss is not the mean over the images",
        ),
        (
            but(("    return losses / count, 100 * correct", "    return losses / count, correct")),
            "validation_acc is not what the toolkit finds",
        ),
        (
            but(('found["train_acc"].append(100 * correct', 'found["train_acc"].append(correct')),
            "training accuracy is not that of `train`: in %",
        ),
        (
            but(
                ("if loss < lowest:", "if -accuracy < lowest:"),
                ("lowest, weights = loss", "lowest, weights = -accuracy"),
            ),
            "of the highest validation accuracy",
        ),
        (
            but(
                ('look(model, loaders["validation"])', 'look(model, [(x.clone(), y) for x, y in loaders["test"]])'),
                ("outputs = model(images)\n            losses", "outputs = model.forward(images)\n            losses"),
            ),
            "the test images are read 5 times",
        ),
        (
            but(
                ("outputs = model(images)\n            losses", "outputs = around(model, images)\n            losses"),
                (
                    "        if loss < lowest:",
                    "        loss, _ = look(model, loaders['test'])\n        if loss < lowest:",
                ),
            )
            + AROUND,
            "the test images are read 5 times",
        ),
        (
            but(("return found", "look(model, DataLoader(loaders['test'].dataset, 50))\n    return found")) + LOADER,
            "the test images are read 2 times",
        ),
        (
            but(
                ("loss = F.nll_loss(outputs, labels)\n", "loss = F.nll_loss(outputs, labels) * 0.9\n"),
                ('images, labels in loaders["train"]', "images, labels in clones(loaders['train'])"),
            )
            + CLONES,
            "training accuracy is not that of `train`",
        ),
        (
            but(
                ("outputs = model(images)\n            loss =", "outputs = model(images.clone())\n            loss ="),
                ("+= loss.item() * len(labels)", "+= loss.item()"),
                ("(losses / count)", '(losses / len(loaders["train"]))'),
            ),
            "a training loss is not the mean over the images",
        ),
        (
            but(
                (
                    "outputs = model(images)\n            loss =",
                    "outputs = model.layers(images.flatten(1)).log_softmax(1)\n            loss =",
                ),
                ("(losses / count)", "(losses)"),
            ),
            "the first epoch's training loss is not that of `train`",
        ),
        (but(("    return found", "    return found | {'test_acc': 'high'}")), "the test accuracy is not right"),
        (but(('= look(model, loaders["test"])', "= math.nan, math.nan")), "the test images are never read"),
        (but(("    return found", "    return found['test_acc']")), "it should return a dict"),
        (
            but(("    return found", "    return found | {'train_loss': found['train_loss'][-1]}")),
            "lists with one number an epoch",
        ),
        (but(("loss.backward()", "losses.backward()")), "it raised AttributeError"),
        (TOOLKIT, "write the steps out"),
    ],
    2: [
        ("other_net = Net", "that is a class"),
        ("other_net = Net()", "what guessing gives"),
        (f"{SOME}other_net = predictions(trained, other_test)", "a Predictions, expected a network"),
        (f"{SOME}other_net = trained", "a MLP, expected a Net"),
        (
            f"{SOME}import model\n\n\nclass Net(model.Net):\n    pass\n\n\nother_net = Net()",
            "import `Net` from model.py",
        ),
        (
            f"{SOME}import model\n\n\nclass Wide(model.Net):\n    pass\n\n\nother_net = Wide()",
            "import `Net` from model.py",
        ),
        (f"{QUICK}\n\nclass Net(nn.Module):\n    pass\n\n\nother_net = Net()", "import `Net` from model.py"),
        (f"{QUICK}other_net = Net()\nother_net.fc1 = nn.LazyLinear(50)", "a lazy layer has no weights"),
        (
            f"{QUICK}other_net = Net()\nother_net.conv4 = nn.Conv2d(128, 256, 3, bias=False)",
            "this Net has other layers",
        ),
        (
            "other_net = Net()\nother_test = get_MNISTdataset_with_loader('train', {'batch_size': 500}, dataset=OTHER)",
            "these are train images",
        ),
        (
            "other_net = Net()\nother_test.dataset.name = 'MNIST'",
            "these are images of MNIST: the task is about another",
        ),
        (
            "other_net = Net()\nother_test = get_MNISTdataset_with_loader('test', {'batch_size': 500}, dataset=OTHER,"
            " transform=get_train_transforms())",
            "the test images are augmented",
        ),
        (
            "other_net = Net()\nother_test = get_MNISTdataset_with_loader("
            "'test', {'batch_size': 250, 'drop_last': True}, dataset=OTHER)",
            "250 of 360 test images",
        ),
        ("other_net = Net()\nother_test = list(other_test)", "the second argument should be a loader"),
        (f"{QUICK}other_net = learn(Net(), quick_loader, 1, 0.002)", "below the target of 97.0 %"),
        ("other_net = Net()\nother_net.fc2.bias.data += math.nan", "infinite or no number (NaN)"),
        ("other_net = Net()\nother_net.fc2 = None", "this Net has other layers"),
    ],
    3: [
        ("alone = carries = None", "there is no answer yet"),
        ("alone = {'AdamW': [96.0, 96.2]}\ncarries = 'AdamW'", "a dict with the names classic, batch size"),
        (ALONE.format(LOW, LOW, 96.0, LOW, LOW, "AdamW"), "the results of 'AdamW' should be a list"),
        (ALONE.format(LOW, LOW, {1: 96.0, 2: 96.2}, LOW, LOW, "AdamW"), "the results of 'AdamW' should be a list"),
        (ALONE.format(LOW, LOW, "'96'", LOW, LOW, "AdamW"), "the results of 'AdamW' should be a list"),
        (ALONE.format(LOW, LOW, ["96.0", "96.2"], LOW, LOW, "AdamW"), "the results of 'AdamW' should be a list"),
        (ALONE.format(LOW, LOW, [96.13, 96.27], LOW, LOW, "AdamW"), "a multiple of 0.02 %"),
        (
            ALONE.format(LOW, LOW, HIGH, LOW, LOW, "AdamW") + "carries = torch.tensor([1, 2])",
            "a Tensor as the answer, expected one of batch size",
        ),
        (ALONE.format(LOW, LOW, [96.0], LOW, LOW, "AdamW"), "'AdamW' has 1 accuracies"),
        (ALONE.format(LOW, [90.2, 990.0], HIGH, LOW, LOW, "AdamW"), "outside 0 to 100 %"),
        (
            ALONE.format([0.901, 0.905], [0.9, 0.92], [0.96, 0.962], [0.9, 0.91], [0.9, 0.91], "AdamW"),
            "accuracies as fractions",
        ),
        (ALONE.format(*[[90.0, 90.0]] * 2, [96.0, 96.0], *[[90.0, 90.0]] * 2, "AdamW"), "both seeds give the same"),
        (ALONE.format(LOW, LOW, LOW, LOW, LOW, "AdamW"), "do the changes reach the training?"),
        (ALONE.format(LOW, MIDDLE, HIGH, LOW, LOW, None), "now say which change carries it"),
        (ALONE.format(LOW, MIDDLE, HIGH, LOW, LOW, "adam"), "'adam' is none of"),
        (ALONE.format(LOW, MIDDLE, HIGH, LOW, LOW, "classic"), "'classic' is none of"),
        (ALONE.format(LOW, MIDDLE, HIGH, LOW, LOW, "batch size"), "another change gains more than 'batch size'"),
        (ALONE.format(LOW, MIDDLE, HIGH, LOW, LOW, "undecided"), "one change is ahead with both seeds"),
        (ALONE.format(LOW, [91.8, 96.0], HIGH, LOW, LOW, "AdamW"), "does its lower seed beat"),  # a tie, too
        (ALONE.format(HIGH, MIDDLE, HIGH[::-1], LOW, LOW, "AdamW"), "does its lower seed beat"),
    ],
    4: [
        ("small_net = Net()", "593,200 parameters and buffers, counting those that are frozen"),
        ("small_net = Net().requires_grad_(False)", "593,200 parameters and buffers, counting those that are frozen"),
        (f"{QUICK}small_net = create_model(hidden_sizes=(24,))", "what guessing gives"),
        (f"{QUICK}{NEAREST}small_net = Nearest(plain.images[:100])", "78,401 parameters and buffers"),
        (
            f"{QUICK}{NEAREST}small_net = Nearest(plain.images[:1])\nsmall_net.more = {{'all': plain.images.numpy()}}",
            "1,126,608 numbers are kept beside its parameters",
        ),
        (
            f"{QUICK}{NEAREST}small_net = Nearest(plain.images[:1])\nsmall_net.f = [Net()]",
            "593,200 numbers are kept beside",
        ),
        (f"{QUICK}{GLOBAL}small_net = Behind()", "593,200 numbers are kept beside"),
        (f"{QUICK}small_net = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))", "a lazy layer has no weights"),
        (f"{QUICK}small_net = MLP", "that is a class"),
        (f"{SOME}small_net = create_model(hidden_sizes=())\nsmall_net.layers = None", "it has no parameters"),
        (
            f"{QUICK}small_net = learn(create_model(hidden_sizes=(24,)), quick_loader, 2, 0.002)",
            "below the target of 97.0 % on the test images",
        ),
        (f"{QUICK}small_net = nn.Sequential(nn.Flatten(), nn.Linear(784, 4))", "it gives the shape (2, 4)"),
        (f"{QUICK}small_net = nn.Sequential(nn.Linear(784, 10))", "it raised RuntimeError for a batch of test images"),
        (
            f"{QUICK}small_net = create_model(hidden_sizes=(24,))\n"
            "test_loader = get_MNISTdataset_with_loader('validation', {}, dataset='digits', holdout='auto')",
            "these are validation images",
        ),
        (
            f"{QUICK}small_net = create_model(hidden_sizes=(24,))\ntest_loader.dataset.name = 'KMNIST'",
            "images of KMNIST",
        ),
    ],
    5: [
        ("threshold = 0.9\nheld_out = tested = None", "there is no answer yet"),
        (f"{SOME}{HELD}threshold = 99.0", "a probability is at most 1"),
        (f"{SOME}{HELD}threshold = held_out.log_probabilities.amax(dim=1).min()", "was its logarithm left?"),
        (f"{SOME}{HELD}threshold = 'high'", "a str, expected a number"),
        (
            f"{SOME}{HELD}threshold = 0.0",
            "below the target of 99.0 % right answers on the test images",
        ),
        (
            f"{SOME}{HELD}threshold = held_out.confidence.median().item()",
            "of the held-out images only, and 95 % are wanted",
        ),
        (f"{SOME}{HELD}threshold = held_out.confidence.quantile(0.045).item() * 0.99", "it needs a better network"),
        (f"{SOME}{HELD}threshold, held_out = 0.3, tested[:287]", "these are not the validation images"),
        (f"{SOME}{HELD}threshold = 0.3\ntested.labels = tested.labels.flip(0) * 0", "these are not the test images"),
        (f"{SOME}{HELD}threshold = 9.0\nheld_out.log_probabilities *= 3", "add up to 1: does the network end in"),
        (f"{SOME}{HELD}threshold, held_out = 0.3, tested", "the threshold is chosen on the test images"),
        (f"{SOME}{HELD}threshold, held_out, tested = 0.3, tested, held_out", "the wrong way round"),
        (f"{SOME}{HELD}threshold, tested = 0.3, tested[:100]", "answers to 100 images"),
        (
            f"{SOME}{HELD}threshold, held_out = 0.3, predictions(trained, quick_loader)",
            "1,150 held-out images, expected 287",
        ),
        (f"{SOME}{HELD}threshold, tested = 0.3, tested.confidence", "the third argument is a Tensor"),
        (f"{QUICK}trained = Net()\n{HELD}threshold = 0.0", "the network guesses"),
    ],
}

RIGHT = {
    1: [
        LOOP,
        but((IN_LOOK, IN_LOOK.replace("(images)", "(images.clone())"))),
        but((IN_LOOK, IN_LOOK.replace("model(", "model.forward("))),
        but((IN_LOOK, IN_LOOK.replace("model(", "around(model, "))) + AROUND,
        but(("images, labels in loader:", "images, labels in at_once(loader):")) + AT_ONCE,
        but(("images, labels in loader:", "images, labels in DataLoader(loader.dataset, 64):")) + LOADER,
        but(("    return found", "    return {name: np.array(values) for name, values in found.items()}")),
        but(("    return found", "    return {name: torch.tensor(values) for name, values in found.items()}")),
    ],
    3: [
        ALONE.format(LOW, MIDDLE, HIGH, LOW, LOW, "AdamW"),
        ALONE.format(LOW, MIDDLE, "map(float, (96.0, 96.2))", LOW, LOW, "AdamW"),
        ALONE.format(LOW, MIDDLE, "np.array([96.0, 96.2])", LOW, LOW, "AdamW"),
        ALONE.format(LOW, [91.8, 96.0], HIGH, LOW, LOW, "undecided"),
        ALONE.format(*([100 * k / 287, 100 * (k + 1) / 287] for k in (200, 210, 220, 212, 214)), "AdamW"),
    ],
}
