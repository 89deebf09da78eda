"""Features of SAM2's frozen image encoder on disk, so that a frame is encoded once for all epochs and runs.

What is kept is `Sam2.pyramid`, before the mask decoder's own projections, so that these can go on learning.
Keys are the encoder's weights and the frame's file, so nothing goes stale.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from videoseg.data.frames import FileFrames, Frames
from videoseg.errors import InputError, UsageError
from videoseg.models.sam2 import FrameFeatures, Sam2
from videoseg.training.dialogue_batch import DialogueBatch
from videoseg.video.writer import partial_path

GIB = 2**30


class FeatureCache:
    """One file per frame in `folder`, by encoder and arithmetic (`kind`), until `limit` bytes are there.

    Raises UsageError for an encoder that learns.
    """

    def __init__(self, folder: Path, sam2: Sam2, limit: float, kind: str) -> None:
        if any(parameter.requires_grad for parameter in sam2.model.vision_encoder.parameters()):
            raise UsageError("feature_cache needs a frozen encoder: freeze sam2.model.vision_encoder")
        self.folder = folder / f"{encoder_hash(sam2)[:16]}-{kind}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.left = limit - sum(file.stat().st_size for file in self.folder.glob("*.safetensors"))

    def key(self, frames: Frames, index: int) -> str:
        """Name of a frame: its file, the file's size and time of change, and its number in it."""
        path = frames.path if isinstance(frames, FileFrames) else frames.path(index)
        place = index * frames.stride if isinstance(frames, FileFrames) else 0
        status = path.stat()
        text = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}|{place}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def load(self, key: str) -> FrameFeatures | None:
        """Features of a frame, or None; raises InputError for a file that is damaged."""
        path = self.folder / f"{key}.safetensors"
        if not path.is_file():
            return None
        try:
            maps = load_file(path)
            return FrameFeatures(maps["fine"], maps["middle"], maps["top"])
        except (OSError, KeyError, SafetensorError) as error:
            raise InputError(f"{path}: cannot be read ({error}); delete it") from error

    def save(self, key: str, features: FrameFeatures) -> None:
        """Keep the features of one frame; the file appears whole or not at all."""
        path = self.folder / f"{key}.safetensors"
        if self.left <= 0 or path.exists():
            return
        part = partial_path(path)
        maps = {name: getattr(features, name).cpu().contiguous() for name in ("fine", "middle", "top")}
        save_file(maps, part)
        self.left -= part.stat().st_size
        part.replace(path)


def encoder_hash(sam2: Sam2) -> str:
    """SHA-256 of the image encoder's weights and the size of its input."""
    digest = hashlib.sha256(str(sam2.image_size).encode())
    for name, tensor in sorted(sam2.model.vision_encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def with_features(batch: DialogueBatch, sam2: Sam2, cache: FeatureCache | None) -> DialogueBatch:
    """The batch with its named frames encoded, and these features kept for the next time."""
    if cache is None:
        return batch
    frames: list[Tensor | FrameFeatures] = list(batch.frames)
    for number, (frame, key) in enumerate(zip(batch.frames, batch.frame_keys, strict=True)):
        if isinstance(frame, Tensor) and key:
            frames[number] = features = sam2.pyramid(frame[None])
            cache.save(key, features)
    return replace(batch, frames=tuple(frames))
