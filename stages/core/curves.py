"""Training curves, written by DVCLive: <out>/plots/metrics/<name>.tsv, one row a logged step."""

from pathlib import Path

from stages.core import events


class Curves:
    """A history of scalars that a checkpoint can carry; `write` gives all of it to DVCLive at once.

    DVC deletes a stage's outputs before it runs the command, so a resumed run must be able to rewrite its past.
    """

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log(self, step: int, **scalars: float) -> None:
        """Remember scalars of a step; the same step may be logged in parts."""
        self.rows.append((step, scalars))
        events.table({"step": step, **scalars})

    def last(self) -> dict[str, float]:
        """The newest value of every name."""
        return {name: value for _, scalars in self.rows for name, value in scalars.items()}

    def write(self, out: Path) -> None:
        """Replace the folder `out` by the history and the last values (metrics.json)."""
        from dvclive import Live

        with Live(str(out), save_dvc_exp=False, dvcyaml=None, report=None, cache_images=False) as live:
            for step, scalars in self.rows:
                live.step = step
                for name, value in scalars.items():
                    live.log_metric(name, value)
            live.make_summary()
