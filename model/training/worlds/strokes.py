"""Skeletons of letters, digits and signs: strokes of points and arcs, to be thickened by fonts.

A glyph is `width: stroke; stroke; ...`, a stroke is points `x,y` and arcs
`@x,y,radius_x,radius_y,from,to` (degrees, counter-clockwise from the right) in the order of the
pen. y is 0 on the base line, 1 at the height of capitals, 0.68 at that of small letters.
"""

from __future__ import annotations

import math

import numpy as np

_CAPITALS = """
A .80: 0,0 .4,1 .8,0; .14,.35 .66,.35
B .66: 0,0 0,1 .36,1 @.36,.77,.26,.23,90,-90 0,.54; .36,.54 @.38,.27,.28,.27,90,-90 0,0
C .70: @.4,.5,.4,.5,48,312
D .72: 0,0 0,1 .3,1 @.3,.5,.42,.5,90,-90 0,0
E .58: .58,1 0,1 0,0 .58,0; 0,.53 .48,.53
F .56: .56,1 0,1 0,0; 0,.5 .47,.5
G .74: @.4,.5,.4,.5,50,315 .72,.15 .72,.46 .42,.46
H .70: 0,0 0,1; .7,0 .7,1; 0,.52 .7,.52
I 0: 0,0 0,1
J .50: .5,1 .5,.27 @.25,.27,.25,.27,0,-170
K .66: 0,0 0,1; .63,1 0,.4; .2,.58 .66,0
L .55: 0,1 0,0 .55,0
M .86: 0,0 0,1 .43,.3 .86,1 .86,0
N .70: 0,0 0,1 .7,0 .7,1
O .80: @.4,.5,.4,.5,90,450
P .62: 0,0 0,1 .36,1 @.36,.74,.26,.26,90,-90 0,.48
Q .82: @.4,.5,.4,.5,90,450; .5,.28 .82,-.06
R .64: 0,0 0,1 .36,1 @.36,.74,.26,.26,90,-90 0,.48; .3,.48 .64,0
S .60: @.3,.745,.28,.255,35,270 @.3,.245,.3,.245,90,-145
T .70: 0,1 .7,1; .35,1 .35,0
U .70: 0,1 0,.34 @.35,.34,.35,.34,180,360 .7,1
V .76: 0,1 .38,0 .76,1
W 1.1: 0,1 .27,0 .55,.75 .83,0 1.1,1
X .70: 0,0 .7,1; 0,1 .7,0
Y .70: 0,1 .35,.48 .7,1; .35,.48 .35,0
Z .65: 0,1 .65,1 0,0 .65,0
"""

_SMALL = """
a .54: @.27,.34,.27,.34,0,360; .54,.68 .54,0
b .56: 0,1 0,0; @.28,.34,.28,.34,180,540
c .48: @.28,.34,.28,.34,50,310
d .56: @.28,.34,.28,.34,0,360; .56,1 .56,0
e .55: .01,.36 .55,.36 @.28,.34,.28,.34,4,310
f .38: @.32,.8,.18,.2,60,180 .14,0; 0,.66 .34,.66
g .56: @.28,.34,.28,.34,0,360; .56,.68 .56,-.08 @.29,-.08,.27,.22,0,-150
h .52: 0,1 0,0; 0,.42 @.26,.42,.26,.26,180,0 .52,0
i 0: 0,0 0,.68; 0,.94 0,.96
j .20: .2,.68 .2,-.1 @.02,-.1,.18,.2,0,-100; .2,.94 .2,.96
k .52: 0,1 0,0; .48,.68 0,.24; .15,.38 .52,0
l .16: 0,1 0,.14 @.14,.14,.14,.14,180,280
m .84: 0,.68 0,0; 0,.44 @.21,.44,.21,.24,180,0 .42,0; .42,.44 @.63,.44,.21,.24,180,0 .84,0
n .52: 0,.68 0,0; 0,.42 @.26,.42,.26,.26,180,0 .52,0
o .58: @.29,.34,.29,.34,90,450
p .56: 0,.68 0,-.3; @.28,.34,.28,.34,180,540
q .56: @.28,.34,.28,.34,0,360; .56,.68 .56,-.3
r .34: 0,.68 0,0; 0,.4 @.26,.4,.26,.28,180,75
s .46: @.23,.51,.21,.17,35,270 @.23,.17,.23,.17,90,-145
t .38: .14,.95 .14,.18 @.3,.18,.16,.18,180,300; 0,.66 .36,.66
u .52: 0,.68 0,.26 @.26,.26,.26,.26,180,360 .52,.68; .52,.68 .52,0
v .54: 0,.68 .27,0 .54,.68
w .84: 0,.68 .21,0 .42,.55 .63,0 .84,.68
x .50: 0,0 .5,.68; 0,.68 .5,0
y .54: 0,.68 .27,0; .54,.68 .15,-.3
z .46: 0,.68 .46,.68 0,0 .46,0
"""

_OTHERS = """
0 .58: @.29,.5,.29,.5,90,450
1 .26: 0,.78 .26,1 .26,0
2 .58: @.29,.71,.28,.29,160,-30 0,0 .58,0
3 .57: @.27,.755,.26,.245,150,-90 @.27,.255,.3,.255,90,-150
4 .62: .46,0 .46,1 0,.3 .62,.3
5 .57: .54,1 .08,1 .04,.56 @.27,.32,.3,.32,125,-145
6 .57: @.5,.3,.49,.68,95,180 @.29,.3,.28,.3,180,540
7 .58: 0,1 .58,1 .2,0
8 .58: @.29,.755,.25,.245,-90,270; @.29,.255,.29,.255,90,-270
9 .57: @.08,.7,.49,.68,275,360 @.29,.7,.28,.3,0,360
- .36: 0,.42 .36,.42
. 0: 0,0 0,.01
: 0: 0,.06 0,.07; 0,.6 0,.61
> .50: 0,.8 .5,.45 0,.1
/ .45: 0,-.05 .45,1.05
# .66: .18,0 .28,1; .42,0 .52,1; 0,.32 .66,.32; 0,.68 .66,.68
! 0: 0,1 0,.32; 0,.03 0,.04
? .52: @.26,.74,.25,.26,165,-70 .26,.3; .26,.03 .26,.04
"""

# other ways to write some of them, which a font may choose
_ALTERNATES = {
    "a": "a .51: @.26,.45,.25,.23,155,0 .51,0; .51,.4 .25,.4 @.24,.2,.23,.2,90,270 .51,.12",
    "I": "I .36: 0,0 .36,0; .18,0 .18,1; 0,1 .36,1",
    "l": "l 0: 0,1 0,0",
    "t": "t .36: .18,.95 .18,0; 0,.66 .36,.66",
    "M": "M .9: 0,0 .12,1 .45,.2 .78,1 .9,0",
    "G": "G .78: @.4,.5,.4,.5,50,360 .48,.5",
    "1": "1 .5: .02,.8 .26,1 .26,0; .02,0 .5,0",
    "4": "4 .62: .2,1 .02,.36 .62,.36; .48,.62 .48,0",
    "6": "6 .57: .46,1 .07,.47 .01,.3 @.29,.3,.28,.3,180,540",
    "7": "7 .58: 0,1 .58,1 .2,0; .16,.48 .54,.48",
    "9": "9 .57: .11,0 .5,.53 .57,.7 @.29,.7,.28,.3,0,360",
    "0": "0 .58: @.29,.5,.29,.5,90,450; .17,.28 .41,.72",
    "y": "y .52: 0,.68 0,.26 @.26,.26,.26,.26,180,360 .52,.68; .52,.68 .52,-.1 "
    "@.26,-.1,.26,.2,0,-150",
}

Stroke = np.ndarray  # float64 [points, 2]
TURN = 360.0
STEPS = 36  # of a whole turn


def skeletons(
    alternates: str = "", power: float = 2.0, steps: int = STEPS
) -> dict[str, tuple[float, list[Stroke]]]:
    """Every glyph's width and strokes, in heights of a capital.

    Args:
        alternates: characters that are written in the other way, of those that have one.
        power: what arcs are drawn with: 2 for ellipses, more for squarer ones.
        steps: straight pieces of a whole turn; 8 for octagons.

    Example:
        >>> width, strokes = skeletons()["L"]
        >>> width, strokes[0].tolist()
        (0.55, [[0.0, 1.0], [0.0, 0.0], [0.55, 0.0]])
    """
    lines = (_CAPITALS + _SMALL + _OTHERS).strip().splitlines()
    lines = [_ALTERNATES.get(s[0], s) if s[:1] in alternates and s else s for s in lines]
    return dict(_parse(line, power, steps) for line in lines if line)


def _parse(line: str, power: float, steps: int) -> tuple[str, tuple[float, list[Stroke]]]:
    head, _, body = line[1:].partition(":")
    strokes = []
    for stroke in body.split(";"):
        points: list[tuple[float, float]] = []
        for item in stroke.split():
            numbers = [float(x) for x in item.lstrip("@").split(",")]
            points += _arc(numbers, power, steps) if item[0] == "@" else [(numbers[0], numbers[1])]
        strokes.append(np.array(points))
    return line[0], (float(head), strokes)


def _arc(numbers: list[float], power: float, steps: int) -> list[tuple[float, float]]:
    x, y, across, up, begin, end = numbers
    count = max(1, round(abs(end - begin) / TURN * steps))
    points = []
    for i in range(count + 1):
        angle = math.radians(begin + (end - begin) * i / count)
        cos, sin = math.cos(angle), math.sin(angle)
        length = (abs(cos) ** power + abs(sin) ** power) ** (-1 / power)
        points.append((x + across * cos * length, y + up * sin * length))
    return points
