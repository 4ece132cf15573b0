#!/bin/sh
# Makes a random password for each database into deploy/secrets, once: a file that is there stays as it is.
# The folder is closed to other users of this machine; the files are readable, since each container has a user of its own.
set -eu
cd "$(dirname "$0")"
mkdir -p secrets
chmod 700 secrets
for name in temporal_db_password holdfast_db_password; do
    if [ -s "secrets/$name" ]; then
        echo "deploy/secrets/$name is there already"
        continue
    fi
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n' > "secrets/$name"
    chmod 444 "secrets/$name"
    echo "deploy/secrets/$name made"
done
