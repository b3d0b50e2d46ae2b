#!/usr/bin/env bash
# Runs what ComputeSDK asks of providers, which `test.sh` leaves out.
exec "$(dirname "$0")/test.sh" --long
