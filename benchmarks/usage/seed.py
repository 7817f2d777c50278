"""What is there before usage is measured: customers with a subscription, and a key to record their usage with."""

import time
from uuid import uuid4

from sqlalchemy import text

from app.db import create_engine, create_sessions, transaction
from app.services import identity

NAMES: list[str] = []
"""The users' ids, once they are seeded."""

_CUSTOMERS = text("""
INSERT INTO customers (id, stripe_id, livemode, created, synced_at, user_id)
SELECT gen_random_uuid(), 'cus_' || name, false, now, now, name
  FROM unnest(CAST(:names AS text[])) AS name, CAST(:now AS bigint) AS now
""")
_SUBSCRIPTIONS = text("""
INSERT INTO subscriptions (id, stripe_id, livemode, created, synced_at, customer_id, status, items, plan,
                           current_period_start, current_period_end, cancel_at_period_end, stripe_metadata)
SELECT gen_random_uuid(), 'sub_' || user_id, false, now, now, id, 'active', '[]', 'enterprise',
       now - 86400, now + 29 * 86400, false, '{}'
  FROM customers, CAST(:now AS bigint) AS now
""")


async def seed(database_url: str, *, customers: int) -> str:
    """Fill the database; answers a service key with the scope usage:write."""
    NAMES[:] = [f"user-{uuid4().hex[:12]}" for _ in range(customers)]
    engine = create_engine(database_url, pool_size=1)
    async with transaction(create_sessions(engine)) as session:
        now = int(time.time())
        await session.execute(_CUSTOMERS, {"names": NAMES, "now": now})
        await session.execute(_SUBSCRIPTIONS, {"now": now})
        _, key = await identity.create_key(session, name="benchmark", scopes=["usage:write"], actor="cli")
    await engine.dispose()
    return key
