#!/bin/sh
set -e

# A secret that is mounted is a file, often one that everybody may read, which the client would not take.
if [ -n "$FIREZONE_TOKEN" ] && [ -f "$FIREZONE_TOKEN" ]; then
  FIREZONE_TOKEN=$(cat "$FIREZONE_TOKEN")
  export FIREZONE_TOKEN
fi

# There is no systemd-resolved to ask in a container.
export FIREZONE_DNS_CONTROL="${FIREZONE_DNS_CONTROL:-etc-resolv-conf}"

exec firezone-headless-client "$@"
