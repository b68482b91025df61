# SPDX-License-Identifier: GPL-2.0-or-later
"""What the analyst sees: the dock with its pages and the options; forms (.ui) beside same-named modules."""
