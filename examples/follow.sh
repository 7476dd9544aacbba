#!/bin/sh
# Prints every snapshot by server-sent events, from the position in a file: sh follow.sh position
url=${BALANCE_URL:-http://127.0.0.1:3000}/api/balance/stream file=${1:?usage: sh follow.sh position}
# By a file of options: an argument would be visible in the list of processes.
token() { [ -z "$BALANCE_TOKEN" ] || printf 'header = "Authorization: Bearer %s"\n' "$BALANCE_TOKEN"; }
store() { printf '%s' "$1" >"$file.tmp" && mv "$file.tmp" "$file"; }
while :; do
  rm -f "$file.pipe" && mkfifo "$file.pipe" # a new one, which a curl of before does not write to
  # A quiet stream has a ping every 15 s: one that is silent for longer is lost.
  token | curl -K - -sN --speed-limit 1 --speed-time 40 "$url?$(cat "$file" 2>/dev/null)" >"$file.pipe" &
  while IFS= read -r line; do
    case $line in
      'id: '*) id=${line#id: } ;;
      'event: '*) event=${line#event: } ;;
      'data: '*) data=${line#data: } ;;
      '') # the end of an event
        case $event in
          connected)
            good=$(printf '%s' "$data" | sed -n 's/.*"goodUntil":\([0-9]*\).*/\1/p')
            case $data in *'"recovered":false'*) [ -s "$file" ] && echo "lost: $data" ;; esac
            [ -z "$good" ] || { store "epoch=${id%%:*}&after=$good" && break; }
            store "last_event_id=$id" ;;
          balance:snapshot) echo "$data" && store "last_event_id=$id" ;; esac ;;
    esac
  done <"$file.pipe"
  kill $! 2>/dev/null
  case $line in *'"code":"unauthorized"'* | *'"code":"forbidden"'*) # an error, without an end of line
    echo "refused: $line: set BALANCE_TOKEN to a token that may read" >&2
    rm -f "$file.pipe" && exit 1 ;;
  esac
  sleep 1
done
