"""Tiny models in the official format, and folders of videos whose colour is asked for."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
import yaml

from hico.model import VideoChatFlashConfig, VideoChatFlashForConditionalGeneration
from hico.model._tower import image_size
from hico.model.load import byte_tokenizer
from hico.model.processing import VideoChatFlashProcessor

COLOURS = {
    "red": (200, 40, 40),
    "lime": (40, 180, 60),
    "blue": (40, 60, 200),
    "gold": (210, 200, 40),
}
VISION = {
    "image_size": 32,
    "patch_size": 4,
    "num_frames": 4,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
SIZES = {
    "vocab_size": 272,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "mm_vision_tower": "umt-large",
    "mm_hidden_size": 32,
    "tie_word_embeddings": False,
    "initializer_range": 0.12,
}
QUESTION = "What colour?"


def tiny(seed=0, **changed):
    """(model, processor) with random weights; four frames of 32 pixels are 256 patches."""
    tokenizer = byte_tokenizer()
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = VideoChatFlashConfig(**SIZES | {"vision_config": VISION} | ends | changed)
    torch.manual_seed(seed)
    model = VideoChatFlashForConditionalGeneration(config).eval()
    return model, VideoChatFlashProcessor(tokenizer, image_size(config))


def tiny_folder(path, seed=0, **changed):
    """The same as a folder that from_pretrained takes."""
    model, processor = tiny(seed, **changed)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def frames_of(colour, seed, count=8, side=40):
    """uint8 [count, side, side, 3]: a colour in changing light, with noise and a grey square."""
    rng = np.random.default_rng(seed)
    light = rng.uniform(0.7, 1.15)
    pixels = np.array(COLOURS[colour]) * light + rng.normal(0, 12, (count, side, side, 3))
    across, down = rng.integers(0, side - 10, 2)
    for i, frame in enumerate(pixels):
        at = (across + i) % (side - 10)
        frame[down : down + 10, at : at + 10] = rng.uniform(40, 220)
    return pixels.clip(0, 255).astype(np.uint8)


def write_png(path, pixels):
    """uint8 [H, W, 3] into a PNG."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        data += struct.pack(">I", len(body)) + kind + body
        data += struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(data)


def write_mp4(path, frames):
    """uint8 [T, H, W, 3] into an mp4 of one frame a second."""
    import av

    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=1)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")):
                out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)


def write_videos(root, count, seed, films=0, texts=0, caption=False):
    """A data YAML of videos in the published format: folders of pictures, and some mp4.

    Args:
        count: folders of 8 frames.
        films: mp4 files beside them.
        texts: rows of text alone.
        caption: rows for the template "plain".
    """
    root = Path(root)
    root.mkdir(parents=True)
    names = list(COLOURS)
    entries = []
    for kind, number in (("img", count), ("film", films)):
        rows = []
        for i in range(number):
            colour = names[i % len(names)]
            frames = frames_of(colour, [seed, i, len(kind)])
            if kind == "img":
                (root / f"{kind}{i}").mkdir()
                for t, frame in enumerate(frames):
                    write_png(root / f"{kind}{i}" / f"{t:05}.png", frame)
                video = f"{kind}{i}"
            else:
                video = f"{kind}{i}.mp4"
                write_mp4(root / video, frames)
            asked = "<image>" if caption else f"<image>\n{QUESTION}"
            rows.append({"video": video, "conversations": _turns(asked, colour)})
        if rows:
            (root / f"{kind}.json").write_text(json.dumps(rows))
            entry = {
                "json_path": str(root / f"{kind}.json"),
                "data_root": str(root),
                "sampling_strategy": "all",
            }
            entries.append(entry | ({"video_read_type": "img"} if kind == "img" else {}))
    if texts:
        lines = [{"conversations": _turns(f"{i} and 1?", str(i + 1))} for i in range(texts)]
        (root / "text.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        entries.append({"json_path": str(root / "text.jsonl"), "sampling_strategy": "all"})
    (root / "data.yaml").write_text(yaml.safe_dump({"datasets": entries}))
    return root / "data.yaml"


def _turns(asked, answer):
    return [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]


# settings that make a stage run on a CPU within seconds
SMALL = {
    "tower": "umt-large",
    "resolution": 32,
    "min_frames": 4,
    "max_frames": 8,
    "max_length": 1024,
    "batch": 4,
    "global_batch": 8,
    "precision": "fp32",
    "device": "cpu",
    "workers": 0,
    "gradient_checkpointing": False,
    "tune": {"encoder": 1e-3, "connector": 1e-3, "llm": 1e-3},
}


def write_stage(path, **settings):
    """A stage's YAML file that says all this."""
    held = {name: str(v) if isinstance(v, Path) else v for name, v in settings.items()}
    path.write_text(yaml.safe_dump(held))
    return path
