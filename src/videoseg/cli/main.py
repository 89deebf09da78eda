"""The command line: a table from verb to typed function, parsed by jsonargparse (design §7).

Exit codes: 0 done, 1 internal error, 2 wrong usage, 3 bad input, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from jsonargparse import ArgumentParser

from videoseg import __version__
from videoseg.errors import VideosegError


@dataclass(frozen=True, slots=True)
class Verb:
    """Where a verb's function is; `several` names a positional argument that takes one or more values."""

    home: str
    summary: str
    several: str | None = None

    def function(self) -> Callable[..., int]:
        """Import the function; only the verb in use pays for its imports."""
        module, name = self.home.split(":")
        function: Callable[..., int] = getattr(import_module(module), name)
        return function


VERBS: dict[tuple[str, ...], Verb] = {
    ("segment",): Verb(
        "videoseg.cli.segment:segment", "masks and reasoning for questions about a video", "query"
    ),
    ("demo",): Verb("videoseg.cli.demo:demo", "the bundled model on the bundled clip, with its score"),
    ("eval",): Verb("videoseg.cli.evaluate:evaluate", "a benchmark answered by a model, and scored"),
    ("score",): Verb("videoseg.cli.score:score", "masks of any system, scored by a benchmark's protocol"),
    ("compare",): Verb("videoseg.cli.score:compare", "two reports, with intervals of their difference"),
    ("submit",): Verb("videoseg.cli.score:submit", "predictions as the zip that a benchmark's server takes"),
    ("convert",): Verb("videoseg.cli.convert:convert", "checkpoints from and to foreign layouts"),
    ("data", "world"): Verb("videoseg.cli.data:world", "write clips of the generated world"),
    ("data", "check"): Verb("videoseg.cli.data:check", "read a dataset once: what is missing or damaged"),
    ("data", "convert"): Verb("videoseg.cli.data:convert", "own data from exports of other tools"),
    ("data", "cot"): Verb("videoseg.cli.cot:cot", "cold-start dialogues from masks and a teacher"),
    ("train", "sft"): Verb("videoseg.cli.train:supervised", "stage I: answers with masks"),
    ("train", "coldstart"): Verb("videoseg.cli.train:supervised", "stage II: dialogues of several turns"),
    ("train", "grpo"): Verb("videoseg.cli.train:grpo", "stage III: reinforcement learning of dialogues"),
    ("train", "xmem"): Verb("videoseg.cli.train:xmem", "the tiny XMem learns to carry masks through clips"),
    ("train", "words"): Verb("videoseg.cli.train:words", "the tiny model's SAM2 learns masks from words"),
    ("train", "pipeline"): Verb("videoseg.cli.train:pipeline", "the tiny model's whole way, scored"),
    ("train", "export"): Verb("videoseg.cli.train:export", "the model of a run, adapters merged"),
    ("doctor",): Verb("videoseg.cli.doctor:doctor", "versions, devices, codecs and weights of this machine"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(_overview())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        sys.stdout.write(f"videoseg {__version__}\n")
        return 0
    path = next((path for path in VERBS if tuple(arguments[: len(path)]) == path), None)
    if path is None:
        group = any(known[0] == arguments[0] for known in VERBS)
        wants_help = group and arguments[1:2] in (["-h"], ["--help"])
        if not wants_help:
            sys.stderr.write(f"error: unknown command {' '.join(arguments[: 1 + group])!r}\n\n")
        (sys.stdout if wants_help else sys.stderr).write(_overview(arguments[0] if group else None))
        return 0 if wants_help else 2
    return _run(path, arguments[len(path) :])


def _run(path: tuple[str, ...], arguments: Sequence[str]) -> int:
    verb = VERBS[path]
    try:
        parser = _parser(path, verb)
        chosen = parser.parse_args([_dashed(argument) for argument in arguments])
        values = parser.instantiate(chosen).as_dict()
        values.pop("config", None)
        return verb.function()(**values)
    except VideosegError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:
        # The reader of our output has gone; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SystemExit as stop:
        return int(stop.code or 0)


def _parser(path: tuple[str, ...], verb: Verb) -> ArgumentParser:
    parser = ArgumentParser(prog=f"videoseg {' '.join(path)}", description=verb.summary)
    skip = {verb.several} if verb.several else set()
    parser.add_function_arguments(verb.function(), as_positional=True, skip=skip)
    if verb.several:
        parser.add_argument(verb.several, nargs="+", type=str, help="one or more questions")
    parser.add_argument("--config", action="config", help="read options from a YAML file")
    for action in parser._actions:
        if getattr(action, "_typehint", None) is bool:
            # A bare flag means true.
            action.nargs, action.const = "?", True
    return parser


def _dashed(argument: str) -> str:
    """`--max-turns` is `--max_turns`."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def _overview(group: str | None = None) -> str:
    """The table of commands, or of those of one group."""
    rows = [
        f"  {' '.join(path):<12} {verb.summary}" for path, verb in VERBS.items() if group in (None, path[0])
    ]
    head = "usage: videoseg COMMAND [options]      (videoseg COMMAND --help tells more)"
    return "\n".join([head, "", *rows, ""])


def entry() -> Any:
    """Console script."""
    sys.exit(main())
