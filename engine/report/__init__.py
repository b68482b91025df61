# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports of evaluation and fine-tuning as pages of HTML: one look, one set of colours, made from results alone."""
