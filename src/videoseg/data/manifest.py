"""Data: what is known of each dataset: where it is published, its licence, its counts (users R33).

Counts and names are those of the specification (benchmarks §3, §4); None and "unknown" mean that it
does not state them. `doubtful` splits have counts that nobody has confirmed on the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from videoseg.errors import UsageError

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """One dataset: sources are a hosting site and a repository id, `counts` are by split and by name."""

    name: str
    title: str
    sources: tuple[str, ...]
    licence: str = UNKNOWN
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    doubtful: tuple[str, ...] = ()
    sha256: str = UNKNOWN
    unverified: tuple[str, ...] = ()

    def expected(self, split: str) -> Mapping[str, int]:
        """Counts of a split; empty where the specification states none."""
        return self.counts.get(split, {})


O3_FILES = "ModelScope dmmm997/VideoSEG-O3"
SA2VA_FILES = "Hugging Face Dense-World/Sa2VA-Training"
COCO = "COCO 2014 images (cocodataset.org)"

ENTRIES = (
    DatasetInfo("refcoco", "RefCOCO", ("GitHub lichengunc/refer", SA2VA_FILES, COCO)),
    DatasetInfo("refcoco+", "RefCOCO+", ("GitHub lichengunc/refer", SA2VA_FILES, COCO)),
    DatasetInfo("refcocog", "RefCOCOg (UMD)", ("GitHub lichengunc/refer", SA2VA_FILES, COCO)),
    DatasetInfo("gcg-refcocog", "GCG of RefCOCOg", ("GitHub mbzuai-oryx/groundingLMM", SA2VA_FILES, COCO)),
    DatasetInfo(
        "gcg-flickr30k",
        "GCG of Flickr30k",
        ("GitHub mbzuai-oryx/groundingLMM", SA2VA_FILES),
        unverified=("whether tokens_positive counts characters of the caption as stored",),
    ),
    DatasetInfo("gcg-openpsg", "GCG of OpenPSG", ("GitHub mbzuai-oryx/groundingLMM", SA2VA_FILES)),
    DatasetInfo("gcg-grandf", "GranDf (human annotated)", ("GitHub mbzuai-oryx/groundingLMM", SA2VA_FILES)),
    DatasetInfo(
        "ref-ytvos",
        "Ref-YouTube-VOS",
        ("GitHub skynbe/Refer-Youtube-VOS", SA2VA_FILES),
        counts={
            "train": {"videos": 3_471, "expressions": 12_913},
            "valid": {"videos": 202, "expressions": 834},
        },
        doubtful=("valid",),
    ),
    DatasetInfo(
        "mevis",
        "MeViS",
        ("GitHub henghuiding/MeViS", "Hugging Face FudanCVL/MeViSv2 (a later version)"),
        counts={
            "train": {"videos": 1_662, "expressions": 23_051},
            "valid_u": {"videos": 50, "expressions": 793},
            "valid": {"videos": 140, "expressions": 2_236},
            "test": {"videos": 154, "expressions": 2_490},
        },
    ),
    DatasetInfo(
        "revos",
        "ReVOS",
        ("GitHub cilinyan/ReVOS-api",),
        counts={"train": {"videos": 626}, "valid": {"videos": 416}},
        doubtful=("train", "valid"),
        sha256="listed in the README of ReVOS-api",
        unverified=(
            "some TAO masks belong to frame 30·i instead of i (VISA issue 9)",
            "some UVO masks drift (VISA issue 18)",
        ),
    ),
    DatasetInfo(
        "long-rvos",
        "Long-RVOS",
        ("Hugging Face iSEE-Laboratory/Long-RVOS",),
        licence="Apache-2.0 (dataset card)",
        counts={"train": {"videos": 1_855}, "valid": {"videos": 112}, "test": {"videos": 226}},
        doubtful=("train", "valid", "test"),
        unverified=("type and base of obj_id", "whether test has Annotations"),
    ),
    DatasetInfo(
        "ref-sav",
        "Ref-SAV (training set of Sa2VA)",
        (SA2VA_FILES, "SA-V videos and masks (ai.meta.com)"),
        unverified=("whether Ref-SAV.json and sam_v_final_custom.json are the same file",),
    ),
    DatasetInfo(
        "chat-univi", "ChatUniVi video conversations", (SA2VA_FILES, "GitHub PKU-YuanGroup/Chat-UniVi")
    ),
    DatasetInfo("timelens", "TimeLens-100K", ("Hugging Face TencentARC/TimeLens-100K",)),
    DatasetInfo(
        "vts-cot",
        "VTS-CoT",
        (O3_FILES,),
        unverified=(
            "the size of its files",
            "its exact wording",
            "whether every dialogue ends with a valid answer",
        ),
    ),
    DatasetInfo(
        "rl", "prompts of the reinforcement stage", (O3_FILES,), unverified=("the size of its files",)
    ),
    DatasetInfo("own", "your own data", ("docs/data.md",), licence="yours"),
)
MANIFEST: dict[str, DatasetInfo] = {entry.name: entry for entry in ENTRIES}


def info(name: str) -> DatasetInfo:
    """The entry of a dataset; raises `UsageError` for an unknown name."""
    if name not in MANIFEST:
        raise UsageError(f"unknown dataset {name!r}; there are {', '.join(MANIFEST)}")
    return MANIFEST[name]
