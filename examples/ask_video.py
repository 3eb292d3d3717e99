"""A question about a video in three lines, then a second one, which costs far less.

python examples/ask_video.py film.mp4 "Who enters the room?" --model ID_OR_PATH
"""

import argparse

from hico.model.demo import SHIPPED
from hico.model.load import load_model
from hico.model.session import VideoSession
from hico.model.settings import DropoutSettings

parser = argparse.ArgumentParser(description="Ask a question about a video.")
parser.add_argument("video", nargs="?", default=SHIPPED)
parser.add_argument("question", nargs="?", default="What do the cards of the video show?")
parser.add_argument("--model", help="a folder or an id of the Hub (hico-tiny)")
parser.add_argument("--frames", type=int, default=512, help="at most")
parser.add_argument("--dropout", help="LAYER:RATIO,... such as 4:0.75,18:0.25")
parser.add_argument("--max-new-tokens", type=int, default=32)
args = parser.parse_args()
dropout = DropoutSettings.parse(args.dropout) if args.dropout else None

model, processor = load_model(args.model)
session = VideoSession.open(model, processor, args.video, frames=args.frames, dropout=dropout)
answer = session.ask(args.question, max_new_tokens=args.max_new_tokens)
print("answer:", answer)

print("Why? ", end="")  # the video is neither read nor encoded again
turns = [(args.question, answer)]
for piece in session.stream("Why?", turns, max_new_tokens=args.max_new_tokens):
    print(piece, end="", flush=True)
print("\n", *session.stages, sep="\n")
