// Puts by this client and by npm's etcd3, in turn, against the same servers: round trips a second.
//   node bench/put.mjs [rounds]
// Needs `npm install --no-save etcd3` and the built client.

import { Etcd3 } from 'etcd3'
import { ETCD, FOLKMOOT, Store } from '../build-test/test/support.js'

const rounds = Number(process.argv[2] ?? 3)
const MS = 3000

async function measure(inFlight, put) {
  const value = 'v'.repeat(256)
  let count = 0
  const until = performance.now() + MS
  const one = async (n) => {
    while (performance.now() < until) {
      await put(`bench/${n}`, value)
      count++
    }
  }
  const begun = performance.now()
  await Promise.all(Array.from({ length: inFlight }, (_, n) => one(n)))
  return (count * 1000) / (performance.now() - begun)
}

const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]

for (const program of [FOLKMOOT, ETCD]) {
  const store = await Store.start(program)
  const ours = store.client()
  const theirs = new Etcd3({ hosts: store.endpoint })
  for (const inFlight of [1, 64]) {
    const rates = { ours: [], theirs: [] }
    for (let round = 0; round < rounds; round++) {
      rates.ours.push(await measure(inFlight, (key, value) => ours.put(key, value)))
      rates.theirs.push(await measure(inFlight, (key, value) => theirs.put(key).value(value)))
    }
    const [a, b] = [median(rates.ours), median(rates.theirs)]
    console.log(
      `${program.split('/').pop()} in flight ${inFlight}: folkmoot ${a.toFixed(0)}/s etcd3 ${b.toFixed(0)}/s ratio ${(a / b).toFixed(2)}`,
    )
  }
  theirs.close()
  await ours.close()
  await store.remove()
}
