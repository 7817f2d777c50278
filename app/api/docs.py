"""/docs: Swagger UI from our own files, so that it works offline and under a strict policy."""

from fastapi import APIRouter
from starlette.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

# Swagger UI sets its styles by script, which a strict policy allows; its icons are data: images.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

PAGE = """<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>Billhook API</title>
    <link rel="service-desc" type="application/json" href="openapi.json">
    <link rel="icon" href="data:,">
    <link rel="stylesheet" href="static/vendor/swagger-ui/swagger-ui.css">
    <script defer src="static/vendor/swagger-ui/swagger-ui-bundle.js"></script>
    <script defer src="static/docs/docs.js"></script>
  </head>
  <body>
    <main id="swagger-ui"></main>
  </body>
</html>
"""


@router.get("/docs")
async def show_docs() -> HTMLResponse:
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY})
