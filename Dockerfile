# A container of the command line, for a CPU:
#
#   docker build --tag medlsam .
#   docker run --rm --volume "$PWD:/data" --user "$(id -u):$(id -g)" medlsam \
#     segment --bank headneck --query patient.nii.gz --out results
#
# For an NVIDIA GPU, whose libraries come as packages (the host needs its driver and NVIDIA's container toolkit):
#
#   docker build --tag medlsam:cuda --build-arg EXTRAS=dicom,cuda .
#   docker run --rm --gpus all --volume "$PWD:/data" --user "$(id -u):$(id -g)" medlsam:cuda doctor
#
# Weights that are fetched at build time are in the image, which then needs no network: --build-arg WEIGHTS="" leaves them out.
ARG PYTHON=3.13
FROM python:${PYTHON}-slim

ARG EXTRAS=dicom
ARG WEIGHTS=litemedsam

COPY pyproject.toml README.md LICENSE NOTICE /source/
COPY medlsam_jax /source/medlsam_jax
COPY configs /source/configs
RUN python -m pip install --no-cache-dir "/source[${EXTRAS}]" && rm -rf /source

# Whoever runs it may write here: weights, banks and compiled programs; a volume keeps what is added.
ENV MEDLSAM_CACHE=/cache HOME=/tmp
RUN mkdir /cache && for name in ${WEIGHTS}; do medlsam weights get "$name" --quiet; done && chmod -R a+rwX /cache

# what NVIDIA's toolkit looks at; without a GPU nobody does
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /data
USER 1000:1000
ENTRYPOINT ["medlsam"]
CMD ["--help"]
