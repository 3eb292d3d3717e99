"""Every example runs as it stands, quickly, on a CPU, and says what it did."""

import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "examples"
OPS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "ask_video")


@pytest.mark.parametrize("name", OPS)
@pytest.mark.usefixtures("plain_on_cpu")
def test_an_op_dropped_in(name, capsys):
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out.strip()


def test_the_folder_names_each_example():
    listed = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"`{path.name}`" in listed for path in FOLDER.glob("*.py"))


@pytest.mark.usefixtures("plain_on_cpu")
def test_a_question_about_the_shipped_video(capsys, monkeypatch):
    pytest.importorskip("av")
    path = str(FOLDER / "ask_video.py")
    monkeypatch.setattr(sys, "argv", [path, "--frames", "8", "--dropout", "2:0.5"])
    runpy.run_path(path, run_name="__main__")
    said = capsys.readouterr().out
    assert said.startswith("answer:") and "decoding" in said
