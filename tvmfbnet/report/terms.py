"""Terms of the report that not every reader knows: explained on hover in headings, and in a glossary."""

from __future__ import annotations

import re
from html import escape

TERMS = {
    "arch": (
        "One block for every layer of the search space, as the search chooses them. Blocks are joined by commas, "
        "stages by slashes."
    ),
    "block": (
        "A candidate for a layer: k3_e6 is a 3x3 depthwise conv between 1x1 convs with an expansion of 6; "
        "_g2: grouped 1x1 convs, _se: squeeze-and-excitation, _hswish or _swish: an activation other than "
        "ReLU; skip leaves the layer out."
    ),
    "ONNX Runtime": (
        "Another inference runtime, timed in turn with the package on the same cores with the same number of "
        "threads, for comparison."
    ),
    "MACs": "Multiply-accumulate operations of the convs and the classifier for one image.",
    "parameters": "Trainable weights, those of batch norm included.",
    "top-1 accuracy": (
        "Share of images whose most probable class is the correct one. For the found net on the data set's "
        "test images; for the supernet on images held out of the training data."
    ),
    "latency table": (
        "The latency of each block in each layer on the target: measured, predicted or simulated; a net's predicted "
        "latency is the sum over its parts plus the overhead of one call of the runtime."
    ),
    "predicted": "Not timed: a block's latency comes from a regressor, a net's is the sum of its blocks.",
    "measured": "Timed on the device, in several measurement passes; never corrected.",
    "simulated": "Computed by a model of a processor, with no device; never mixed with measured latencies.",
    "regressor": (
        "The model (gradient-boosted trees and a Gaussian process) that predicts the blocks that were not timed "
        "from those that were."
    ),
    "interval": (
        "Bounds that contain the median latency with the stated probability, over measurement passes, and never "
        "narrower than 3 % on either side."
    ),
    "measurement pass": "One session on the device, with other work in between: the unit of all statistics.",
    "noise": "The wider half of the interval, relative to the latency.",
    "speed factor": (
        "The device's slowdown since the latency table was measured, from blocks that were timed again. It is "
        "stated beside the measured latency and never corrects it."
    ),
    "closed loop": (
        "After the search the found net is timed untrained, as latency does not depend on weights; if it misses "
        "the target, or leaves room below it, the measurement corrects the table and another net is chosen."
    ),
    "canary": ("A small fixed kernel: timed before and after each measurement, it shows drift of the device itself."),
    "supernet": (
        "A net with all candidate blocks in every layer, trained once; it judges archs without training them."
    ),
    "theta": (
        "The architecture parameters that the search learns, one for each block of each layer; their softmax is "
        "the probability of each block."
    ),
    "lottery ticket": (
        "A part of the found net, trained alone from the weights that the whole net once had: a winning one if it "
        "reaches the whole net's accuracy, and more than its control."
    ),
    "control": "The same pruned net, trained from other random weights.",
    "temperature": (
        "Temperature of the Gumbel softmax: the randomness of the choice of blocks during the search, high at "
        "first, then annealed."
    ),
    "entropy": "How undecided theta is: 0 where every layer has settled on one block.",
    "warm-up": "The first epochs of the search: weights are trained, theta is not.",
    "expected latency": "Mean latency over theta's distribution of nets.",
    "parity": (
        "Whether the compiled net's outputs on the device match PyTorch's: the largest difference, relative "
        "to the largest output."
    ),
    "tuning record": "The best schedule that tuning found for a kernel; a kernel without one runs slowly.",
    "seed": "Seed of the random generator: the same seed, data and versions give the same choices.",
}


def with_hint(text: str) -> str:
    """Text as HTML, with its first term explained on hover."""
    for term in sorted(TERMS, key=len, reverse=True):
        match = _find(term, text)
        if match is not None:
            hint = f'<abbr title="{escape(TERMS[term])}">{escape(match[0])}</abbr>'
            return escape(text[: match.start()]) + hint + escape(text[match.end() :])
    return escape(text)


def glossary_html(page: str) -> str:
    """A list of the terms that a page uses (in its text or its figures), for readers who cannot hover."""
    plain = re.sub(r"<[^>]*>", " ", page)
    used = [term for term in sorted(TERMS, key=str.lower) if _find(term, plain) is not None]
    items = "".join(f"<dt>{escape(term)}</dt><dd>{escape(TERMS[term])}</dd>\n" for term in used)
    return f"<h2>Terms</h2>\n<dl>\n{items}</dl>\n" if items else ""


def _find(term: str, text: str) -> re.Match[str] | None:
    """The term as a whole word, in the plural too."""
    return re.search(rf"\b{re.escape(term)}(?:e?s)?\b", text, re.IGNORECASE)
