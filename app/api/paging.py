"""Lists page by page, in Stripe's words: `limit`, `starting_after`, and a Link to what comes next."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends, Query, Request, Response

T = TypeVar("T")

MAX_ID_LENGTH = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The part of a list that is asked for; services give one row more than `limit` when there is more."""

    limit: int
    starting_after: str | None
    url: str
    response: Response

    def cut(self, rows: Sequence[T], id: Callable[[T], str]) -> Sequence[T]:
        """The rows of this page, with a `Link` header to the next one where `rows` shows that there is one."""
        page = rows[: self.limit]
        if len(rows) > self.limit:
            self.link(id(page[-1]))
        return page

    def link(self, last: str) -> None:
        """Point to the next page, which begins after the object `last`."""
        self.response.headers["Link"] = f'<{self.url.format(starting_after=last)}>; rel="next"'


async def get_page(
    request: Request,
    response: Response,
    limit: Annotated[int, Query(ge=1, le=100, description="How many to return")] = 20,
    starting_after: Annotated[
        str | None, Query(min_length=1, max_length=MAX_ID_LENGTH, description="Id of the last one of the page before")
    ] = None,
) -> Page:
    next_page = request.url.include_query_params(limit=limit).remove_query_params("starting_after")
    # Relative, as RFC 8288 allows: it holds behind every proxy and under every name.
    url = f"{next_page.path}?{next_page.query}&starting_after="
    return Page(
        limit=limit,
        starting_after=starting_after,
        url=url.replace("{", "{{").replace("}", "}}") + "{starting_after}",
        response=response,
    )


PageDep = Annotated[Page, Depends(get_page)]
