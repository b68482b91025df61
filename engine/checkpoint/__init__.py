# SPDX-License-Identifier: GPL-2.0-or-later
"""Checkpoints: the card, and the safetensors files that hold it with the weights."""
