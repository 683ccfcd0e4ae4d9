"""The words of the report that not every reader knows: shown on hover where they head something, and in a glossary."""

from __future__ import annotations

import re
from html import escape

TERMS = {
    "arch": (
        "One block for every layer of the search space: what the search chooses. Blocks are joined by commas, "
        "stages by slashes."
    ),
    "block": (
        "What may stand in a layer: k3_e6 is a 3x3 depthwise conv between 1x1 convs that expand the channels "
        "six times; _g2: grouped 1x1 convs, _se: squeeze-and-excitation, _hswish or _swish: another "
        "activation than ReLU; skip leaves the layer out."
    ),
    "ONNX Runtime": (
        "Another program that runs nets, timed in turn with the package on the same cores and with as many "
        "threads: something to compare with."
    ),
    "MACs": "Multiply-accumulate operations of the convs and the classifier for one image.",
    "parameters": "Weights that training learns, BatchNorm's included.",
    "top-1 accuracy": (
        "Share of images whose most probable class is the right one. The found net's is of the data set's "
        "test images; the supernet's is of images that were held out of the training data."
    ),
    "latency table": (
        "What each block costs in each layer on the target, measured or predicted; a net's predicted latency "
        "is the sum of its parts and of one call of the runtime."
    ),
    "predicted": "Not timed. A block's latency comes from a regressor, a net's from adding up its blocks.",
    "measured": "Timed on the device, in sessions of their own (visits); nothing corrects it.",
    "regressor": (
        "The model (gradient-boosted trees) that predicts the blocks which were not timed from those that were."
    ),
    "interval": (
        "Bounds that hold the median latency with the probability given, from visits to the device, and never "
        "narrower than 3 % on either side."
    ),
    "visit": "One session on the device, other work in between: the unit of all statistics.",
    "noise": "The wider half of the interval, relative to the latency.",
    "speed factor": (
        "How many times slower the device was than when the latency table was timed, by blocks that were "
        "timed again. It is told beside the measured latency and never corrects it."
    ),
    "closed loop": (
        "After the search the found net is timed untrained, as latency does not depend on weights; where it misses "
        "the target, or leaves much to spare, the table is corrected by it and another net is chosen."
    ),
    "canary": (
        "A small kernel that is always the same: timed again and again, it tells when the device itself "
        "changes its speed."
    ),
    "supernet": (
        "A net with all candidate blocks in every layer, trained once; it judges archs without training them."
    ),
    "theta": (
        "The numbers that the search learns, one for each block of each layer: their softmax is the "
        "probability of each block."
    ),
    "temperature": ("How much chance there is in the choice of blocks during the search: high at first, then lowered."),
    "entropy": "How undecided theta is: 0 where every layer has settled on one block.",
    "warm-up": "First epochs of the search: weights are trained, theta is not.",
    "expected latency": "Mean latency of the nets that theta would choose.",
    "parity": (
        "Whether the compiled net's outputs on the device equal PyTorch's: the largest difference, relative "
        "to the largest output."
    ),
    "tuning record": "A schedule that tuning found for a kernel; a kernel without one runs slowly.",
    "seed": "Where random choices start: the same seed, data and versions give the same choices.",
}


def with_hint(text: str) -> str:
    """Text for HTML in which the first term that it holds is explained on hover."""
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
    """The term as a word of its own, in the plural too."""
    return re.search(rf"\b{re.escape(term)}s?\b", text, re.IGNORECASE)
