#!/usr/bin/env bash
# Runs large outputs and values, which `test.sh` leaves out.
exec "$(dirname "$0")/test.sh" -m long
