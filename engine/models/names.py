# SPDX-License-Identifier: GPL-2.0-or-later
"""The names of the architectures and where they are written; apart, so that a command line can list them untorched."""

# By name of an architecture: the module of its class, beside this one.
MODULES = {"sgma": "sgma", "dis2": "dis2", "cmx": "cmx", "cbc": "cbc", "cbc_slp": "cbc"}
# Networks that come with published weights: nothing is gained by training them from random ones.
PUBLISHED = {"dynamic_world": "dynamic_world"}
# What is no network to be trained by itself, but stands in checkpoints like one: made in a fine-tuning.
MADE = {"forest": "forest", "detail": "detail", "joined": "joined"}
# Architectures without a choice of encoder.
WITHOUT_ENCODER = ("dis2",)
# The encoders of Lacuna's own; `mixed` is made of others, so it takes settings that say of which.
MIXED = "mixed"
ENCODERS = (
    *("resnet_small", "resnet18", "resnet34", "resnet50"),
    *(f"pvt_v2_b{size}" for size in range(6)),
    *(f"mit_b{size}" for size in range(6)),
    *("dynamic_world", "galileo_nano", "efficientnet_lite0"),
    MIXED,
)
