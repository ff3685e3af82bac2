"""The classes of synthetic scenes: VIPSeg's ids, names and colours; each has a look of its own."""

from __future__ import annotations

PERSON, CAR, BUS, BALL, UMBRELLA, ANIMAL, AIRPLANE, FLAG = 60, 48, 49, 74, 44, 65, 56, 43
SKY, MOUNTAIN, BUILDING, GRASS, SAND, WATER, ROAD, TREE = 28, 29, 21, 15, 16, 39, 18, 66

THINGS = (PERSON, CAR, BUS, BALL, UMBRELLA, ANIMAL, AIRPLANE, FLAG)
STUFF = (SKY, MOUNTAIN, BUILDING, GRASS, SAND, WATER, ROAD, TREE)
FAR = (MOUNTAIN, BUILDING, TREE)  # stuff that stands behind
NEAR = (GRASS, SAND, WATER, ROAD)  # stuff that lies in front

# Half extent of a thing, smallest and largest, in units (128 pixels of a frame of 128x224).
HALF_SIZE = {
    PERSON: (0.16, 0.25),
    CAR: (0.17, 0.26),
    BUS: (0.22, 0.31),
    BALL: (0.10, 0.16),
    UMBRELLA: (0.13, 0.21),
    ANIMAL: (0.16, 0.25),
    AIRPLANE: (0.18, 0.26),
    FLAG: (0.15, 0.23),
}
