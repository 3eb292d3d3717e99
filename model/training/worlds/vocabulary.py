"""What cards may say, and the names of how they may look."""

from __future__ import annotations

NUMBERS = tuple(str(number) for number in range(10, 100))

WORDS = tuple(
    """
    amber anchor apple arrow autumn badge bagel banjo basil beach berry bison bonnet bread breeze
    bridge butter cabin cactus camel candle canoe carpet castle cedar cherry circus clock cloud
    clover coast cobra comet copper coral cotton cradle crane crown daisy dancer desert dragon
    eagle earth ember falcon fiddle flame forest galaxy garden ginger glove grape guitar hammer
    harbor hazel honey island ivory jacket jaguar jungle kettle kitten ladder lemon lilac lion
    lizard magnet maple marble meadow melon mirror monkey moss nectar needle nickel nutmeg oasis
    ocean olive onion orchid otter oyster paddle palace panda parrot peach pearl pebble pepper
    piano pigeon pillow pilot planet plum pocket pony puzzle quartz quiver rabbit radar radio
    raven ribbon river robin rocket saddle salmon sandal saturn shadow sheep silver siren spider
    spoon statue summer sunset table temple thorn tiger timber tomato tulip tunnel turtle umbra
    valley velvet violin walnut walrus wheat willow winter wolf yarrow zebra zipper
    """.split()
)

PAPERS = (
    *("plain", "gradient", "lined", "squared", "dotted"),
    *("textured", "framed", "banded", "dark", "slate"),
)
SIDES = ("both", "front", "back")
