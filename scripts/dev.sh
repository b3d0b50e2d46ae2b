#!/usr/bin/env bash
# The control plane for development: PostgreSQL, migrations, wrenn-cp. Ctrl-C ends all of it, the data stays.
#
# PostgreSQL runs from Debian's package, without Docker. Where a server answers at DATABASE_URL, that one is used. Else
# one of our own is started: in target/dev/postgres, or for root, whom PostgreSQL refuses to serve, as the user postgres
# in /var/lib/postgresql/wrenn-dev. If its port is taken it gets a free one, and wrenn-cp is told.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "dev: $*"; }

scripts/deps.sh build test
[[ -f .env ]] || { cp .env.example .env && say 'made .env from .env.example'; }

# The environment outranks the file, as it does for the programs.
setting() {
    local name=$1
    [[ -z ${!name:-} ]] || { printf '%s' "${!name}"; return; }
    sed -n "s/^$name=//p" .env | tail -n 1 | tr -d "\"'"
}

busy() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

bin=
data=
as_postgres=()
stop_postgres() {
    [[ -z $data ]] || "${as_postgres[@]}" "$bin/pg_ctl" -D "$data" -m fast -s stop || true
}

start_postgres() {
    bin=$(find /usr/lib/postgresql -path '*/bin/pg_ctl' | sort -V | tail -n 1)
    bin=${bin%/pg_ctl}
    local home=$PWD/target/dev/postgres port=$1
    if [[ $(id -u) == 0 ]]; then
        as_postgres=(setpriv --reuid=postgres --regid=postgres --clear-groups)
        home=/var/lib/postgresql/wrenn-dev
    fi
    "${as_postgres[@]}" mkdir -p "$home"
    if [[ ! -f $home/PG_VERSION ]]; then
        say "making a database cluster in $home"
        # Everybody knows this password; it is that of .env.example.
        local password
        password=$(mktemp)
        echo wrenn >"$password"
        chmod 0644 "$password"
        (cd / && "${as_postgres[@]}" "$bin/initdb" -D "$home" -U wrenn -A scram-sha-256 --pwfile="$password" -E UTF8 \
            --locale=C >/dev/null)
        rm "$password"
    fi
    if "${as_postgres[@]}" "$bin/pg_ctl" -D "$home" status >/dev/null 2>&1; then
        say "another \`make dev\` uses $home; end that one first" >&2
        exit 1
    fi
    while busy "$port"; do
        port=$((port + 1))
    done
    (cd / && "${as_postgres[@]}" "$bin/pg_ctl" -D "$home" -s -w -l "$home/log" \
        -o "-p $port -k $home -c listen_addresses=127.0.0.1" start) ||
        { say "PostgreSQL does not start; see $home/log" >&2; exit 1; }
    data=$home
    DATABASE_URL="postgres://wrenn:wrenn@127.0.0.1:$port/wrenn?sslmode=disable"
    export DATABASE_URL
    PGPASSWORD=wrenn psql -h 127.0.0.1 -p "$port" -U wrenn -d postgres -qtc \
        "SELECT 1 FROM pg_database WHERE datname = 'wrenn'" | grep -q 1 ||
        PGPASSWORD=wrenn createdb -h 127.0.0.1 -p "$port" -U wrenn wrenn
    say "PostgreSQL at $DATABASE_URL"
}

url=$(setting DATABASE_URL)
case $url in
    postgres://* | postgresql://*)
        if psql "$url" -qtc 'SELECT 1' >/dev/null 2>&1; then
            say 'using the PostgreSQL that answers at DATABASE_URL'
        else
            port=$(sed -n 's|^[a-z]*://[^/]*:\([0-9]*\)/.*|\1|p' <<<"$url")
            trap stop_postgres EXIT
            start_postgres "${port:-5432}"
        fi
        ;;
    *) say "no PostgreSQL asked for: DATABASE_URL is ${url:-not set}, so SQLite is used" ;;
esac

# All members, so that the same features are built as everywhere else.
scripts/cargo.sh build --locked --bin wrenn-cp
target/debug/wrenn-cp migrate
say 'the host agent goes into a terminal of its own: make dev-agent'
trap : INT TERM
target/debug/wrenn-cp &
server=$!
# The first Ctrl-C reaches the server, too; the second wait is for its end.
wait "$server" || wait "$server" || true
