#!/usr/bin/env bash
# Runs the self check of Inspect, which `test.sh` leaves out.
exec "$(dirname "$0")/test.sh" -m long
