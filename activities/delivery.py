"""Tells programs and webhooks something, once: each gives what went wrong in words, or None, and never raises for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import httpx2

DELIVERY_S: Final = 10.0
"""How long a program or a webhook may take."""


async def run_program(command: tuple[str, ...], text: str) -> str | None:
    """Give a program the text on standard input; what went wrong, or None."""
    try:
        program = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError as error:
        return f"cannot be started ({type(error).__name__})"
    try:
        await asyncio.wait_for(program.communicate(text.encode()), DELIVERY_S)
    except TimeoutError:
        return f"took longer than {DELIVERY_S:g} s"
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
    return f"ended with {program.returncode}" if program.returncode else None


async def post(http: httpx2.AsyncClient, url: str, text: str, headers: Mapping[str, str] | None = None) -> str | None:
    """Post the text as JSON; what went wrong, or None."""
    try:
        answer = await http.post(url, content=text.encode(), headers={"content-type": "application/json", **(headers or {})})
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        return type(error).__name__
    return f"answered {answer.status_code}" if answer.status_code >= 300 else None
