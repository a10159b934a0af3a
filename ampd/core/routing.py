"""Which way a letter goes: a pure function of facts and time.

    direct   the recipient's card names nodes; any of them may be dialled

A relay will be a second kind of way, after a head start for the direct one (wire: "Delivery").
"""

from ampd.model.card import Card
from ampd.model.values import value


@value
class Direct:
    """To a node of the recipient itself."""

    node: bytes


Route = Direct


def routes(card: Card | None, here: bytes) -> list[Route]:
    """The ways to the holder of `card`, the best first; none if nothing is known of it."""
    if card is None or card.withdrawn:
        return []
    return [Direct(node) for node in card.nodes if node != here]
