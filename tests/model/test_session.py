"""VideoSession: many questions of one video, each answered as a fresh run would."""

import threading

import pytest
import torch

from hico.model import DropoutSettings, VideoSession
from hico.model.demo import SHIPPED
from hico.model.load import random_model
from hico.model.video import Video, read_clip

pytestmark = pytest.mark.usefixtures("plain_on_cpu")
DROPS = [None, DropoutSettings.parse("2:0.5,4:0.25"), DropoutSettings.parse("3:0.3", "attention")]
QUESTIONS = ["What happens?", "How many cars are there, and of which colour?", "What happens?"]
SHORT = {"max_new_tokens": 6}


@pytest.fixture(scope="module")
def pair():
    return random_model(dtype=torch.float32)


@pytest.fixture(scope="module")
def clip():
    return read_clip(SHIPPED, max_frames=8, min_frames=8)


@pytest.fixture(scope="module")
def visual(pair, clip):
    return pair[0].encode_video(clip.frames)


def fresh(pair, clip, visual, question, dropout, history=()):
    """The answer of a run that begins with the pixels' tokens."""
    model, processor = pair
    message = processor.time_message(clip.duration, clip.seconds)
    ids = processor.ids(processor.prompt(question, history, message)).to(model.device)
    out = model.generate(ids, visual_features=[visual], dropout=dropout, do_sample=False, **SHORT)
    return processor.tokenizer.decode(out[0], skip_special_tokens=True).strip()


@pytest.mark.parametrize("dropout", DROPS, ids=["none", "uniform0_attention", "attention"])
def test_answers_are_those_of_fresh_runs(pair, clip, visual, dropout):
    session = VideoSession.open(*pair, SHIPPED, frames=8, dropout=dropout)
    assert session.tokens[0] == len(visual) == 8 * 16
    history = []
    for question in QUESTIONS:
        answer = session.ask(question, **SHORT)
        assert answer == fresh(pair, clip, visual, question, dropout)
        history.append((question, answer))
    again = session.ask("And then?", history, **SHORT)
    assert again == fresh(pair, clip, visual, "And then?", dropout, history)
    assert "".join(session.stream(QUESTIONS[1], **SHORT)).strip() == history[1][1]


def test_the_video_is_read_and_encoded_once(pair, monkeypatch):
    model, processor = pair
    seen = []
    hook = model.encoder.register_forward_hook(lambda *_: seen.append("encoded"))
    read = Video.stream
    monkeypatch.setattr(Video, "stream", lambda *a: seen.append("read") or read(*a))
    session = VideoSession.open(model, processor, SHIPPED, frames=8, dropout=DROPS[1])
    assert set(seen) == {"read", "encoded"}
    seen.clear()
    for question in QUESTIONS:
        session.ask(question, **SHORT)
    hook.remove()
    assert not seen


def test_stages(pair):
    session = VideoSession.open(*pair, SHIPPED, frames=8, dropout=DROPS[1])
    assert [s.name for s in session.stages] == ["reading", "encoding", "watching"]
    for _ in range(2):
        session.ask("What?", **SHORT)
        names = ["reading", "encoding", "watching", "first token", "decoding"]
        assert [stage.name for stage in session.stages] == names
        assert all(stage.seconds >= 0 and stage.peak > 0 for stage in session.stages)
    assert [stage.tokens for stage in session.stages][:2] == [8, 128]
    assert session.stages[-1].tokens == SHORT["max_new_tokens"] - 1
    assert session.tokens == [128, 64, 32]


def test_frames_and_pictures_in_memory(pair):
    frames = torch.randint(0, 256, (10, 40, 50, 3), dtype=torch.uint8)
    session = VideoSession.open(*pair, frames, dropout=DROPS[1])
    assert session.tokens[0] == 8 * 16 and "10.00 seconds, and 8 frames" in session.message
    picture = VideoSession.open(*pair, frames[0], dropout=DROPS[1])
    assert picture.tokens[0] == 128 and picture.message is None
    assert isinstance(picture.ask("What is it?", **SHORT), str)
    assert pair[0].ask(frames, "What?", pair[1], **SHORT) is not None


def test_beams_and_sampling(pair, visual):
    session = VideoSession(*pair, visual, dropout=DROPS[1])
    greedy = session.ask("What?", **SHORT)
    session.ask("What?", num_beams=3, **SHORT)
    session.ask("What?", do_sample=True, num_return_sequences=2, **SHORT)
    assert session.ask("What?", **SHORT) == greedy


def test_a_stream_that_is_closed_ends(pair, visual):
    session = VideoSession(*pair, visual, dropout=DROPS[1])
    whole = session.ask("What?", max_new_tokens=20)
    running = threading.active_count()
    stream = session.stream("What?", max_new_tokens=5000)
    next(stream)
    stream.close()
    assert threading.active_count() == running
    assert session.ask("What?", max_new_tokens=20) == whole


def test_errors(pair, visual, tmp_path):
    session = VideoSession(*pair, visual, dropout=DROPS[1])
    with pytest.raises(ValueError, match="expected no <image>"):
        session.ask("What is <image>?")
    with pytest.raises(ValueError, match="max_new_tokens"):
        list(session.stream("What?", max_new_tokens=0))
    assert session.ask("What?", **SHORT)  # an error leaves the session as it was
    with pytest.raises(ValueError, match="layers"):
        VideoSession(*pair, visual, dropout=DropoutSettings.parse("4:0.75,18:0.25"))
    with pytest.raises(ValueError, match="frames: expected"):
        VideoSession.open(*pair, SHIPPED, frames=3)
    with pytest.raises(ValueError, match="keyframes"):
        VideoSession.open(*pair, SHIPPED, keyframes="some")
    with pytest.raises(FileNotFoundError):
        VideoSession.open(*pair, tmp_path / "none.mp4")
