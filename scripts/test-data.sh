#!/usr/bin/env bash
# Makes what tests on real VMs need, in target/testdata: guest kernel and base image. Kept from run to run.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/fetch-kernel.sh target/testdata/kernels
scripts/build-image.sh minimal target/testdata/images
