"""Data readers: official dataset layouts, one file each; `open_dataset` finds the reader of a name."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from videoseg.data.readers.base import Reader
from videoseg.errors import UsageError

READERS: dict[str, str] = {
    "refcoco": "readers.refcoco:RefCocoReader",
    "refcoco+": "readers.refcoco:RefCocoPlusReader",
    "refcocog": "readers.refcoco:RefCocogReader",
    "gcg-refcocog": "readers.gcg:RefCocogGcgReader",
    "gcg-flickr30k": "readers.gcg:FlickrReader",
    "gcg-openpsg": "readers.gcg:OpenPsgReader",
    "gcg-grandf": "readers.gcg:GcgReader",
    "ref-ytvos": "readers.ref_ytvos:RefYtvosReader",
    "mevis": "readers.mevis:MevisReader",
    "revos": "readers.revos:RevosReader",
    "long-rvos": "readers.long_rvos:LongRvosReader",
    "ref-sav": "readers.ref_sav:RefSavReader",
    "chat-univi": "readers.chat_univi:ChatUniviReader",
    "timelens": "readers.timelens:TimeLensReader",
    "vts-cot": "readers.vts_cot:VtsCotReader",
    "rl": "readers.rl:RlReader",
    "own": "own:OwnReader",
}
NEED_VIDEOS = ("vts-cot", "rl")


def open_dataset(
    name: str, folder: Path | str, split: str = "train", *, videos: Path | str | None = None
) -> Reader[Any]:
    """The reader of dataset `name` on `folder`.

    `videos` is the folder of the video sets that `vts-cot` and `rl` refer to. Raises `UsageError` for an
    unknown name or an option that does not belong, `DatasetError` where the folder does not fit.
    """
    if name not in READERS:
        raise UsageError(f"unknown dataset {name!r}; there are {', '.join(READERS)}")
    module, _, kind = READERS[name].partition(":")
    reader = getattr(import_module(f"videoseg.data.{module}"), kind)
    if name in NEED_VIDEOS:
        opened: Reader[Any] = reader(folder, split, videos=videos)
        return opened
    if videos is not None:
        raise UsageError(f"videos belongs to {' and '.join(NEED_VIDEOS)}, not to {name}")
    plain: Reader[Any] = reader(folder, split)
    return plain
