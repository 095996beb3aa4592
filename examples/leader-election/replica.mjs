// A replica of the job, in Node: `node replica.mjs ENDPOINTS NAME`.
//
// Of all replicas one leads and does the job: once in a while it numbers a report. Each write goes through
// the transaction of the leadership, so that the store refuses it once somebody else leads.

import { setTimeout as sleep } from 'node:timers/promises'
import { Client, NotLeaderError, SessionLostError } from 'folkmoot'

const ELECTION = 'example/report/leader'
const LAST = 'example/report/last'
const [endpoints = '127.0.0.1:2379', name = 'node'] = process.argv.slice(2)
const client = await Client.connect({ endpoints })

/** Numbers reports, one after the other, until the leadership is lost. */
async function job(leadership) {
  for (;;) {
    const { kv } = await client.get(LAST)
    const number = kv ? Number(`${kv.value}`.split(' ')[0]) + 1 : 1
    await leadership.txn().put(LAST, `${number} ${name} ${leadership.token}`).commit()
    console.log(`report ${number} token=${leadership.token}`)
    await sleep(200)
  }
}

for (;;) {
  let token
  const session = await client.session({ ttl: 5 })
  try {
    console.log(`waiting ${name}`)
    await session.election(ELECTION).lead(name, (leadership) => {
      token = leadership.token
      console.log(`leading token=${token}`)
      return job(leadership)
    })
  } catch (error) {
    if (!(error instanceof SessionLostError || error instanceof NotLeaderError)) throw error
    // Somebody else may lead by now. What was held is gone; it begins again as a candidate.
    console.log(`refused token=${token} ${error.message} code=${error.code}`)
  } finally {
    await session.close()
  }
}
