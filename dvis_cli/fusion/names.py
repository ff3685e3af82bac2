"""Which tube of this horizon is which of the last: tubes are known by their members."""

from __future__ import annotations

from torch import Tensor


class TubeNames:
    """Numbers for tubes that last over horizons.

    A query keeps its row in its own view for the whole video, so a tube is the one that its members were in
    before. The first view's word counts first; a number is given to one tube of a horizon.
    """

    def __init__(self) -> None:
        self._name_of: dict[tuple[int, int], int] = {}  # (view, query) -> number of the tube it was last in
        self._given = 0

    def of(self, members: Tensor) -> list[int]:
        """The numbers of a horizon's tubes; new ones get new numbers, in their order.

        Args:
            members: (N, S) int64 of `FusedTubes`.
        """
        rows = [[(view, q) for view, q in enumerate(row) if q >= 0] for row in members.tolist()]
        names: dict[int, int] = {}
        for view in range(members.shape[1]):
            for n, row in enumerate(rows):
                known = next((self._name_of.get(member) for member in row if member[0] == view), None)
                if n not in names and known is not None and known not in names.values():
                    names[n] = known
        for n in range(len(rows)):
            if n not in names:
                names[n] = self._given
                self._given += 1
        # Who is no longer in a tube has lost its name to those who are.
        taken = set(names.values())
        self._name_of = {member: name for member, name in self._name_of.items() if name not in taken}
        self._name_of.update((member, names[n]) for n, row in enumerate(rows) for member in row)
        return [names[n] for n in range(len(rows))]
