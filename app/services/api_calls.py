"""Calls of our own API that wanted to change something for a user: kept for the customer's timeline."""

from sqlalchemy.ext.asyncio import AsyncSession

from app.models import ApiCall


async def record(
    session: AsyncSession, *, user_id: str, actor: str, method: str, route: str, status: int, request_id: str
) -> None:
    """`route` is the path's template, `status` that of the answer. Nothing of what the call carried is kept."""
    session.add(ApiCall(user_id=user_id, actor=actor, method=method, route=route, status=status, request_id=request_id))
