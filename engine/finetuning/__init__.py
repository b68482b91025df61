# SPDX-License-Identifier: GPL-2.0-or-later
"""Fine-tuning a checkpoint: plan, classes, adapters, latent guidance, accuracy before and after. On top of training."""
