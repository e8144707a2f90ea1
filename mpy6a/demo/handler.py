"""The repeat handler of "user-create": the seeds' five steps, as anyone would write them.

`sidecars` run it as `python: "mpy6a.demo.handler:finish_user_create"`. Services A and B are at
$MPY6A_DEMO_USERS and $MPY6A_DEMO_SEARCH.
"""

from __future__ import annotations

import os

import httpx

import mpy6a

# So that the audit can tell which sidecar's handler it was; the services do not look at it.
AGENT = {"User-Agent": f"mpy6a-demo-handler/{os.environ.get('MPY6A_DEMO_AT', 'python')}"}

A = httpx.AsyncClient(base_url=os.environ.get("MPY6A_DEMO_USERS", "http://127.0.0.1:8001"), timeout=5, headers=AGENT)
B = httpx.AsyncClient(base_url=os.environ.get("MPY6A_DEMO_SEARCH", "http://127.0.0.1:8002"), timeout=5, headers=AGENT)


@mpy6a.handler("user-create")
async def finish_user_create(repeat: mpy6a.RepeatData) -> None:
    """Finish the user that was begun, or let it go."""
    session = repeat.session
    facts = {k: v for record in repeat.records for k, v in record.json().items()}  # 1
    if not facts:  # died between 1 and 2: nothing was begun
        return await session.delete()
    by = {"id": facts["id"]} if "id" in facts else {"nickname": facts["nickname"]}
    seen = await A.post("/users/find", json=by, headers=session.fence)  # 2, and fences A
    if seen.status_code == 404:
        return await session.delete()  # 3
    user = seen.raise_for_status().json()
    found = await B.put(f"/index/{user['id']}", json=user, headers=session.fence)  # 4
    found.raise_for_status()  # any error: the session repeats later
    await session.delete()  # 5
