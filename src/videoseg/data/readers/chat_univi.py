"""Data reader: the video conversations of ChatUniVi (benchmarks §4.1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videoseg.data.frames import FileFrames
from videoseg.data.lazy import LazyList, find_path
from videoseg.data.readers.base import Reader, field, text_field
from videoseg.data.sample import ChatSample, ChatTurn, Origin

MARK = "<video>"
SUFFIXES = (".mp4", ".mkv", ".webm", ".avi")


class ChatUniviReader(Reader[ChatSample]):
    """`chat_univi/{video_chat.json, Activity_Videos/}`: `[{video, conversations: [{from, value}]}]`.

    The mark `<video>` is removed from questions. A video that is stored under another suffix (mkv as mp4)
    is found.
    """

    dataset = "chat-univi"

    def __init__(self, folder: Path | str, split: str = "train") -> None:
        super().__init__(folder, split)
        self.meta = find_path("the conversations", self.folder / "video_chat.json")
        self.video_root = find_path("the videos", self.folder / "Activity_Videos")
        self._items = LazyList(self.meta)

    def __len__(self) -> int:
        return len(self._items)

    def sample(self, index: int) -> ChatSample:
        """Conversation number `index`."""
        origin = self.origin(self.meta, str(index))
        item = self._items[index]
        name = text_field(item, "video", origin)
        turns = conversation(field(item, "conversations", list, origin), origin)
        return ChatSample(origin, FileFrames(self._file(name, origin)), turns)

    def _file(self, name: str, origin: Origin) -> Path:
        stated = self.video_root / name
        for path in (stated, *(stated.with_suffix(suffix) for suffix in SUFFIXES)):
            if path.is_file():
                return path
        raise origin.error("video", f"{stated}: no such file, also not as {', '.join(SUFFIXES)}")

    def counts(self) -> dict[str, int]:
        """Conversations."""
        return {"conversations": len(self)}


def conversation(messages: list[Any], origin: Origin) -> tuple[ChatTurn, ...]:
    """Pairs of question and answer; an answer before the first question is left out.

    Raises `DatasetError` where two messages of one side follow each other or the last question is open.
    """
    said = [(field(m, "from", str, origin, f"conversations[{i}]"), m) for i, m in enumerate(messages)]
    while said and said[0][0] == "gpt":
        said = said[1:]
    if not said or [who for who, _ in said] != ["human", "gpt"] * (len(said) // 2):
        order = ", ".join(who for who, _ in said) or "nothing"
        raise origin.error(
            "conversations", f"human and gpt must take turns and gpt come last; there is {order}"
        )
    texts = [text_field(m, "value", origin, "conversations").replace(MARK, "").strip() for _, m in said]
    return tuple(ChatTurn(question, answer) for question, answer in zip(texts[::2], texts[1::2], strict=True))
