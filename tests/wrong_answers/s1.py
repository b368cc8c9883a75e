"""Wrong answers to Session 1's exercises, with a piece of the hint that each should get."""

WRONG = {
    1: [
        ("parameters = 784 * 256 + 256 * 128 + 128 * 10", "biases are missing"),
        ("parameters = None", "no answer yet"),
    ],
    2: [
        ("my_loss = F.nll_loss", "without `nll_loss`"),
    ],
}
