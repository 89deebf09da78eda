"""What both systems do alike around a question: check queries, open the video, keep a journal (design §2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from videoseg.errors import UsageError
from videoseg.systems.follow import FrameMask, Progress
from videoseg.systems.journal import Journal, stamp
from videoseg.systems.player import Notify
from videoseg.types import Query, Result
from videoseg.video.reader import Video

Asked = str | Query | Sequence[str | Query]


class System(ABC):
    """Answers questions about videos; a subclass says how."""

    def segment(
        self,
        source: Any,
        query: Asked,
        *,
        progress: Progress | None = None,
        notify: Notify | None = None,
        journal: Path | str | None = None,
    ) -> Any:
        """Masks and reasoning for one query (`Result`) or several (`list[Result]`, same order).

        `source` is a `Video` or whatever `Video` opens; several queries share what can be shared of the
        video's features. Memory does not grow with the length of the video.
        `journal` names a folder in which progress is kept, so that an interrupted call goes on where it
        stopped when it is made again; the folder is removed at the end.
        """
        queries = self._checked(query)
        with _opened(source) as video:
            if journal is None:
                results = self._segment(video, queries, progress, notify, None)
            else:
                head = {
                    "video": asdict(video.info),
                    "file": stamp(video.info.source),
                    "queries": [asdict(each) for each in queries],
                    **self._head(),
                }
                with closing(Journal(Path(journal), head)) as kept:
                    results = self._segment(video, queries, progress, notify, kept)
                    kept.discard()
        return results[0] if isinstance(query, str | Query) else results

    def stream(self, source: Any, query: Asked) -> Iterator[FrameMask]:
        """As `segment`, but masks one by one as they are made: forward first, then backward.

        `FrameMask.query` counts the queries from 0; a query without an object yields nothing.
        """
        queries = self._checked(query)
        with _opened(source) as video:
            yield from self._stream(video, queries)

    def _checked(self, query: Asked) -> list[Query]:
        queries = as_queries(query)
        for each in queries:
            self._check(each.text)
        return queries

    @abstractmethod
    def _check(self, text: str) -> None:
        """Raises QueryError for a text that cannot be asked."""

    @abstractmethod
    def _head(self) -> dict[str, Any]:
        """What of model and settings must be equal for an interrupted run to go on."""

    @abstractmethod
    def _segment(
        self,
        video: Video,
        queries: Sequence[Query],
        progress: Progress | None,
        notify: Notify | None,
        journal: Journal | None,
    ) -> list[Result]:
        """The results of all queries, in order."""

    @abstractmethod
    def _stream(self, video: Video, queries: Sequence[Query]) -> Iterator[FrameMask]:
        """The masks of all queries as they are made."""


def as_queries(query: Asked) -> list[Query]:
    """Queries with distinct ids from one or several texts; `UsageError` if there is none."""
    given = [query] if isinstance(query, str | Query) else list(query)
    if not given:
        raise UsageError("no query given; ask at least one question")
    queries = [q if isinstance(q, Query) else Query(q, str(i)) for i, q in enumerate(given)]
    taken = [q.id for q in queries]
    if len(set(taken)) < len(taken):
        queries = [replace(q, id=str(i)) for i, q in enumerate(queries)]
    return queries


def _opened(source: Any) -> AbstractContextManager[Video]:
    """A video that is open already stays so."""
    return nullcontext(source) if isinstance(source, Video) else Video(source)
