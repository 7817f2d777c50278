"""Requests that share a statement: each is answered, whatever becomes of the connection."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from app.errors import UnavailableError
from app.services.credits.charge_statement import CHARGE
from app.services.credits.coalescer import PLANS_KEPT, Coalescer
from app.services.credits.reader import LOOK


async def double(driver: Any, asked: Sequence[int]) -> Sequence[int | Exception]:
    if 0 in asked:
        await driver.execute("SELECT 1 / 0")
    rows = await driver.fetch("SELECT 2 * n AS twice FROM unnest($1::int[]) AS n", list(asked))
    return [row["twice"] for row in rows]


async def test_what_waits_is_answered_though_the_connection_cannot_even_be_given_up(engine: AsyncEngine) -> None:
    queue = Coalescer[int, int]("numbers", engine, double)

    def fail(*_: object) -> None:
        raise RuntimeError("the handler is closed")

    assert await queue.ask(4) == 8
    event.listen(engine.sync_engine.pool, "invalidate", fail)
    first = queue.ask(0)
    with pytest.raises(UnavailableError):
        await asyncio.wait_for(first, 10)
    event.remove(engine.sync_engine.pool, "invalidate", fail)
    assert await asyncio.wait_for(queue.ask(5), 10) == 10
    await queue.aclose()


async def test_who_gives_up_keeps_nobody_else_from_an_answer(engine: AsyncEngine) -> None:
    queue = Coalescer[int, int]("numbers", engine, double)
    answers = [queue.ask(n) for n in range(1, 4)]
    answers[1].cancel()
    assert [await answers[0], await answers[2]] == [2, 6]
    await queue.aclose()
    with pytest.raises(UnavailableError):
        queue.ask(1)


@pytest.mark.parametrize(
    ("statement", "types", "lookups"),
    [
        (
            CHARGE,
            "int[], uuid[], text[], text[], bytea[], int[], bigint[], bigint[], text[], text[], text[], bigint",
            {"(key = asked.key)", "(user_id = asked.user_id)"},
        ),
        (LOOK, "bytea[], text[], bigint", {"(user_id = asked.user_id)"}),
    ],
    ids=["charge", "look"],
)
async def test_a_plan_made_while_tables_are_empty_looks_up_what_grows(
    engine: AsyncEngine, statement: str, types: str, lookups: set[str]
) -> None:
    """Plans are kept for a minute, in which many may come."""
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        await driver.execute("ANALYZE")
        await driver.execute(PLANS_KEPT)
        await driver.execute(f"PREPARE kept ({types}) AS {statement}")
        nothing = ", ".join("NULL" for _ in types.split(","))
        plan = [row[0] for row in await driver.fetch(f"EXPLAIN (COSTS OFF) EXECUTE kept ({nothing})")]
        await connection.invalidate()
    told = "\n".join(plan)
    for lookup in lookups:
        assert f"Index Cond: {lookup}" in told, told
    for whole in ("Materialize", "Seq Scan", "Hash Join", "Merge"):
        assert whole not in told, told
