#!/bin/bash
# A build on a Ray cluster that runs already, started from any machine that has its dashboard's address.
#   pipelines/cluster/ray.sh http://head-node:8265 --recipe pipelines/lvis.yaml --out s3://my-bucket/shards/lvis
# All nodes need the package (pip install 'pics-compositing[data,s3]') in the same version, and reach photos and --out.
# The job runs on the head node; this terminal may be closed. The same command again goes on where it stopped.
# `ray job submit` is in ray[default]. On a machine of the cluster, `pics-data build ... --address auto` does as well.
set -euo pipefail

dashboard=$1
shift
# The recipes travel with the job; keys of an object store do as well, where they are set here.
environment=$(python3 - <<'PYTHON'
import json, os
names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")
print(json.dumps({"env_vars": {name: os.environ[name] for name in names if name in os.environ}}))
PYTHON
)
exec ray job submit --address "$dashboard" --working-dir . --runtime-env-json "$environment" \
  -- pics-data build "$@" --address auto
