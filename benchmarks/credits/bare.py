"""`bare.py PORT`: a FastAPI route that reads one row by its primary key, and nothing else that Billhook does."""

import gc
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from sqlalchemy import make_url

DSN = make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql").render_as_string(hide_password=False)
POOL = 10  # Billhook's default


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, asyncpg.Pool]]:
    async with asyncpg.create_pool(DSN, min_size=POOL, max_size=POOL) as pool:
        gc.freeze()
        yield {"pool": pool}


app = FastAPI(lifespan=lifespan)


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/accounts/{id}")
async def account(request: Request, id: UUID) -> dict[str, object]:
    row = await request.state.pool.fetchrow("SELECT free, paid, used FROM credit_accounts WHERE id = $1", id)
    if row is None:
        raise HTTPException(404)
    return {"has_credit": row["free"] + row["paid"] > 0, **row}


if __name__ == "__main__":
    # As `billhook serve` has it.
    uvicorn.run(app, port=int(sys.argv[1]), log_config=None, access_log=False, server_header=False)
