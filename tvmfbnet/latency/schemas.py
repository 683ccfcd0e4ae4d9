"""Schemas of a stored regressor and a stored correction, checked when they are read.

xgboost trusts the trees of a regressor: a child or feature index that is too large would make it read outside its
arrays. So trees are checked here, node by node, before they are loaded.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from tvmfbnet.files import Stored
from tvmfbnet.latency.features import LOADS, SHAPES
from tvmfbnet.latency.gaussian_process import default_scales
from tvmfbnet.latency.roofline import COSTS

# Inputs of the trees: a part's shape, its loads, the base's latency and its shares.
INPUTS = len(SHAPES) + len(LOADS) + 1 + 3

Size = Annotated[int, Field(ge=1, le=2**20)]
Number = Annotated[float, Field(ge=-1e6, le=1e6)]
Whole = Annotated[int, Field(ge=-(2**53), le=2**53)]
Row = Annotated[list[Number], Field(min_length=4, max_length=4)]
Rows = Annotated[list[Row], Field(min_length=2, max_length=2)]
Zeros = list[Literal[0]]
Empty = Annotated[list[int], Field(max_length=0)]


class PartRecord(Stored):
    """A part of a net."""

    part: str
    block: str
    cin: Size
    cout: Size
    height: Size
    width: Size
    stride: Annotated[int, Field(ge=1, le=16)]


class KernelPartRecord(PartRecord):
    """A part and the summed latency of its kernels."""

    kernel_ms: Annotated[float, Field(ge=0, le=1e9)]


class _Xgboost(Stored):
    # Its files have more fields than matter for safety, and other versions add to them.
    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)


class TreeParameters(_Xgboost):
    """Sizes of a tree, which xgboost writes as texts."""

    num_nodes: str
    num_feature: str
    num_deleted: Literal["0"]
    size_leaf_vector: Literal["0", "1"]


class Tree(_Xgboost):
    """One regression tree as arrays over its nodes."""

    left_children: Annotated[list[int], Field(min_length=1, max_length=4096)]
    right_children: list[int]
    parents: list[Whole]
    split_indices: list[Annotated[int, Field(ge=0, lt=INPUTS)]]
    split_conditions: list[float]
    split_type: Zeros
    default_left: list[Literal[0, 1]]
    base_weights: list[float]
    loss_changes: list[float]
    sum_hessian: list[float]
    categories: Empty
    categories_nodes: Empty
    categories_segments: Empty
    categories_sizes: Empty
    tree_param: TreeParameters

    @model_validator(mode="after")
    def _sound(self) -> Tree:
        count = len(self.left_children)
        arrays = (
            *(self.right_children, self.parents, self.split_indices, self.split_conditions, self.split_type),
            *(self.default_left, self.base_weights, self.loss_changes, self.sum_hessian),
        )
        if any(len(array) != count for array in arrays) or self.tree_param.num_nodes != str(count):
            raise ValueError("a tree's arrays differ in length")
        if self.tree_param.num_feature != str(INPUTS):
            raise ValueError("a tree has other features")
        for node, children in enumerate(zip(self.left_children, self.right_children, strict=True)):
            inner = all(node < child < count for child in children)  # forwards only: no cycle
            if children != (-1, -1) and not inner:
                raise ValueError("a tree's node has children that do not exist")
            if inner and any(self.parents[child] != node for child in children):
                raise ValueError("a tree's parent and child links disagree")
        return self


class TreesParameters(_Xgboost):
    """The number of trees, as text."""

    num_trees: str
    num_parallel_tree: Literal["1"]


class Trees(_Xgboost):
    """The trees of a forest."""

    gbtree_model_param: TreesParameters
    iteration_indptr: list[int]
    tree_info: Zeros
    trees: Annotated[list[Tree], Field(min_length=1, max_length=1000)]

    @model_validator(mode="after")
    def _counted(self) -> Trees:
        count = len(self.trees)
        numbers = (self.gbtree_model_param.num_trees, len(self.tree_info), self.iteration_indptr)
        if numbers != (str(count), count, list(range(count + 1))):
            raise ValueError("a forest's number of trees differs from what it says")
        return self


class Booster(_Xgboost):
    """The forest within xgboost's learner."""

    name: Literal["gbtree"]
    model: Trees


class LearnerParameters(_Xgboost):
    """Inputs and outputs of a forest, as texts."""

    num_feature: Literal[f"{INPUTS}"]  # type: ignore[valid-type]
    num_class: Literal["0"]
    num_target: Literal["1"]
    base_score: Annotated[str, Field(pattern=r"^\[?-?[0-9.]{1,20}(E[-+]?[0-9]{1,2})?\]?$")]


class Objective(_Xgboost):
    """What a forest was trained for."""

    name: Literal["reg:squarederror"]


class Learner(_Xgboost):
    """xgboost's learner."""

    learner_model_param: LearnerParameters
    gradient_booster: Booster
    objective: Objective


class Forest(_Xgboost):
    """A forest in xgboost's own JSON form."""

    learner: Learner
    version: Annotated[list[int], Field(min_length=3, max_length=3)]


class BaseRecord(Stored):
    """The physical base."""

    log_costs: dict[str, Number]
    lowest: Rows
    highest: Rows
    element_bytes: Annotated[int, Field(ge=1, le=16)]

    @model_validator(mode="after")
    def _all_costs(self) -> BaseRecord:
        if set(self.log_costs) != set(COSTS):
            raise ValueError("costs are missing or unknown")
        return self


class KernelBaseRecord(Stored):
    """The base of parts whose kernels were tuned."""

    physical: BaseRecord
    kernels: list[KernelPartRecord]


class EnsembleRecord(Stored):
    """The ensemble of a regressor."""

    base: BaseRecord | KernelBaseRecord
    centre: Number
    forests: Annotated[list[Forest], Field(min_length=1, max_length=16)]
    scales: list[Annotated[float, Field(ge=-50, le=50)]]
    parts: Annotated[list[PartRecord], Field(min_length=1, max_length=5000)]
    values: list[Number]

    @model_validator(mode="after")
    def _one_each(self) -> EnsembleRecord:
        if len(self.values) != len(self.parts) or len(self.scales) != len(default_scales()):
            raise ValueError("the numbers of values, parts and scales do not match")
        return self


class EnsembleWeightsRecord(Stored):
    """How the two models of the ensemble are combined."""

    trees: Annotated[float, Field(ge=0, le=1)]
    width: Annotated[float, Field(ge=0, le=1e9)]


class RegressorRecord(Stored):
    """A stored latency regressor."""

    schema_version: int
    labels: Literal["measured", "simulated"] = "measured"
    costs: list[str]
    shapes: list[str]
    coordinates: list[str]
    loads: list[str]
    seed: Whole
    known_shape: EnsembleWeightsRecord
    new_shape: EnsembleWeightsRecord
    members: EnsembleRecord


class CorrectionBody(Stored):
    """The correction of a study: kind, offset, and factors by height."""

    kind: Literal["none", "scale", "scale and offset", "scale for each resolution"]
    offset_ms: Annotated[float, Field(ge=-1e9, le=1e9)]
    scales: dict[Annotated[str, Field(pattern=r"^[0-9]{1,6}$")], Annotated[float, Field(gt=0, le=1e3)]]

    @model_validator(mode="after")
    def _has_default(self) -> CorrectionBody:
        if "0" not in self.scales:
            raise ValueError("the factor of other parts (0) is missing")
        return self


class CorrectionRecord(Stored):
    """``correction-SPACE-KEY.json``, as far as it is read back; the study in it is for people."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    schema_version: int
    table: Any
    correction: CorrectionBody
