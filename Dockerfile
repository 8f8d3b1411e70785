# The service and its worker. Build arguments only; no secrets: those come from the environment or from files (`NAME_FILE`).
FROM python:3.11-slim AS build
WORKDIR /app
COPY requirements/service.txt requirements/cuda.txt requirements/
# WITH_CUDA=0 leaves out CUDA's libraries; use it where pip is given an index with PyTorch's CPU build.
ARG WITH_CUDA=1
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements/service.txt \
    && if [ "$WITH_CUDA" = 1 ]; then /venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements/cuda.txt; fi
COPY pyproject.toml README.md ./
COPY ml_backend ml_backend
RUN /venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.11-slim
RUN useradd --create-home --uid 1001 backend && mkdir /data && chown backend /data
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 ML_BACKEND_HOST=0.0.0.0 ML_BACKEND_DATA_DIR=/data
# Downloaded weights outlive the container, too.
ENV TORCH_HOME=/data/cache/torch HF_HOME=/data/cache/huggingface
USER backend
WORKDIR /home/backend
VOLUME /data
# 0.0.0.0 is for others, too: without ML_BACKEND_USER and ML_BACKEND_PASSWORD the service does not start.
EXPOSE 9090
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9090/health', timeout=2)"]
CMD ["ml-backend", "serve"]
