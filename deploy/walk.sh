#!/usr/bin/env bash
# An operator's walk through the life of one service: install it, give out tokens, save, look at it, back it up, kill it,
# restore it, prune it and upgrade its PostgreSQL. Each step checks its outcome and prints one line. The first step that
# fails ends the walk with status 1 and the reason.
#
#     deploy/walk.sh          # installs the service into an environment of its own, by pip
#     deploy/walk.sh DIR      # uses an installation: DIR/balance-server and DIR/python
#
# It works in a new folder below TMPDIR and on a free port of 127.0.0.1, and leaves nothing. OLD_PROGRAMS is the folder
# of the programs of PostgreSQL 15 for the last step. docs/operations.md explains each command.
set -euo pipefail

source=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
data=$work/data
service= saver= stream= url=
unset DATABASE_URL DATABASE_URL_FILE "${!BALANCE_@}" # the settings of another service
update='{"pid":7,"onchain":{"rlb":100074.99978,"usdt":7656.36},"onsite":{"rlb":101132.407627,"usd":7646.96}}'

print_step() { printf '%-8s %s\n' "$1" "$2"; }

fail() {
  echo "walk: $1" >&2
  tail -n 20 "$work/log" >&2
  exit 1
}

expect() { # WHAT FOUND WANTED
  [ "$2" = "$3" ] || fail "$1: found '$2' and not '$3'"
}

leave() {
  kill -9 $service $saver $stream 2>/dev/null || true
  for file in "$work"/*/postgresql/postmaster.pid; do
    [ ! -e "$file" ] || kill -QUIT "$(head -n 1 "$file")" 2>/dev/null || true
  done
  wait 2>/dev/null
  rm -rf "$work"
}
trap leave EXIT

balance() { "$programs/balance-server" "$@" 2>>"$work/log"; }

ask() { # NAME PATH [ARGUMENTS OF curl]: prints the status; the body is in the file `answer`
  curl -sS --noproxy '*' --max-time 20 -K "$work/$1" -o "$work/answer" -w '%{http_code}' "${@:3}" "$url$2"
}

save() { ask "$1" /api/balance/snapshot -H 'Content-Type: application/json' -d "$update"; }

value() { # EXPRESSION: prints a value of the JSON in the file `answer`
  "$programs/python" -c "import json; d = json.load(open('$work/answer')); print($1)"
}

total() {
  expect 'the list' "$(ask bot "/api/balance/snapshot?limit=1")" 200
  value 'd["pagination"]["total"]'
}

wait_for() { # WHAT CONDITION: up to 60 s
  for _ in $(seq 600); do
    if eval "$2"; then return; fi
    sleep 0.1
  done
  fail "$1 did not happen within 60 s"
}

create_token() { # NAME ROLE: its header is for curl, in a file, since arguments are visible in the list of processes
  token=$(balance token create "$1" --role "$2" --data-dir "$data") || fail "token create $1"
  (umask 077 && printf 'header = "Authorization: Bearer %s"\n' "$token" >"$work/$1")
}

start() {
  : >"$work/greeting"
  "$programs/balance-server" --port 0 --data-dir "$data" >"$work/greeting" 2>>"$work/log" &
  service=$!
  wait_for 'the start' "grep -q '^listening on ' '$work/greeting' || ! kill -0 $service 2>/dev/null"
  url=$(sed -n 's/^listening on //p' "$work/greeting")
  expect '/readyz' "$(ask nobody /readyz)" 200
}

stop() {
  kill "$service"
  wait "$service" || fail "the service ended with status $?"
  service=
}

save_until_killed() { # writes the id of each acknowledged snapshot as a line: "id":"…"
  while :; do
    curl -sf --noproxy '*' -K "$work/bot" -H 'Content-Type: application/json' -d "$update" \
      "$url/api/balance/snapshot" | grep -o '"id":"[^"]*"' >>"$work/acknowledged" || true
    sleep 0.02
  done
}

: >"$work/log" >"$work/nobody" >"$work/acknowledged" >"$work/events"
if [ $# -gt 0 ]; then
  programs=$1
else
  python3 -m venv "$work/venv"
  programs=$work/venv/bin
  "$programs/pip" install --quiet --disable-pip-version-check "$source" 2>>"$work/log" || fail 'pip install'
fi
print_step install "$("$programs/python" -c 'import balance; print("balance-server", balance.__version__)') in $programs"

create_token operator admin
start
create_token bot writer
balance token list --data-dir "$data" >"$work/tokens"
expect 'the tokens that are valid' "$(grep -c ' valid ' "$work/tokens")" 2
print_step token "operator (admin) before the first start, bot (writer) while it runs at $url"

expect 'a save without a token' "$(save nobody)" 401
wait_for 'the first save' '[ "$(save bot)" = 201 ]' # the service knows a new token within about a second
print_step save '401 without a token, 201 with one'

expect 'the number of snapshots' "$(total)" 1
grep -q '"rlb":100074.99978,' "$work/answer" || fail 'an amount is not exact'
print_step list 'one snapshot, exact to the last digit'

expect '/metrics without the role admin' "$(ask bot /metrics)" 403
expect '/metrics' "$(ask operator /metrics)" 200
grep -q '^balance_saves_total{outcome="saved"} 1.0$' "$work/answer" || fail 'the save is not in the metrics'
print_step metrics "$(grep -vc '^#' "$work/answer") values, with the save in balance_saves_total"

curl -sN --noproxy '*' -K "$work/bot" "$url/api/balance/stream" >"$work/events" &
stream=$!
wait_for 'the stream' "grep -q '^event: connected' '$work/events'"
expect 'a second save' "$(save bot)" 201
wait_for 'the event' "grep -q '^data: .*\"seq\":2,' '$work/events'"
print_step stream 'the second snapshot arrived as an event'

save_until_killed &
saver=$!
wait_for 'saves' "[ \$(wc -l <'$work/acknowledged') -ge 5 ]"
balance backup "$work/backup" --data-dir "$data" >"$work/written" || fail 'backup'
expect 'the mode of the backup' "$(stat -c %a "$work/backup" 2>/dev/null || stat -f %Lp "$work/backup")" 600
rows=$(sed -n 's/.*: \([0-9]*\) snapshots up to seq .*/\1/p' "$work/written")
print_step backup "$rows snapshots in one file, while the bot went on to save"

saved=$(wc -l <"$work/acknowledged")
wait_for 'more saves' "[ \$(wc -l <'$work/acknowledged') -gt $((saved + 5)) ]"
kill -9 "$service" "$(head -n 1 "$data/postgresql/postmaster.pid")"
kill "$saver" "$stream" 2>/dev/null || true
wait 2>/dev/null # without a line of bash for each that was killed
service= saver= stream=
start
expect 'the list' "$(ask bot '/api/balance/snapshot?limit=1000&order=seq')" 200
while read -r id; do
  grep -qF "$id" "$work/answer" || fail "the snapshot with $id was acknowledged and is lost"
done <"$work/acknowledged"
expect 'the feed' "$(ask bot /api/balance/latest)" 200
epoch=$(value 'd["feed"]["epoch"]') head=$(value 'd["feed"]["head"]')
print_step kill "service and PostgreSQL killed (-9): all $(wc -l <"$work/acknowledged" | tr -d ' ') acknowledged snapshots are there"

stop
data=$work/restored
balance restore "$work/backup" --data-dir "$data" >/dev/null || fail 'restore'
start
expect 'the number of restored snapshots' "$(total)" "$rows"
expect 'a save with the token of before' "$(save bot)" 201
expect 'the position of a client that saw more' "$(ask bot "/api/balance/feed?after=$head&epoch=$epoch")" 409
expect 'the last good position' "$(value 'd["reason"], d["goodUntil"]')" "diverged $rows"
print_step restore "$rows snapshots in a new folder; a client that saw more gets diverged, good until $rows"

now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
old=$(balance prune --before "$now" --dry-run --data-dir "$data" | sed -n 's/^would delete \([0-9]*\) of .*/\1/p')
[ "${old:-0}" -gt 0 ] || fail 'prune --dry-run finds nothing that is old'
expect 'the number after a dry run' "$(total)" $((rows + 1))
deleted=$(balance prune --before "$now" --data-dir "$data" | sed -n 's/^deleted \([0-9]*\) of .*/\1/p')
expect 'the number of deleted snapshots' "$deleted" "$old"
expect 'the number after a run' "$(total)" $((rows + 1 - old))
stop
print_step prune "a dry run and a run: $old of $((rows + 1)) snapshots deleted while the service ran"

old_programs=${OLD_PROGRAMS:-/usr/lib/postgresql/15/bin}
[ -x "$old_programs/initdb" ] || old_programs=$(dirname "$(command -v initdb || echo /nowhere/initdb)")
case $("$old_programs/postgres" --version 2>/dev/null) in *' 15.'*) ;; *) old_programs= ;; esac
if [ -z "$old_programs" ]; then
  print_step upgrade 'skipped: there are no programs of PostgreSQL 15 on this machine (OLD_PROGRAMS)'
  exit
fi
data=$work/old
"$programs/python" - "$data" "$old_programs" "$work/backup" >/dev/null 2>>"$work/log" <<'PYTHON' || fail 'the data of PostgreSQL 15'
"""Make data as an older version of the service has left them: the backup, in the embedded PostgreSQL 15."""
import sys
from pathlib import Path

from balance.cli import main
from balance.storage.embedded import EmbeddedPostgres

data, programs, backup = sys.argv[1:]
with EmbeddedPostgres.start(Path(data), Path(programs)) as postgres:
    sys.exit(main(["restore", backup, f"--database-url={postgres.url}"]))
PYTHON
balance upgrade --data-dir "$data" --old-programs "$old_programs" >/dev/null || fail 'upgrade'
start
expect 'the number of snapshots after an upgrade' "$(total)" "$rows"
expect 'a save after an upgrade' "$(save bot)" 201
stop
print_step upgrade "PostgreSQL 15 to $(cat "$data/postgresql/PG_VERSION"), with all $rows snapshots"
