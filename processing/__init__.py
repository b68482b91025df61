# SPDX-License-Identifier: GPL-2.0-or-later
"""The Processing provider and its algorithms: thin, one class a file; all work is a job for the engine."""
