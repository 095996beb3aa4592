"""A replica of the job, in Python: ``replica.py ENDPOINTS NAME``.

Of all replicas one leads and does the job: once in a while it numbers a report. Each write goes through
the transaction of the leadership, so that the store refuses it once somebody else leads.
"""

import asyncio
import sys

import folkmoot

ELECTION = "example/report/leader"
LAST = "example/report/last"


async def job(client: folkmoot.Client, name: str, leadership: folkmoot.Leadership) -> None:
    """Number reports, one after the other, until the leadership is lost."""
    while True:
        last = await client.get(LAST)
        number = int(last.value.split()[0]) + 1 if last else 1
        await leadership.txn().put(LAST, f"{number} {name} {leadership.token}").commit()
        print(f"report {number} token={leadership.token}", flush=True)
        await asyncio.sleep(0.2)


async def main(endpoints: str, name: str) -> None:
    """Lead whenever it is this replica's turn."""
    async with folkmoot.Client(endpoints) as client:
        while True:
            token = None
            try:
                async with client.session(ttl=5) as session:
                    print(f"waiting {name}", flush=True)
                    async with session.election(ELECTION).campaign(name) as leadership:
                        token = leadership.token
                        print(f"leading token={token}", flush=True)
                        await job(client, name, leadership)
            except (folkmoot.SessionLost, folkmoot.NotLeader) as error:
                # Somebody else may lead by now. What was held is gone; it begins again as a candidate.
                print(f"refused token={token} {error}", flush=True)


asyncio.run(main(*sys.argv[1:3]))
