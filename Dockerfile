# CPU:   docker build -t patchmorph .
# CUDA:  docker build -t patchmorph:cuda --build-arg TORCH_INDEX=https://pypi.org/simple .
# Run:   docker run --rm -u "$(id -u):$(id -g)" -v "$PWD:/data" patchmorph register fixed.nii.gz moving.nii.gz -o results
# With a GPU, add: --gpus all
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

WORKDIR /opt/patchmorph
COPY constraints.txt ./
# Torch comes first, as its build decides between CPU and CUDA.
RUN grep '^torch==' constraints.txt > torch.txt \
    && pip install --no-cache-dir --index-url "$TORCH_INDEX" --requirement torch.txt
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir --constraint constraints.txt '.[report,formats,itk]'

# Caches of libraries go where any user may write.
ENV HOME=/tmp
USER 65534:65534
WORKDIR /data
ENTRYPOINT ["patchmorph"]
CMD ["--help"]
