"""Evaluation protocols: one small table per benchmark and variant (benchmarks §3, §5), run by `scoring.py`.

`official` is what the benchmark's own script computes on complete predictions, `o3` what VideoSEG-O3's
released scorer defines. Both are equal where only `official` is listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from videoseg.data.world.queries import FAMILIES
from videoseg.errors import UsageError
from videoseg.evaluation import truth
from videoseg.evaluation.truth import Item


@dataclass(frozen=True, slots=True)
class Protocol:
    """How one benchmark is scored.

    `metrics` are names of `scoring.METRICS`. Items of other groups than `groups` (if there are any) enter no
    mean; `overall` is the mean over all items or over the groups' means. `decimals`: percentages of each
    item are rounded before they are averaged. `empty_frames`: a missing frame is an empty mask instead of
    0. `excluded` videos are left out. `expected` numbers of videos and expressions by split, None: unknown.
    `family` "labelmap" lets the objects of a video compete (§3.3). `remark` is printed with the scores.
    """

    benchmark: str
    name: str
    items: Callable[[Path, str], Iterable[Item]]
    split: str = "valid"
    metrics: tuple[str, ...] = ("J", "F")
    groups: tuple[str, ...] = ()
    overall: str = "items"
    decimals: int | None = None
    empty_frames: bool = False
    excluded: frozenset[str] = frozenset()
    expected: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)
    family: str = "per_expression"
    plain_mean: bool = False
    remark: str = ""


_MEVIS = Protocol(
    "mevis", "official", truth.mevis, "valid_u", expected={"valid_u": (50, 793), "valid": (140, 2236)}
)
_YTVOS = Protocol("ref-ytvos", "official", truth.ref_ytvos, expected={"valid": (202, None)})
_DAVIS = Protocol("ref-davis17", "o3", truth.ref_davis, expected={"valid": (30, 244)})
_SAV = Protocol(
    "ref-sav",
    "official",
    truth.ref_sav,
    metrics=("J", "F", "A", "A_or"),
    groups=("long", "short"),
    overall="groups",
    decimals=2,
    plain_mean=True,
    remark="overall is the mean of long and short; plain_mean is over all expressions (UniPixel)",
)
_LONG = Protocol(
    "long-rvos",
    "official",
    truth.long_rvos,
    metrics=("J", "F", "tIoU", "vIoU"),
    groups=("static", "dynamic", "hybrid"),
    empty_frames=True,
)
_REVOS = Protocol(
    "revos",
    "official",
    truth.revos,
    metrics=("J", "F", "A", "R", "A_or", "R_or"),
    groups=("referring", "reasoning"),
    overall="groups",
    decimals=2,
    remark="A and R with summed instances, as the scripts compute them; A_or and R_or with united ones",
)
_REASON = Protocol("reasonvos", "official", truth.reason_vos, split="test")
_GROUND = Protocol(
    "groundmore",
    "official",
    truth.groundmore,
    split="test_v2",
    groups=("Causal", "Sequential", "Counterfactual", "Descriptive"),
)
_WORLD = Protocol(
    "world",
    "official",
    truth.world,
    split="test",
    metrics=("J", "F", "tIoU", "vIoU"),
    groups=FAMILIES,
    overall="groups",
    remark="generated clips; overall weighs the families equally",
)
TABLE = (
    _MEVIS,
    replace(_MEVIS, name="o3", remark="same arithmetic as official"),
    _YTVOS,
    replace(_YTVOS, name="o3", items=truth.ref_ytvos_all, expected={}, remark="no filter of the 202 videos"),
    replace(
        _DAVIS,
        name="official",
        family="labelmap",
        remark="family labelmap: not comparable with per_expression; mean of four text sources",
    ),
    replace(_DAVIS, remark="family per_expression: not comparable with labelmap"),
    _SAV,
    replace(_SAV, name="o3"),
    _LONG,
    replace(
        _LONG,
        name="o3",
        metrics=("J", "F", "J_sampled", "J_key"),
        empty_frames=False,
        excluded=frozenset({"71fb69bbcd"}),
        remark="one video left out; the released scorer's reading of obj_id is not reproduced",
    ),
    _REVOS,
    replace(_REVOS, name="o3"),
    _REASON,
    replace(_REASON, name="o3", items=truth.reason_vos_o3, remark="all listed frames"),
    _GROUND,
    replace(_GROUND, name="o3"),
    _WORLD,
)
PROTOCOLS = {(table.benchmark, table.name): table for table in TABLE}


def protocol(benchmark: str, name: str = "official") -> Protocol:
    """The table of a benchmark and variant; raises `UsageError` naming what there is."""
    if (benchmark, name) not in PROTOCOLS:
        known = ", ".join(f"{one} ({variant})" for one, variant in PROTOCOLS)
        raise UsageError(f"no protocol {name} of benchmark {benchmark}; there are {known}")
    return PROTOCOLS[benchmark, name]
