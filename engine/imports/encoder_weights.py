# SPDX-License-Identifier: GPL-2.0-or-later
"""The weights that the encoder of a new network starts from: those of a file, those that come with Lacuna, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import LacunaError
from ..jobs import NO_WEIGHTS
from ..models.encoders import MIXED, pretrained_encoders
from .encoder_file import load_encoder

_FOLDER = Path(__file__).resolve().parents[2] / "resources" / "encoders"
# Whose the bundled weights are, for the cards of what is made from them.
_CREDITS = {
    "dynamic_world": "Dynamic World (Apache-2.0): Brown et al. 2022, doi 10.1038/s41597-022-01307-4; produced for the "
    "Dynamic World Project by Google in partnership with National Geographic and the World Resources Institute",
    "galileo_nano": "Galileo-nano (MIT, Copyright (c) 2024 Presto Authors): Tseng et al. 2025, arXiv 2502.09356",
    "efficientnet_lite0": "EfficientNet-Lite0 (Apache-2.0, Copyright (c) 2020, ML Illustrated): Tan and Le 2019, arXiv "
    "1905.11946, Google",
}


@dataclass(frozen=True)
class EncoderSource:
    """Where an encoder's first weights come from.

    Attributes:
        files: path by name of the encoder; the name is "" for weights of any encoder.
        bundled: names of those that come with Lacuna.
        prefixed: whether tensors are handed over under the name of their encoder (`mixed`).
    """

    files: dict[str, str] = field(default_factory=dict)
    bundled: Sequence[str] = ()
    prefixed: bool = False

    @property
    def credits(self) -> str:
        """Whose the weights that come with Lacuna are, in a sentence; empty where none are used."""
        found = "; ".join(_CREDITS[name] for name in self.bundled)
        return f"Encoder weights: {found}." if found else ""

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors, under published names.

        Raises:
            LacunaError: codes of `load_encoder`.
        """
        found: dict[str, Tensor] = {}
        for name, path in self.files.items():
            start = f"{name}." if self.prefixed else ""
            found.update({start + key: value for key, value in load_encoder(path)[1].items()})
        return found


def encoder_source(asked: str | None, config: Mapping[str, Any]) -> EncoderSource:
    """Return where the encoder's weights come from.

    Args:
        asked: path of an encoder file; `none`; or None for those that come with Lacuna, where it has them.
        config: settings of the architecture.

    Raises:
        LacunaError: `bad-encoder-weights`, the file is another encoder's; codes of `load_encoder`; `bad-config`.
    """
    encoder = config.get("encoder")
    names = pretrained_encoders(encoder, config.get("encoder_options", {})) if isinstance(encoder, str) else []
    if asked == NO_WEIGHTS:
        return EncoderSource()
    files = {name: bundled_path(name) for name in names}
    if asked is None:
        return EncoderSource(files, names, encoder == MIXED)
    given = load_encoder(asked)[0].name
    if encoder == MIXED:
        _check_name(asked, given, names, required=True)
        others = [name for name in names if name != given]
        return EncoderSource({**files, given: asked}, others, True)
    _check_name(asked, given, [] if encoder is None else [encoder], required=False)
    return EncoderSource({given: asked})


def bundled_path(name: str) -> str:
    """Return the path of the weights of the encoder `name` that come with Lacuna.

    Raises:
        LacunaError: `file-missing`, they are not there.
    """
    path = _FOLDER / f"{name}.safetensors"
    if not path.is_file():
        text = f"The weights of {name} that come with Lacuna are missing: {path} does not exist."
        raise LacunaError("file-missing", text, "Install Lacuna again, or give --encoder-weights.")
    return str(path)


def _check_name(path: str, given: str, wanted: Sequence[str], *, required: bool) -> None:
    """Raise LacunaError for a file that says that it is of another encoder, or does not say what is `required`."""
    if given in wanted or (not given and not required) or (not wanted and not required):
        return
    found = f"the weights of {given}" if given else "weights of an encoder that it does not name"
    named = f"Choose that encoder (--encoder {given}), or give" if given and not required else "Give"
    raise LacunaError(
        "bad-encoder-weights",
        f"{path} holds {found}, the model's encoder is {' or '.join(wanted) or 'none that takes weights'}.",
        f"{named} the weights of {' or '.join(wanted) or 'another encoder'}.",
    )
