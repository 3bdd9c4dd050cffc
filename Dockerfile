# adapeff: one image for submitting, migrating and workers.
#   docker build -t adapeff .                                  worker with the CUDA build of torch
#   docker build -t adapeff --build-arg EXTRAS=postgres .      no torch: submit and report only
FROM python:3.12-slim

ARG EXTRAS=worker,postgres,parquet,demo
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1

WORKDIR /src
COPY pyproject.toml README.md CHANGELOG.md LICENSE constraints.txt ./
COPY service service
COPY worker worker
COPY cli cli
COPY migrations migrations
RUN pip install --constraint constraints.txt ".[${EXTRAS}]" && rm -rf /src

RUN useradd --create-home adapeff && mkdir -p /artifacts /data && chown adapeff /artifacts
USER adapeff
WORKDIR /home/adapeff
ENTRYPOINT ["adapeff"]
CMD ["--help"]
