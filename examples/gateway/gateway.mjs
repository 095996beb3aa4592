// An HTTP gateway: `node gateway.mjs ENDPOINTS [RETRIES]`.
//
// A request for /greeter/... goes to an instance of the service `greeter`, which it finds in the registry.
// A GET that failed before an answer began goes to another instance, RETRIES times at most.

import { once } from 'node:events'
import http from 'node:http'
import { pipeline } from 'node:stream/promises'
import { Client } from 'folkmoot'

const SERVICES = ['greeter']
// After five failures in a row the balancer leaves an instance out, so a request meets a dead one no oftener.
const [endpoints = '127.0.0.1:2379', retries = '5'] = process.argv.slice(2)

const client = await Client.connect({ endpoints })
const balancers = new Map()
for (const service of SERVICES) {
  balancers.set(service, await client.registry('example').balancer(service, { policy: 'p2c' }))
}
const agent = new http.Agent({ keepAlive: true })

/** Passes a request on, and answers when the response begins. */
function ask(request, { host, port }) {
  return new Promise((resolve, reject) => {
    const { connection, ...headers } = request.headers
    const { method, url: path } = request
    const upstream = http.request({ agent, host, port, method, path, headers }, resolve)
    upstream.on('error', reject)
    request.pipe(upstream)
  })
}

async function serve(request, response) {
  const balancer = balancers.get(request.url.split('/')[1])
  if (balancer === undefined) return response.writeHead(404).end('no such service\n')
  for (let attempt = 1; ; attempt++) {
    const pick = balancer.pick()
    let answer
    try {
      answer = await ask(request, pick.instance)
    } catch (error) {
      pick.fail()
      // Only what may be done twice is done twice. A GET has no body that is used up.
      if (request.method === 'GET' && attempt <= Number(retries)) continue
      return response.writeHead(502).end(`${pick.addr}: ${error.message}\n`)
    }
    const { connection, 'keep-alive': _, ...headers } = answer.headers
    headers['x-served-by'] = pick.instance.id
    headers['x-attempts'] = attempt
    response.writeHead(answer.statusCode, headers)
    await pipeline(answer, response)
    return pick.ok()
  }
}

const server = http.createServer((request, response) => {
  serve(request, response).catch((error) => {
    // Nobody to ask (NO_INSTANCES), or the answer broke off.
    if (response.headersSent) response.destroy()
    else response.writeHead(503).end(`${error.message}\n`)
  })
})
server.listen(0, '127.0.0.1')
await once(server, 'listening')
console.log(`listening on http://127.0.0.1:${server.address().port}`)

// The gateway drains as well: it accepts nothing new, and ends when what it has is answered.
await once(process, 'SIGTERM')
server.close()
server.closeIdleConnections()
await once(server, 'close')
agent.destroy()
await client.close()
console.log('stopped')
