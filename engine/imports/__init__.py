# SPDX-License-Identifier: GPL-2.0-or-later
"""Published weights of others: read, recognised, and turned into checkpoints and encoder files."""
