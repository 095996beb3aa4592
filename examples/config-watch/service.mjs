// A service that follows its configuration, in Node: `node service.mjs ENDPOINTS CACHE`.
//
// The configuration is typed and checked. A bad one is refused and the last good one stays; without the
// store the service starts with the last good one from the folder CACHE.

import { Client } from 'folkmoot'

/** What can be set; a schema of zod would do as well. */
function settings({ greeting, timeout_ms = 500 }) {
  if (typeof greeting !== 'string') throw new TypeError(`greeting must be a text, not ${greeting}`)
  if (!Number.isInteger(timeout_ms)) throw new TypeError(`timeout_ms must be a number, not ${timeout_ms}`)
  return { greeting, timeout_ms }
}

/** Refuses what has the right types and makes no sense. */
function sensible(_, { timeout_ms }) {
  if (timeout_ms < 1 || timeout_ms > 60_000) {
    throw new RangeError(`timeout_ms must be from 1 to 60000, not ${timeout_ms}`)
  }
}

const [endpoints = '127.0.0.1:2379', cacheDir] = process.argv.slice(2)
// Not `Client.connect`, which would wait for the store.
const client = Client.create({ endpoints })
const config = await client
  .config('example-shop')
  .typed(settings, { validate: sensible, cacheDir, initialTimeoutMs: 2000 })
for await (const event of config.watch()) {
  if (event.type === 'changed') {
    console.log(`using ${JSON.stringify(event.value)} from ${event.source}`)
  } else {
    console.log(`refused: ${event.error.message}`)
    console.log(`keeping ${JSON.stringify(config.current)}`)
  }
}
