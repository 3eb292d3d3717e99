"""Visual features that are made once: of haystacks part by part, and of needles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hico._version import __version__

from ..training.worlds import cards
from ..training.worlds.write import replacing
from ..vision.clip_modes import tokens_left
from .timing import Clock

PART = 1024  # frames that are in memory as pixels, and those of one file
NAME = "features"


def fingerprint(model: Any, *parts: str) -> str:
    """A hash of a model's weights and config, or of some parts and what the config says of them.

    Equal weights in another folder have the same; another dtype has not.

    Args:
        parts: how the names of the parts' weights begin; none = all.
    """
    digest = hashlib.sha256()
    fields = model.config.to_dict()
    for name in ("_name_or_path", "transformers_version", *(["mm_llm_compress"] if parts else [])):
        fields.pop(name, None)
    if parts:
        fields = {k: v for k, v in fields.items() if k.startswith(("mm_", "vision"))}
    digest.update(json.dumps(fields, sort_keys=True, default=str).encode())
    for name, tensor in model.state_dict().items():
        if name.startswith(parts or ""):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            flat = tensor.detach().reshape(-1).contiguous().cpu()
            digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()[:32]


def sources() -> str:
    """A hash of the code that draws cards and haystacks: other code, other pixels."""
    digest = hashlib.sha256()
    for path in sorted(Path(cards.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class Store:
    """Tensors on disk, each under a hash of all that it depends on; files appear whole.

    Args:
        folder: made when something is put there.
        model: whose features they are.
        clock: notes what making them takes.
        mode: how a clip's tokens become fewer, one of clip_modes.MODES.

    Attributes:
        per_clip: tokens that a clip has in this mode.
    """

    def __init__(self, folder: Path, model: Any, clock: Clock, mode: str = "similarity") -> None:
        seeing = fingerprint(model, "model.vision_tower.", "model.mm_projector.")
        self.folder, self.model, self.clock, self.mode = folder, model, clock, mode
        encoder, merge = model.encoder, model.model.mm_projector
        patches = encoder.num_frames * (encoder.image_size // encoder.patch_size) ** 2
        self.per_clip = tokens_left(patches, mode, merge.tokens_per_clip)
        self.made, self.found = 0, 0
        self._shared = {
            "encoder": seeing,
            "mode": mode,
            "device": model.device.type,
            "dtype": str(model.dtype),
            "hico": __version__,
            "drawn by": sources(),
        }

    def encode(self, pixels: Tensor | Iterable[Tensor]) -> Tensor:
        """[n, D], the model's encode_video in the store's mode."""
        return self.model.encode_video(pixels, mode=self.mode)

    def get(self, key: Mapping[str, Any], make: Callable[[], Tensor]) -> Tensor:
        """What is stored under the key, or what is made now and then stored; on the device."""
        text = json.dumps(self._shared | dict(key), sort_keys=True)
        path = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"
        tensor = self._load(path, text)
        if tensor is not None:
            self.found += 1
            return tensor.to(self.model.device)
        tensor = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(save({NAME: tensor.cpu().contiguous()}, {"key": text}))
        self.made += 1
        return tensor

    def _load(self, path: Path, text: str) -> Tensor | None:
        """None: it is not there, or not what its name says."""
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                return file.get_tensor(NAME) if (file.metadata() or {}).get("key") == text else None
        except (SafetensorError, OSError):
            return None


class Haystack:
    """A haystack's frames, and their features, encoded once.

    Args:
        name: what it is, with all that its frames depend on.
        frames: gives uint8 [n, S, S, 3] of int64 numbers, for a size and a device.
    """

    def __init__(self, name: str, frames: Callable[..., Tensor], store: Store) -> None:
        self.name, self.frames, self.store, self.clock = name, frames, store, store.clock
        self.model, self.size = store.model, store.model.encoder.image_size
        self._done: Tensor | None = None

    def clips(self, count: int) -> Tensor:
        """[count, tokens of a clip, D], of the first so many clips."""
        clip = self.model.encoder.num_frames
        if self._done is None or len(self._done) < count:
            starts = range(0, count * clip, PART)
            parts = [self._part(start, min(PART, count * clip - start)) for start in starts]
            self._done = torch.cat(parts).unflatten(0, (count, -1))
        return self._done[:count]

    def pixels(self, numbers: Tensor) -> Tensor:
        """uint8 [n, S, S, 3]."""
        return self.frames(numbers, self.size, self.model.device)

    def _part(self, start: int, count: int) -> Tensor:
        def make() -> Tensor:
            with self.clock("drawing haystack"):
                pixels = self.pixels(torch.arange(start, start + count))
            with self.clock("encoding haystack"):
                return self.store.encode(pixels)

        key = {"haystack": self.name, "size": self.size, "start": start, "count": count}
        return self.store.get(key, make)
