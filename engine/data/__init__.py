# SPDX-License-Identifier: GPL-2.0-or-later
"""What is learned from and measured against: labelled scenes, their division, the tiles of them that count."""
