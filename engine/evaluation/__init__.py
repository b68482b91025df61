# SPDX-License-Identifier: GPL-2.0-or-later
"""Evaluation: metrics from one confusion matrix a case."""
