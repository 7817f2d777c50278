# One image, several roles: serve, worker, migrate. Read-only file systems and any user id are fine.

FROM python:3.13-slim AS build
ENV PIP_ROOT_USER_ACTION=ignore \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /build
COPY requirements.lock requirements-dev.lock ./
# uv comes from the lock file too; its entry ends with the comment that says who wants it.
RUN sed -n '/^uv==/,/^ *#/p' requirements-dev.lock > uv.txt \
    && pip install --no-cache-dir --no-deps --only-binary=:all: --require-hashes --requirement uv.txt \
    && uv venv /opt/billhook \
    && uv pip install --python /opt/billhook --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY migrations migrations
RUN uv build --wheel --build-constraint requirements-dev.lock --require-hashes --out-dir dist . \
    && uv pip install --python /opt/billhook --no-deps dist/*.whl

FROM python:3.13-slim
LABEL org.opencontainers.image.title="Billhook" \
      org.opencontainers.image.description="The billing service between your SaaS and Stripe" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH="/opt/billhook/bin:$PATH" \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /srv
COPY --from=build /opt/billhook /opt/billhook
COPY plans.yaml ./
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as request; request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
ENTRYPOINT ["billhook"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
