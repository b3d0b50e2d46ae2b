#!/usr/bin/env bash
# Runs what the Agents SDK asks of a session, which `test.sh` leaves out.
exec "$(dirname "$0")/test.sh" -m long
