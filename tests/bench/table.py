"""One goal and what was reached, as a line of the table."""

from dataclasses import dataclass


@dataclass
class Row:
    """`bound` None: reported, and no goal."""

    name: str
    sense: str
    bound: float | None
    reached: float
    unit: str = ""
    note: str = ""

    @property
    def kept(self):
        if self.bound is None:
            return True
        return self.reached <= self.bound if self.sense == "<=" else self.reached >= self.bound

    def line(self):
        """Aligned with the others."""
        goal = "" if self.bound is None else f"{self.sense} {self.bound:g} {self.unit}".strip()
        word = "" if self.bound is None else "kept" if self.kept else "MISSED"
        reached = f"{self.reached:.3g}" if self.reached < 1000 else f"{self.reached:,.0f}"
        reached = f"{reached} {self.unit}".strip()
        return f"{self.name:46} {goal:>12}  {reached:>12}  {word:6}  {self.note}"
