# The sidecar, with nothing but Python's standard image and what requirements.lock pins (requirements-build.lock for what builds it).
#
#   docker build --tag directus-sync-sidecar .
#   docker run --read-only --tmpfs /tmp --volume data:/var/lib/sidecar --volume ./sidecar.yaml:/etc/sidecar/sidecar.yaml:ro …

FROM python:3.13-slim AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements.lock requirements-build.lock ./
RUN python -m venv /opt/sidecar \
    && /opt/sidecar/bin/pip install --require-hashes --requirement requirements.lock \
    && python -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes --requirement requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY sidecar ./sidecar
COPY plugins ./plugins
# What builds it is in no image that runs.
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /opt/sidecar/bin/pip install --no-deps --no-index /wheels/*.whl

FROM python:3.13-slim
# A number, so that Kubernetes can see that it is not root. It owns its data, and nothing that it runs.
RUN groupadd --gid 10001 sidecar \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin sidecar \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/sidecar /keys /run/vault \
    && install -d /etc/sidecar
COPY --from=build /opt/sidecar /opt/sidecar
COPY config/embedded.yaml config/directus.yaml config/redis.yaml config/vault.yaml config/reference.yaml /etc/sidecar/examples/
RUN printf '#!/bin/sh\nexec python -c "import urllib.request; urllib.request.urlopen(\\"http://127.0.0.1:8770/readyz\\", timeout=4)"\n' \
    > /usr/local/bin/sidecar-healthy && chmod 0755 /usr/local/bin/sidecar-healthy
ENV PATH=/opt/sidecar/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /var/lib/sidecar
USER 10001:10001
EXPOSE 8770
ENTRYPOINT ["sidecar"]
CMD ["serve", "--config", "/etc/sidecar/sidecar.yaml"]
