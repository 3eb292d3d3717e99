"""hico ask and hico chat, from the words of a command line to the answer on stdout."""

import io
import json
import sys
from types import SimpleNamespace

import pytest
import torch

from hico import cli
from hico.model import ask, load, options
from hico.model.demo import SHIPPED
from hico.model.load import random_model
from hico.model.stats import Stage

pytest.importorskip("av")
pytestmark = pytest.mark.usefixtures("plain_on_cpu")

RANDOM = ["--device", "cpu", "--model", "random:demo"]
SMALL = [str(SHIPPED), "--frames", "4", "--max-new-tokens", "6", *RANDOM]


def hico(*words):
    return cli.main([str(word) for word in words])


def test_the_answer_alone_is_on_stdout(capsys):
    assert hico("ask", *SMALL, "What happens?") == 0
    out, err = capsys.readouterr()
    assert out.endswith("\n") and len(out.splitlines()) == 1 and out.strip()
    assert "weights are random" in err and "mean nothing" in err
    assert "4 frames, 64 tokens: reading" in err
    hico("ask", *SMALL, "What happens?")
    assert capsys.readouterr().out == out


def test_stats_name_every_level(capsys):
    assert hico("ask", *SMALL, "What?", "--stats", "--dropout", "2:0.5,4:0.25") == 0
    lines = capsys.readouterr().err.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("stage "))
    rows = {line[:12].strip(): line[12:].split(None, 2) for line in lines[at + 1 :]}
    assert list(rows) == ["reading", "encoding", "watching", "first token", "decoding"]
    assert rows["reading"][2] == "4 frames"
    assert rows["encoding"][2] == "784 patches -> 64 merged"
    assert rows["watching"][2] == "64 -> 32 from layer 2 -> 16 from layer 4"
    assert rows["first token"][2] == "1" and rows["decoding"][2].startswith("5, ")
    assert all(float(row[0]) > 0 and float(row[1]) > 0 for row in rows.values())


def test_json_holds_the_same_answer(capsys):
    hico("ask", *SMALL, "What?", "--dropout", "2:0.5")
    answer = capsys.readouterr().out.strip()
    assert hico("ask", *SMALL, "What?", "--json", "--dropout", "2:0.5") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["random_weights"] and said["model"] == "random:demo" and said["question"] == "What?"
    assert said["patches"] == 784 and said["tokens"] == [64, 32]
    assert said["dropout_layers"] == [2] and said["stages"][0]["tokens"] == 4
    assert said["answer"] == answer


def test_a_model_by_its_folder(tmp_path, capsys):
    model, processor = random_model(seed=3, device="cpu")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert hico("ask", *SMALL, "What?", "--model", tmp_path) == 0
    named = capsys.readouterr()
    assert "random" not in named.err and named.out.strip()


def test_no_name_is_the_model_that_ships(tmp_path, capsys, monkeypatch):
    model, processor = random_model(seed=4, device="cpu")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    words = [*SMALL[:-2], "What?", "--json"]
    assert hico("ask", *words, "--model", tmp_path) == 0
    named = json.loads(capsys.readouterr().out)
    monkeypatch.setattr(load, "SHIPPED", tmp_path)
    assert hico("ask", *words) == 0
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert said["answer"] == named["answer"] and said["model"] is None
    assert not said["random_weights"] and "random" not in err
    (tmp_path / "model.safetensors").unlink()
    assert hico("ask", *words) == 2
    assert "hico-tiny: no model.safetensors in" in capsys.readouterr().err


def test_an_image(tmp_path, capsys):
    Image = pytest.importorskip("PIL.Image")
    Image.new("RGB", (300, 224), (200, 30, 30)).save(tmp_path / "red.png")
    words = ["--max-new-tokens", "4", *RANDOM, "--stats"]
    assert hico("ask", tmp_path / "red.png", "Which colour?", *words) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1 and "1 image" in err
    # the whole, and 2 x 1 tiles of it: the count of merged tokens says how many
    assert "patches -> " in err


@pytest.mark.parametrize(
    "words, message",
    [
        (["gone.mp4", "What?"], "gone.mp4: no such file or folder"),
        ([SHIPPED, " "], "question: expected some text, got none"),
        ([SHIPPED, "What?", "--frames", "6"], "--frames: expected a multiple of 4, got 6"),
        ([SHIPPED, "What?", "--frames", "0"], "--frames: expected a multiple of 4, got 0"),
        ([SHIPPED, "What?", "--max-new-tokens", "0"], "--max-new-tokens: expected at least 1"),
        ([SHIPPED, "What?", "--dropout", "often"], "expected LAYER:RATIO,LAYER:RATIO"),
        (
            [SHIPPED, "What?", "--dropout", "9:0.5", *RANDOM],
            "--dropout: expected layers from 1 to 6",
        ),
        ([SHIPPED, "What?", "--model", "random:3b"], "expected one of demo, 1.5b, 7b, got '3b'"),
        ([SHIPPED, "What?", "--model", "./gone"], "./gone: expected a folder of a model"),
        ([SHIPPED, "What?", "--start", "9", *RANDOM], "below the video's 8.00 s"),
        ([SHIPPED, "<image>", "--frames", "4", *RANDOM], "expected no <image>"),
    ],
)
def test_wrong_words_are_one_line(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert hico("ask", *words) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("hico: error: ")


def test_a_traceback_on_either_side_of_the_command(tmp_path):
    for words in (["--traceback", "ask"], ["ask", "--traceback"]):
        with pytest.raises(FileNotFoundError):
            hico(*words, tmp_path / "gone.mp4", "What?")


def test_a_reader_that_leaves_ends_the_command_quietly(monkeypatch):
    def gone(*_):
        raise BrokenPipeError

    ends = []
    monkeypatch.setattr(ask, "run", gone)
    monkeypatch.setattr(cli.os, "dup2", lambda *_: ends.append("closed"))
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(fileno=lambda: 1))
    assert hico("ask", "a.mp4", "What?") == 141 and ends == ["closed"]


def test_text_is_streamed_without_space_at_its_ends(capsys):
    shown = ask.write(iter(["  ", "\n one", " two ", "\n", "three", " \n", " "]))
    assert shown == "one two \nthree" and capsys.readouterr().out == "one two \nthree\n"
    assert ask.write(iter([])) == "" and capsys.readouterr().out == "\n"


def test_a_terminal_gets_no_escape_sequences(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert ask.write(["a\x1b[31mb\u009b2J\tc\u00e9\nd"]) == "a\x1b[31mb\u009b2J\tc\u00e9\nd"
    assert capsys.readouterr().out == "a[31mb2J\tc\u00e9\nd\n"


def test_the_table_is_aligned():
    encoder = SimpleNamespace(num_frames=4, image_size=224, patch_size=16)
    inner = SimpleNamespace(mm_projector=SimpleNamespace(tokens_per_clip=64))
    stages = [Stage("reading", 1234.5, 10000, 3 << 30), Stage("encoding", 0.0021, 160000, 1)]
    session = SimpleNamespace(
        model=SimpleNamespace(encoder=encoder, model=inner),
        stages=stages,
        tokens=[160000],
        message="seconds",
        dropout=SimpleNamespace(layers=()),
    )
    assert ask.table(session).splitlines() == [
        "stage      seconds  peak GiB  tokens",
        "reading   1234.500      3.00  10,000 frames",
        "encoding     0.002      0.00  1,960,000 patches -> 160,000 merged",
    ]


def chat(monkeypatch, text, *words):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    return hico("chat", *SMALL, *words)


def test_a_piped_chat_answers_each_line(capsys, monkeypatch):
    assert chat(monkeypatch, "What happens?\n\n   \nWhy?\nWhat happens?", "--stats") == 0
    out, err = capsys.readouterr()
    answers = out.splitlines()
    assert len(answers) == 3 and ">" != out[0:1] and err.count("stage ") == 3
    assert err.count("reading") == 4  # read once; and a row in each of the tables
    hico("ask", *SMALL, "What happens?")
    assert capsys.readouterr().out.strip() == answers[0]
    # asked again it comes after other turns, which a model of random weights answers otherwise
    assert answers[2] != answers[0]


def test_a_chat_with_nothing_to_say(capsys, monkeypatch):
    assert chat(monkeypatch, "") == 0
    assert capsys.readouterr().out == ""


def test_a_chat_on_a_terminal(capsys, monkeypatch):
    from hico.model.chat import questions

    lines = iter(["one", "", " two "])

    def answer(prompt):
        assert prompt == "> "
        line = next(lines, None)
        if line is None:
            raise EOFError
        return line

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", answer)
    assert list(questions()) == ["one", "two"]


def test_the_usual_dropout_follows_the_depth():
    for depth, layers in ((28, (4, 18)), (6, (1, 4)), (1, (1, 2))):
        model = SimpleNamespace(config=SimpleNamespace(num_hidden_layers=depth))
        assert options.usual_dropout(model).layers == layers


def test_a_config_that_drops_is_followed(tmp_path, capsys):
    model, processor = random_model(device="cpu", dtype=torch.float32)
    model.config.mm_llm_compress = True
    model.config.llm_compress_layer_list = [3]
    model.config.llm_image_token_ratio_list = [1.0, 0.5]
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    hico("ask", *SMALL, "What?", "--model", tmp_path, "--stats")
    assert "64 -> 32 from layer 3" in capsys.readouterr().err
