"""Tools that can be undone, and hooks that say what the test wants."""

from __future__ import annotations

from holdfast import Ask, Deny, Effect, after, before, tool
from tests.integration.effects.till import TILL


async def take_back(order_id: str, result: str) -> str:
    """Undo `pay`."""
    await TILL.act(f"take back {order_id}: {result}")
    return f"{order_id} taken back"


@tool(effect=Effect.ONCE, key="order_id", undo=take_back)
async def pay(order_id: str) -> str:
    """Pay."""
    await TILL.act(f"pay {order_id}")
    return f"paid {order_id}"


def recall(order_id: str) -> None:
    """Undo `ship`."""
    TILL.did.append(f"recall {order_id}")


@tool(effect=Effect.IDEMPOTENT, undo=recall)
async def ship(order_id: str) -> str:
    """Ship."""
    TILL.did.append(f"ship {order_id}")
    return f"shipped {order_id}"


@tool(effect=Effect.ONCE, approve=True)
async def sign(order_id: str) -> str:
    """Sign; a person must say yes first, which holds a run up."""
    return "signed"


@before("ship")
def look_at_call(arguments: dict[str, str]) -> Ask | Deny | None:
    """Say what the test wants."""
    if isinstance(TILL.before, BaseException):
        raise TILL.before
    return TILL.before


@after("ship")
def look_at_result(result: str) -> Ask | Deny | None:
    """Say what the test wants."""
    if isinstance(TILL.after, BaseException):
        raise TILL.after
    return TILL.after
