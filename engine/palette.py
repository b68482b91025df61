# SPDX-License-Identifier: GPL-2.0-or-later
"""The colours of Lacuna's maps, charts and reports. Runs on Python 3.9 with the standard library alone.

Those of Okabe and Ito 2008, "Color Universal Design", https://jfly.uni-koeln.de/color/: told apart by most eyes.
"""

from __future__ import annotations

ORANGE, SKY, GREEN, YELLOW = "#e69f00", "#56b4e9", "#009e73", "#f0e442"
BLUE, VERMILION, PURPLE, BLACK = "#0072b2", "#d55e00", "#cc79a7", "#000000"
GREY = "#7f7f7f"

# For classes that name no colour, in the order of the paper.
CLASSES = (ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE, BLACK)
# For the scenarios of an evidence raster.
SCENARIOS = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, YELLOW, BLACK)
# For lines and bars, on light and dark: without black, and without the yellow that is lost on white.
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, GREY)
# What the ground of a scene is for.
SIDES = {"training": SKY, "validation": ORANGE, "gap": "#5f5f5f", "test": GREEN}
