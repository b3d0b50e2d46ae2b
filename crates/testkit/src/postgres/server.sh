#!/bin/sh
# Keeps a PostgreSQL server for tests: server.sh BIN BASE PORT
#
# Lives exactly as long as somebody holds the other end of its standard input open. That is the test process, so
# whatever kills the test, the server stops and BASE goes. If this script is killed instead, the server goes with it.
set -u
bin=$1 base=$2 port=$3

# PostgreSQL refuses to run as root; the package brings the user.
as=
if [ "$(id -u)" = 0 ]; then
    as='--reuid=postgres --regid=postgres --clear-groups'
    chown postgres "$base"
fi

# shellcheck disable=SC2086 # several words, or none
setpriv $as "$bin/initdb" -D "$base/data" -U wrenn -A trust -E UTF8 --locale=C --no-sync > "$base/initdb.log" 2>&1 ||
    echo "FATAL: initdb failed" >> "$base/initdb.log"

# A power cut may take this data, so nothing waits for the disk. mmap keeps all of it in BASE.
# shellcheck disable=SC2086
setpriv $as --pdeathsig INT "$bin/postgres" -D "$base/data" -p "$port" -k "$base" -c listen_addresses=127.0.0.1 \
    -c fsync=off -c synchronous_commit=off -c full_page_writes=off -c dynamic_shared_memory_type=mmap \
    -c max_connections=200 > "$base/server.log" 2>&1 &
server=$!

cat > /dev/null
# Fast shutdown: connections are cut.
kill -INT "$server"
wait "$server"
rm -rf "$base"
