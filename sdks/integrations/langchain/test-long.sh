#!/usr/bin/env bash
# Runs the standard tests of LangChain, which `test.sh` leaves out.
exec "$(dirname "$0")/test.sh" -m long
