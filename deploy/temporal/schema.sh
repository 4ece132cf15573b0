#!/bin/sh
# Makes Temporal's databases and brings their schema up to the version of these tools. Every step may be repeated: what is done
# already stays as it is.
set -eu
SQL_PASSWORD=$(cat "$SQL_PASSWORD_FILE")
export SQL_PASSWORD
for database in temporal temporal_visibility; do
    case $database in
        temporal) schema=postgresql/v12/temporal ;;
        *) schema=postgresql/v12/visibility ;;
    esac
    temporal-sql-tool --database "$database" create-database
    temporal-sql-tool --database "$database" setup-schema --version 0.0
    temporal-sql-tool --database "$database" update-schema --schema-name "$schema"
done
