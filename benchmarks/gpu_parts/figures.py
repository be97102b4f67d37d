"""The figures of one section, in figures.json and figures.txt of a folder; several processes may add one by one."""

import json
from pathlib import Path
from typing import Any

from stages.core.artifact import write_atomically


class Figures:
    """figures.json holds {section: {name: {"value", "unit"}}}; figures.txt a line per figure."""

    def __init__(self, folder: Path, section: str):
        self.folder, self.section = folder, section

    def add(self, name: str, value: float, unit: str) -> None:
        """Write one number at once."""
        self._write(name, {"value": float(f"{value:.6g}"), "unit": unit}, f"{value:,.4g} {unit}")

    def note(self, name: str, text: str) -> None:
        """Write one text at once."""
        self._write(name, {"value": text, "unit": ""}, text)

    def _write(self, name: str, entry: dict[str, Any], shown: str) -> None:
        path = self.folder / "figures.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        known.setdefault(self.section, {})[name] = entry
        write_atomically(path, json.dumps(known, indent=1).encode())
        with open(self.folder / "figures.txt", "a") as file:
            file.write(f"{self.section:9} {name:44} {shown}\n")
        print(f"{self.section}: {name}: {shown}", flush=True)
