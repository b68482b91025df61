# SPDX-License-Identifier: GPL-2.0-or-later
"""Training: manifest, labels, splits, augmentation, losses, scenarios and the loop."""
