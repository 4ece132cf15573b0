#!/bin/sh
# For each secret given as NAME_FILE=path: puts the file's text into NAME, then becomes the program.
set -eu
for name in PGPASSWORD OPENAI_API_KEY ANTHROPIC_API_KEY TEMPORAL_API_KEY; do
    eval "file=\${${name}_FILE:-}"
    if [ -n "$file" ]; then
        if [ ! -r "$file" ]; then
            echo "${name}_FILE names $file, which cannot be read" >&2
            exit 2
        fi
        value=$(cat "$file")
        export "$name=$value"
        unset "${name}_FILE"
    fi
done
unset value file name
exec "$@"
