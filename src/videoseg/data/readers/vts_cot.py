"""Data reader: VTS-CoT, the multi-turn dialogues of cold start (O3 specification §11, benchmarks §4.2)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from videoseg.data.readers.base import Reader, field, frame_number, text_field
from videoseg.data.readers.traced import FilesBySet
from videoseg.data.sample import Origin, TraceSample
from videoseg.dialogue.grammar import parse
from videoseg.errors import ReplyError
from videoseg.types import Interval, Select

FOLDERS = ("VTS-CoT", "VTG-CoT")


class VtsCotReader(Reader[TraceSample]):
    """`VTS-CoT/` or `VTG-CoT/` with `{revos,mevis,longrvos}.json`; frames and masks in `video_datas/`.

    `folder` is that folder or its parent; `split` is `train` (all files that are there) or the name of one.
    A dialogue ends at the first reply that is no `<select>`; an item without any select is a single turn.
    Every select must say what `cot_trace` says.
    """

    dataset = "vts-cot"

    def __init__(self, folder: Path | str, split: str = "train", *, videos: Path | str | None = None) -> None:
        super().__init__(folder, split)
        home = next((self.folder / name for name in FOLDERS if (self.folder / name).is_dir()), self.folder)
        self.files = FilesBySet(home, "{}.json", split, videos, " or ".join(FOLDERS))

    def __len__(self) -> int:
        return len(self.files)

    def sample(self, index: int) -> TraceSample:
        """Dialogue number `index`, over all files."""
        source, path, number, item = self.files[index]
        origin = self.origin(path, str(number))
        video, frames, query, targets = source.read(item, origin)
        origin = replace(origin, key=f"{number} ({video})")
        high = field(item, "sample_frame_indice", list, origin)
        shown = {
            frame_number(v, len(frames), origin, f"sample_frame_indice[{i}]") for i, v in enumerate(high)
        }
        if not shown:
            raise origin.error("sample_frame_indice", "the list is empty")
        system, prompts, replies = messages(item, origin)
        selects, count = trace(item, replies, len(frames), origin)
        return TraceSample(
            origin,
            frames,
            query,
            targets,
            tuple(sorted(shown)),
            system,
            prompts[:count],
            replies[:count],
            selects,
            video,
        )

    def counts(self) -> dict[str, int]:
        """Dialogues by file."""
        return {"dialogues": len(self), **self.files.counts()}


def messages(item: Any, origin: Origin) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """System text, human texts and assistant texts of `conversations`."""
    listed = field(item, "conversations", list, origin)
    who = [field(message, "from", str, origin, f"conversations[{i}]") for i, message in enumerate(listed)]
    if len(who) < 3 or who != ["system", *["human", "gpt"] * (len(who) // 2)]:
        order = ", ".join(who) or "nothing"
        raise origin.error(
            "conversations", f"system, then human and gpt in turn, ending with gpt; there is {order}"
        )
    texts = [field(message, "value", str, origin, f"conversations[{i}]") for i, message in enumerate(listed)]
    for number in range(2, len(texts), 2):
        text_field(listed[number], "value", origin, f"conversations[{number}]")
    return texts[0], tuple(texts[1::2]), tuple(text.strip() for text in texts[2::2])


def trace(
    item: Any, replies: tuple[str, ...], num_frames: int, origin: Origin
) -> tuple[tuple[Select, ...], int]:
    """The selects of a dialogue, and how many replies it has: reading ends after the first without one."""
    steps = item.get("cot_trace", [])
    if not isinstance(steps, list):
        raise origin.error("cot_trace", "no list")
    selects: list[Select] = []
    for number, text in enumerate(replies):
        at = f"conversations[{2 * (number + 1)}]"
        try:
            reply = parse(text)
        except ReplyError as error:
            raise origin.error(at, f"the reply does not follow the turn grammar: {error}") from error
        if not isinstance(reply, Select):
            return tuple(selects), number + 1
        if number >= len(steps):
            raise origin.error("cot_trace", f"{len(steps)} steps, but {at} selects frames for a further one")
        _agree(reply, steps[number], origin, f"cot_trace[{number}]")
        selects.append(_checked(reply, num_frames, origin, at))
    raise origin.error("conversations", "the dialogue ends with a select; its last reply must answer")


def _agree(reply: Select, step: Any, origin: Origin, at: str) -> None:
    names = ("start_frame", "end_frame", "key_frame")
    stated = tuple(field(step, name, int, origin, at) for name in names)
    said = (reply.interval.start, reply.interval.end, reply.keyframe)
    if stated != said:
        raise origin.error(at, f"start, end and key frame {stated} differ from the reply's {said}")


def _checked(reply: Select, num_frames: int, origin: Origin, at: str) -> Select:
    start = frame_number(reply.interval.start, num_frames, origin, f"{at} start")
    end = frame_number(reply.interval.end, num_frames, origin, f"{at} end")
    frame_number(reply.keyframe, num_frames, origin, f"{at} keyframe")
    if end < start:
        raise origin.error(at, f"the interval {start} to {end} holds no frame")
    return replace(reply, interval=Interval(start, end))
