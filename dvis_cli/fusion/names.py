"""Which tube of this horizon is which of the last: tubes are known by their members."""

from __future__ import annotations

from torch import Tensor


class TubeNames:
    """Numbers for tubes that last over horizons.

    A query keeps its row in its own view for the whole video, so a tube is the one that its members were in
    before. The first view's query counts first; a number is given to one tube of a horizon. A new tube has the row
    of its query in the first view for a number, as without fusion, unless it has none or that number is taken.
    """

    def __init__(self, queries: int) -> None:
        """`queries`: of the first view, so that other numbers begin after its rows."""
        self._name_of: dict[tuple[int, int], int] = {}  # (view, query) -> number of the tube it was last in
        self._given: set[int] = set()
        self._next = queries

    def of(self, members: Tensor) -> list[int]:
        """The numbers of a horizon's tubes.

        Args:
            members: (N, S) int64 of `FusedTubes`.
        """
        rows = [[(view, q) for view, q in enumerate(row) if q >= 0] for row in members.tolist()]
        names = self._known(rows, members.shape[1])
        for n, row in enumerate(rows):
            if n not in names:
                names[n] = self._new(row)
        # Who is no longer in a tube has lost its name to those who are.
        taken = set(names.values())
        self._name_of = {member: name for member, name in self._name_of.items() if name not in taken}
        self._name_of.update((member, names[n]) for n, row in enumerate(rows) for member in row)
        return [names[n] for n in range(len(rows))]

    def _known(self, rows: list[list[tuple[int, int]]], views: int) -> dict[int, int]:
        """Tube to number, for those whose members were in a tube before."""
        names: dict[int, int] = {}
        for view in range(views):
            for n, row in enumerate(rows):
                known = next((self._name_of.get(member) for member in row if member[0] == view), None)
                if n not in names and known is not None and known not in names.values():
                    names[n] = known
        return names

    def _new(self, row: list[tuple[int, int]]) -> int:
        view, name = row[0]
        if view > 0 or name in self._given:
            name = self._next
            self._next += 1
        self._given.add(name)
        return name
