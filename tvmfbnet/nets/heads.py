"""Heads as torch modules, shared by the net of one arch and the supernet: see :mod:`tvmfbnet.space.heads`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import nn

from tvmfbnet.nets.blocks import build_part
from tvmfbnet.nets.boxes import decoded
from tvmfbnet.space.heads import CLASSIFIER, LRASPP, SSDLITE, anchors_of, head_maps
from tvmfbnet.space.space import Space


class LrasppHead(nn.Module):
    """LR-ASPP over some feature maps.

    Args:
        space: says which maps, of what shapes.
    """

    def __init__(self, space: Space) -> None:
        super().__init__()
        gated, logits, *enlarged = (build_part(part) for part in space.head)
        self.gated, self.logits = gated, logits
        self.resizes, self.finer_logits = nn.ModuleList(enlarged[::2]), nn.ModuleList(enlarged[1::2])

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Feature maps, coarsest first, to logits (N, classes, height, width) at the finest map's size."""
        logits: torch.Tensor = self.logits(self.gated(maps[0]))
        for resize, finer, given in zip(self.resizes, self.finer_logits, maps[1:], strict=True):
            logits = finer(given) + resize(logits)
        return logits


class SsdliteHead(nn.Module):
    """SSDLite over some feature maps.

    Args:
        space: says which maps, of what shapes.
    """

    anchors: torch.Tensor

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.predictors, self._each = nn.ModuleList(build_part(part) for part in space.head), space.classes + 4
        self._anchors = anchors_of(space)
        self.register_buffer("anchors", torch.tensor([self._anchors]), persistent=False)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Feature maps, coarsest first, to (N, anchors, classes + 8): logits, offsets, and the anchor itself."""
        joined = self._answers(maps)
        return torch.cat([joined, self.anchors.to(joined.dtype).expand(len(joined), -1, -1)], dim=2)

    def exported(self, maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """What an application takes, which knows no anchors: scores and boxes, both float32.

        Scores (N, anchors, classes) are probabilities, class 0 being background; boxes (N, anchors, 4) are corners
        (left, top, right, bottom) as shares of the image, within it. Non-maximum suppression is what follows.
        """
        answers = self._answers(maps)
        if answers.dtype != torch.float32:  # a conversion of nothing would be exported, too
            answers = answers.float()
        # From numbers, as the buffer has the dtype that the net computes in.
        anchors = torch.tensor([self._anchors], device=answers.device)
        boxes = decoded(answers[..., -4:], anchors).clamp(0, 1)
        return answers[..., :-4].softmax(dim=2), boxes

    def _answers(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits and offsets, (N, anchors, classes + 4)."""
        flattened = []
        for predictor, given in zip(self.predictors, maps, strict=True):
            answers = predictor(given).permute(0, 2, 3, 1)
            flattened.append(answers.reshape(len(answers), -1, self._each))
        return torch.cat(flattened, dim=1)


_OTHERS: dict[str, Callable[[Space], nn.Module]] = {LRASPP: LrasppHead, SSDLITE: SsdliteHead}


class HeadedNet(nn.Module):
    """A net that ends in the head of its space; it has ``features``, and calls :meth:`build_head` once it has layers.

    A classifier's modules lie beside the layers, as they always have in checkpoints.
    """

    space: Space

    def build_head(self, dropout: float = 0.0) -> None:
        """Makes the head's modules, freshly initialised.

        Args:
            dropout: probability before a classifier.
        """
        self._taken = tuple(each.layer for each in head_maps(self.space))
        if self.space.head_kind != CLASSIFIER:
            self.head: nn.Module = _OTHERS[self.space.head_kind](self.space)
            return
        conv, pool, linear = self.space.head
        self.head_conv, self.head_pool = build_part(conv), build_part(pool)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.head_linear = build_part(linear)

    def run_head(self, maps: dict[int, torch.Tensor]) -> torch.Tensor:
        """Feature maps by the layer that gives them to outputs: (N, classes), or those of another head."""
        if self.space.head_kind != CLASSIFIER:
            return self.head([maps[layer] for layer in self._taken])  # type: ignore[no-any-return]
        x = self.head_pool(self.head_conv(maps[self._taken[0]]))
        return self.head_linear(self.dropout(x))  # type: ignore[no-any-return]

    def exported_head(self, maps: dict[int, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """As :meth:`run_head`, to the outputs of an exported net: :func:`tvmfbnet.space.heads.output_names`."""
        if self.space.head_kind != SSDLITE:
            return (self.run_head(maps),)
        return cast(SsdliteHead, self.head).exported([maps[layer] for layer in self._taken])

    def head_state(self) -> dict[str, torch.Tensor]:
        """The head's part of the state, by its names in the net."""
        return {name: tensor for name, tensor in self.state_dict().items() if name.startswith("head")}
