"""`python -m app.cli` is `billhook`."""

from app.cli.main import main

main()
