"""Where checkpoints come from: bundled, a local folder, Hugging Face or ModelScope."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from videoseg.errors import CheckpointError

ASSETS = Path(__file__).resolve().parents[2] / "assets"
WANTED = ["*.safetensors", "*.json", "*.jinja", "*.txt"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A checkpoint with a short name.

    `sha256` maps its weight files to hashes and is empty where nobody has published them yet.
    """

    folder: Path | None = None
    modelscope: str | None = None
    huggingface: str | None = None
    sha256: dict[str, str] = field(default_factory=dict)


KNOWN: dict[str, Entry] = {
    "tiny": Entry(folder=ASSETS / "tiny"),
    "tiny-r1": Entry(folder=ASSETS / "tiny-r1"),
    "videoseg-o3-2b": Entry(modelscope="dmmm997/VideoSEG-O3-2B-RL"),
    "videoseg-o3-4b": Entry(modelscope="dmmm997/VideoSEG-O3-4B-RL"),
}


def resolve(name: str) -> Path:
    """Folder of a checkpoint, downloaded first where necessary.

    `name` is a known name, a local folder, `hf:owner/name`, `ms:owner/name` (ModelScope), or
    `owner/name` (Hugging Face). Raises `CheckpointError` that says what to do.
    """
    if name in KNOWN:
        return _known(KNOWN[name])
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name.startswith("ms:"):
        return _from_modelscope(name.removeprefix("ms:"))
    if name.startswith("hf:"):
        return _from_huggingface(name.removeprefix("hf:"))
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _from_huggingface(name)
    raise CheckpointError(
        f"no checkpoint {name!r}: not a folder and not one of {', '.join(KNOWN)}; "
        "give a folder, `hf:owner/name` or `ms:owner/name`"
    )


def known_hashes(name: str) -> dict[str, str]:
    """Published SHA-256 per weight file of a known name; empty where none is known."""
    return KNOWN[name].sha256 if name in KNOWN else {}


def _known(entry: Entry) -> Path:
    if entry.folder:
        return entry.folder
    if entry.modelscope:
        return _from_modelscope(entry.modelscope)
    if entry.huggingface:
        return _from_huggingface(entry.huggingface)
    raise CheckpointError("this checkpoint has no known place to come from")


def _from_huggingface(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=WANTED))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise CheckpointError(
            f"cannot fetch {repository!r} from Hugging Face ({_first_line(error)}); check the name and the "
            "network, or download the folder by other means and give its path"
        ) from error


def _from_modelscope(repository: str) -> Path:
    try:
        from modelscope import snapshot_download
    except ImportError as error:
        raise CheckpointError(
            f"{repository!r} lives on ModelScope; install `videoseg[modelscope]`, "
            "or download the folder by other means and give its path"
        ) from error
    try:
        return Path(snapshot_download(repository, allow_patterns=WANTED))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot fetch {repository!r} from ModelScope ({_first_line(error)}); check the name and the "
            "network, or download the folder by other means and give its path"
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
