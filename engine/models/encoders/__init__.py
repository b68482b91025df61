# SPDX-License-Identifier: GPL-2.0-or-later
"""Encoders: feature pyramids for the architectures, in plain torch."""
