# SPDX-License-Identifier: GPL-2.0-or-later
"""What Lacuna remembers between sessions, as typed properties over QgsSettings."""

from __future__ import annotations

from typing import Any

from qgis.core import QgsSettings

GROUP = "lacuna"
MAX_RECENT = 8


class Settings:
    """The settings of the plugin, all under the group `lacuna`."""

    def _get(self, key: str, default: Any, kind: type) -> Any:
        return QgsSettings().value(f"{GROUP}/{key}", default, type=kind)

    def _set(self, key: str, value: Any) -> None:
        QgsSettings().setValue(f"{GROUP}/{key}", value)

    @property
    def interpreter(self) -> str:
        """The Python that the analyst chose for the engine; empty to let Lacuna find one."""
        return self._get("interpreter", "", str)

    @interpreter.setter
    def interpreter(self, path: str) -> None:
        self._set("interpreter", path)

    @property
    def recent_checkpoints(self) -> list[str]:
        """Paths of checkpoints used before, the last one first."""
        found = QgsSettings().value(f"{GROUP}/recent_checkpoints", [])
        return [found] if isinstance(found, str) else list(found or [])

    def add_recent_checkpoint(self, path: str) -> None:
        """Put `path` first among the recent checkpoints."""
        others = [item for item in self.recent_checkpoints if item != path]
        self._set("recent_checkpoints", [path, *others][:MAX_RECENT])

    @property
    def device(self) -> str:
        """The device asked for: auto, cpu, cuda or cuda:N."""
        return self._get("device", "auto", str)

    @device.setter
    def device(self, name: str) -> None:
        self._set("device", name)

    @property
    def folder(self) -> str:
        """The folder in which a raster or a checkpoint was last chosen."""
        return self._get("folder", "", str)

    @folder.setter
    def folder(self, path: str) -> None:
        self._set("folder", path)

    @property
    def catalogue(self) -> str:
        """The address of the catalogue of checkpoints; empty for the project's own."""
        return self._get("catalogue", "", str)

    @catalogue.setter
    def catalogue(self, address: str) -> None:
        self._set("catalogue", address)

    @property
    def checkpoint_folder(self) -> str:
        """The folder for checkpoints of the analyst's own; empty for the one in the profile."""
        return self._get("checkpoint_folder", "", str)

    @checkpoint_folder.setter
    def checkpoint_folder(self, path: str) -> None:
        self._set("checkpoint_folder", path)

    def cost(self, key: str) -> tuple[float, float]:
        """Return seconds a tile and peak memory in bytes of an earlier run like this one (`key`), 0 for unknown."""
        return self._get(f"pace/{key}", 0.0, float), self._get(f"memory/{key}", 0.0, float)

    def set_cost(self, key: str, seconds_per_tile: float, memory: float) -> None:
        """Remember what a run took, for the estimate before the next one."""
        self._set(f"pace/{key}", seconds_per_tile)
        self._set(f"memory/{key}", memory)
