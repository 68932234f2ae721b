# Not tried: no container engine was at hand. Pins stand in constraints.txt only.
#   docker build -t elephant .
#   docker build -t elephant-gpu --build-arg TORCH_INDEX=<index of CUDA wheels for torch> .
#   docker run --rm -p 8888:8888 -v $PWD/build:/home/reader/elephant/build elephant
FROM python:3.11-slim

# An index with the torch build that is wanted, e.g. the CUDA wheels; empty: pip's default.
ARG TORCH_INDEX=""

RUN apt-get update \
    && apt-get install -y --no-install-recommends git make chromium \
    && rm -rf /var/lib/apt/lists/*

# Notebooks run arbitrary code: never as root.
RUN useradd --create-home reader
USER reader
WORKDIR /home/reader/elephant
COPY --chown=reader . .

RUN make setup PYTHON=python3 TORCH_ARGS="${TORCH_INDEX:+--index-url $TORCH_INDEX}"

EXPOSE 8888
# The token stays on: JupyterLab prints it at the start.
CMD [".venv/bin/jupyter", "lab", "--ip=0.0.0.0", "--no-browser"]
