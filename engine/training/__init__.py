# SPDX-License-Identifier: GPL-2.0-or-later
"""Training: manifest, labels, splits, crops and their augmentation, scenarios, loop, calibration and card."""
