"""Finding what is due: who waits longest first, and nobody kept waiting by another's queue."""

from datetime import timedelta

from billing import Account
from sqlalchemy import insert

from app import models
from app.values import utcnow
from app.worker import inbox

FIELDS = {"type": "customer.updated", "created": 1, "livemode": False, "payload": "{}"}


async def wait(account: Account, keys: list[str], *, due_in: timedelta = timedelta()) -> None:
    """One event for each of `keys`, the first of them waiting longest."""
    now = utcnow() - timedelta(minutes=10)
    rows = [
        {
            **FIELDS,
            "event_id": f"evt_{key}_{place}",
            "key": key,
            "next_attempt_at": now + timedelta(milliseconds=place) + due_in,
        }
        for place, key in enumerate(keys)
    ]
    async with account.sessions.begin() as session:
        await session.execute(insert(models.StripeEvent), rows)


async def test_who_waits_longest_comes_first(account: Account) -> None:
    await wait(account, ["cus_c", "cus_a", "cus_b", "cus_a"])
    assert await account.due_keys(most=10) == ["cus_c", "cus_a", "cus_b"]
    assert await account.due_keys(most=2) == ["cus_c", "cus_a"]
    assert await account.due_keys(most=2, busy={"cus_c"}) == ["cus_a", "cus_b"]


async def test_what_is_put_off_is_not_due(account: Account) -> None:
    await wait(account, ["cus_a"], due_in=timedelta(hours=1))
    assert await account.due_keys(most=10) == []


async def test_those_behind_long_queues_are_found_too(account: Account) -> None:
    await wait(account, ["cus_heavy"] * 2 * inbox.WINDOW)
    await wait(account, ["cus_z", "cus_a"], due_in=timedelta(minutes=1))
    assert await account.due_keys(most=10) == ["cus_heavy", "cus_a", "cus_z"]
    assert await account.due_keys(most=10, busy={"cus_heavy"}) == ["cus_a", "cus_z"]


async def test_a_walk_is_bounded_and_goes_on_where_it_stopped(account: Account) -> None:
    put_off = [f"cus_{n:05d}" for n in range(2 * inbox.STEPS + 500)]
    await wait(account, put_off, due_in=timedelta(hours=1))
    await wait(account, ["cus_heavy"] * inbox.WINDOW)
    await wait(account, ["cus_02400"], due_in=timedelta(minutes=1))
    looks = [await account.due_keys(most=10, busy={"cus_heavy"}) for _ in range(4)]
    assert looks == [[], [], ["cus_02400"], []]
