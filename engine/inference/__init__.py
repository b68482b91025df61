# SPDX-License-Identifier: GPL-2.0-or-later
"""Inference: read, compute, blend and write, tile by tile, in bounded memory."""
