#!/bin/sh
# Hands the database's password, which is mounted as a file, to the server, which reads it from its environment only.
set -eu
POSTGRES_PWD=$(cat "$POSTGRES_PWD_FILE")
export POSTGRES_PWD
exec /etc/temporal/entrypoint.sh
