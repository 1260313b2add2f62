#!/usr/bin/env bash
# Builds the image, brings the composition up without Grafana, sees it learn and rank, and takes it down again.
#
# Takes docker or, where there is none, podman-compose with buildah. To say otherwise:
#   COMPOSE=podman-compose BUILD="buildah bud --layers" deploy/check.sh
# BUILD= (empty) takes the image that is there. TORCH_INDEX is passed on to the build.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${COMPOSE:-}" ]; then
  if docker compose version >/dev/null 2>&1; then
    COMPOSE="docker compose"
  elif command -v podman-compose >/dev/null; then
    COMPOSE=podman-compose
  else
    echo "deploy/check.sh needs docker compose or podman-compose" >&2
    exit 1
  fi
fi
if [ -z "${BUILD+set}" ]; then
  case $COMPOSE in
    docker*) BUILD="docker build" ;;
    *) BUILD="buildah bud --layers" ;;
  esac
  BUILD="$BUILD --build-arg TORCH_INDEX=${TORCH_INDEX:-}"
fi
[ -x .venv/bin/python ] || make .venv/.installed
COMPOSE=$COMPOSE BUILD=$BUILD exec .venv/bin/python -P tests/containers/bring_up.py
